"""One's own account: the second factor, and the end of every session."""

from __future__ import annotations

import base64
import io

import segno
from flask import Response

from coollm.api.sign_in import confirm_second_factor, has_second_factor, offer_second_factor
from coollm.console import sessions
from coollm.console.page import Page, Visit
from coollm.console.pages import signing_in
from coollm.core.errors import NotAuthenticated
from coollm.ledger.threads import in_thread


def page(visit: Visit) -> Response:
    """Who I am here."""
    return visit.render("account.html", title="Your account", has_factor=has_second_factor(visit.services, visit.principal.name))


def offer(visit: Visit) -> Response:
    """A secret for an authenticator, as text and as a picture that it reads. It is asked for once a code of it was given."""
    if has_second_factor(visit.services, visit.principal.name):
        return visit.go("/ui/account", "You have a second factor already: remove it first.")
    return _offered(visit)


def _offered(visit: Visit) -> Response:
    secret, address = offer_second_factor(visit.services, visit.principal.name)
    picture = io.BytesIO()
    segno.make(address, micro=False).save(picture, kind="svg", scale=4, border=2, xmldecl=False, svgns=True)
    data = f"data:image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}"
    return visit.render("second_factor.html", title="A second factor", secret=secret, picture=data)


def confirm(visit: Visit) -> Response:
    """The first code of it."""
    try:
        confirm_second_factor(visit.services, visit.principal.name, visit.field("code"))
    except NotAuthenticated as error:
        return visit.go("/ui/account", f"The second factor is not set up: {error.message}. Begin again.")
    visit.services.audit.tell(visit.principal, "console_second_factor", state="set")
    return visit.go("/ui/account", "From now on you are asked for a code as you sign in.")


def remove(visit: Visit) -> Response:
    """No second factor any more."""
    name = visit.principal.name
    if in_thread(lambda: visit.services.console_book.drop_second_factor(name)):
        visit.services.audit.tell(visit.principal, "console_second_factor", state="removed")
    return visit.go("/ui/account", "You are not asked for a code any more.")


def end_all(visit: Visit) -> Response:
    """Ends every session of one's own, this one too."""
    name = visit.principal.name
    ended = in_thread(lambda: visit.services.console_book.end_all_of(name))
    visit.services.audit.tell(visit.principal, "console_sign_out", sessions=ended)
    response = visit.go(signing_in.PATH)
    sessions.take(response)
    return response


PAGES = (
    Page("/ui/account", ("GET",), "viewer", page, "account"),
    Page("/ui/account/second-factor", ("POST",), "viewer", offer, "second_factor", is_dangerous=True),
    Page("/ui/account/second-factor/confirm", ("POST",), "viewer", confirm, "second_factor_confirm"),
    Page("/ui/account/second-factor/remove", ("POST",), "viewer", remove, "second_factor_remove", is_dangerous=True),
    Page("/ui/account/end-sessions", ("POST",), "viewer", end_all, "end_sessions"),
)
