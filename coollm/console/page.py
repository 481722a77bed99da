"""What a page of the console is, and what it sees of who looks at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec
import orjson
from flask import Request, Response, redirect, render_template
from markupsafe import Markup

from coollm.api.access import address_of
from coollm.api.http import Exchange
from coollm.console import ask
from coollm.console.ask import Answer, Application, Question
from coollm.core.types import AdminRole, Json
from coollm.identity.principal import Principal
from coollm.ledger.console_book import ConsoleSession
from coollm.ledger.threads import in_thread
from coollm.services import Services


class Page(msgspec.Struct, frozen=True):
    """An address under /ui. `needs` is the role that may see it, None for everybody; who sends a form of a dangerous one has to have said lately who he is.
    One with a `title` is in the menu; a `is_stream` is asked for by a page, which cannot be sent elsewhere.
    """

    path: str
    methods: tuple[str, ...]
    needs: AdminRole | None
    view: Callable[..., Response | str]
    name: str
    title: str = ""
    is_dangerous: bool = False
    is_stream: bool = False


class Visit:
    """One request for a page: who asks, and what can be asked on his behalf."""

    def __init__(self, application: Application, services: Services, request: Request) -> None:
        self._application = application
        self.services = services
        self.request = request
        self.address = address_of(services, Exchange(request.environ))
        self.session: ConsoleSession | None = None
        self.principal = Principal(kind="password", name="nobody", address=self.address)
        self.token = ""

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of an address of the admin API. Raises Refused."""
        return ask.decoded(self.begin(Question("GET", path, query)))

    def text(self, path: str) -> str:
        """What it answers as text. Raises Refused."""
        answer = self.begin(Question("GET", path, accept="application/yaml"))
        if answer.status >= 400:
            ask.decoded(answer)
        return ask.whole(answer).decode()

    def send(self, method: str, path: str, body: Json | bytes, **query: Any) -> Any:
        """Asks the admin API for a change. Raises Refused."""
        return ask.decoded(self.begin(Question(method, path, query, body if isinstance(body, bytes) else orjson.dumps(body))))

    def begin(self, question: Question) -> Answer:
        """Asks, and does not wait for the body."""
        return ask.begin(self._application, self.request.environ, self.principal, question)

    def field(self, name: str) -> str:
        """What was written into a field of the form."""
        return self.request.form.get(name, "").strip()

    def may(self, role: AdminRole) -> bool:
        """Whether who asks has this role, or a higher one."""
        return self.principal.may(role)

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page. What was to be told with the next one is told with it."""
        notice = ""
        if self.session is not None and self.session.notice:
            notice, session = self.session.notice, self.session
            in_thread(lambda: self.services.console_book.set(session, notice=""))
        text = render_template(template, visit=self, notice=notice, token=self._token, **values)
        return Response(text, status=status, mimetype="text/html")

    def _token(self) -> Markup:
        """The field that goes with every form: it shows that a page of this session has sent it."""
        session = self.session
        return Markup('<input type="hidden" name="form_token" value="{}">').format(session.form_token) if session is not None else Markup("")

    def go(self, path: str, notice: str = "") -> Response:
        """To another page, which tells what was done."""
        if notice and self.session is not None:
            session = self.session
            in_thread(lambda: self.services.console_book.set(session, notice=notice))
        return redirect(path, 303)  # type: ignore[return-value]  # Flask's Response is Werkzeug's


def quoted(text: str) -> str:
    """A part of an address."""
    return quote(text, safe="")
