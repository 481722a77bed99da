"""What attackers try on a console: scripts in names, forms from elsewhere, frames, fixed sessions, ways out, and rights that somebody has not."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import pytest
import requests

from coollm.console.app import PAGES
from coollm.console.page import Page
from coollm.console.pages.signing_in import safe
from coollm.core.types import ADMIN_ROLES
from tests.conftest import GatewayHandle
from tests.console.visitor import ADMIN_KEY, Visitor

NASTY = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{7*7}}"
ALL = [(page, method) for page in PAGES for method in page.methods]


def path_of(page: Page) -> str:
    return re.sub(r"<\w+>", "nothing", page.path)


def name_of(item: Any) -> str:
    return item.name if isinstance(item, Page) else str(item)


@pytest.fixture(scope="module")
def visitors(gateway: GatewayHandle, keys: dict[str, str]) -> dict[str, Visitor]:
    found = {}
    for role in ADMIN_ROLES:
        found[role] = Visitor(gateway)
        assert found[role].sign_in(f"the-{role}", keys[role]).status_code == 303
    return found


@pytest.mark.parametrize(("page", "method"), ALL, ids=name_of)
def test_who_may_see_which_page(gateway: GatewayHandle, visitors: dict[str, Visitor], page: Page, method: str) -> None:
    """Nobody, and each role, at every page: a page without a rule does not exist, and one that is new is tested by its row."""
    nobody = Visitor(gateway)
    reply = nobody.post(path_of(page)) if method == "POST" else nobody.get(path_of(page))
    if page.needs is None:
        assert reply.status_code < 500
        return
    assert reply.status_code == (401 if page.is_stream else 303)
    assert page.is_stream or reply.headers["location"].startswith("/ui/sign-in")
    for role in ADMIN_ROLES:
        if page.name in ("sign_out", "end_sessions"):
            continue
        visitor = visitors[role]
        visitor.get("/ui/account")
        if ADMIN_ROLES.index(role) < ADMIN_ROLES.index(page.needs):
            reply = visitor.post(path_of(page)) if method == "POST" else visitor.get(path_of(page))
            assert reply.status_code == 403, role
            assert "This needs the role" in visitor.wrong, role
        elif not page.is_stream and method == "GET":
            assert visitor.get(path_of(page)).status_code in (200, 404), role


@pytest.mark.parametrize(("page", "method"), [(page, method) for page, method in ALL if method == "POST" and page.needs], ids=name_of)
def test_forms_from_elsewhere_do_nothing(gateway: GatewayHandle, visitors: dict[str, Visitor], page: Page, method: str) -> None:
    visitor = visitors["admin"]
    visitor.get("/ui/account")
    good = visitor.token
    for headers, token in (
        ({"sec-fetch-site": "cross-site"}, good),
        ({"sec-fetch-site": "same-site"}, good),
        ({"sec-fetch-site": None, "origin": "https://evil.example"}, good),
        ({"sec-fetch-site": None, "origin": "null"}, good),
        ({"sec-fetch-site": None, "origin": f"{gateway.url}.evil.example"}, good),
        ({"sec-fetch-site": None, "origin": gateway.url.replace("http://", "http://evil.example@")}, good),
        ({"sec-fetch-site": None, "origin": None}, good),
        ({}, ""),
        ({}, "x" * 43),
        ({}, good[:-1]),
    ):
        reply = visitor.post(path_of(page), {"form_token": token, "id": "made-by-evil"}, **headers)
        assert reply.status_code == 403, (headers, token)
    listed = requests.get(f"{gateway.url}/admin/v1/clients", headers={"authorization": f"Bearer {ADMIN_KEY}"}, timeout=10).text
    assert "made-by-evil" not in listed


def test_a_form_token_is_of_one_session(gateway: GatewayHandle, visitors: dict[str, Visitor], root: Visitor) -> None:
    mine = visitors["admin"]
    mine.get("/ui/account")
    assert root.post("/ui/clients", {"form_token": mine.token, "id": "of-another"}).status_code == 403


def test_a_sign_in_from_elsewhere_is_refused(gateway: GatewayHandle) -> None:
    """Else somebody could be signed in as somebody else without noticing."""
    foreign: tuple[dict[str, Any], ...] = ({"sec-fetch-site": None, "origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"})
    for headers in foreign:
        visitor = Visitor(gateway)
        fields = {"name": "root", "password": "correct horse battery"}
        assert visitor.session.post(f"{gateway.url}/ui/sign-in", data=fields, headers=headers, timeout=10, allow_redirects=False).status_code == 403
    reply = requests.post(f"{gateway.url}/ui/sign-in", data={"name": "root", "password": "x"}, timeout=10)
    assert reply.status_code == 403, "who does not say where a form is from is no browser"


def test_pages_cannot_be_framed_and_run_no_script_but_ours(gateway: GatewayHandle, root: Visitor) -> None:
    for path in ("/ui/", "/ui/sign-in", "/ui/nothing", "/ui/clients", "/ui/usage.csv", "/ui"):
        headers = root.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "*" not in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"


class Scripts(HTMLParser):
    """What a page would run: scripts without an address of ours, handlers in attributes, addresses that are scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        told = dict(attributes)
        if tag == "script" and not (told.get("src") or "").startswith("/ui/static/"):
            self.found.append(tag)
        self.found += [
            name for name, value in attributes if name.startswith("on") or name == "style" or (value or "").strip().lower().startswith("javascript:")
        ]
        if tag == "img" and told.get("src") == "x":
            self.found.append("img")


def scripts_of(text: str) -> list[str]:
    parser = Scripts()
    parser.feed(text)
    return parser.found


def test_names_are_words_and_no_scripts(gateway: GatewayHandle, root: Visitor) -> None:
    root.get("/ui/clients")
    assert root.post("/ui/clients", {"id": "nasty", "description": NASTY}).status_code == 200
    assert root.post("/ui/clients", {"id": NASTY}).status_code == 400
    assert scripts_of(root.page) == []
    assert "&lt;script&gt;" in root.page
    gateway.chat(NASTY)
    gateway.chat(f"gpt-sim~{NASTY}")
    Visitor(gateway).sign_in(NASTY, NASTY)
    for path in (
        "/ui/",
        "/ui/clients",
        "/ui/clients/nasty",
        "/ui/requests",
        "/ui/requests?client=" + quote(NASTY),
        "/ui/requests/" + quote(NASTY, safe=""),
        "/ui/audit?text=" + quote(NASTY),
        "/ui/audit",
        "/ui/usage?by=model",
        "/ui/usage?by=" + quote(NASTY),
        "/ui/providers/" + quote(NASTY, safe="") + "/x",
        "/ui/clients/" + quote(NASTY, safe=""),
        "/ui/sign-in?next=" + quote(NASTY),
        "/ui/" + quote(NASTY, safe=""),
    ):
        text = root.get(path).text
        assert scripts_of(text) == [], path
    root.get("/ui/configuration/edit")
    assert scripts_of(root.post("/ui/configuration/check", {"text": f"server: {NASTY}"}).text) == []
    assert scripts_of(root.post("/ui/configuration/apply", {"text": f'server: {{"{NASTY}": 1}}'}).text) == []


@pytest.mark.parametrize(
    "place",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/ui/..//evil.example",
        "/ui//evil.example",
        "/ui/\nset-cookie: x=1",
        "/ui/?next=//evil.example",
        "javascript:alert(1)",
        "/uievil",
        "/admin/v1/config",
        "/ui/" + "x" * 5000,
        "",
    ],
)
def test_no_way_leads_elsewhere(gateway: GatewayHandle, place: str) -> None:
    assert safe(place) == "/ui/"
    reply = Visitor(gateway).sign_in(next=place)
    assert (reply.status_code, reply.headers["location"]) == (303, "/ui/")


def test_ways_within_are_kept() -> None:
    for place in ("/ui/", "/ui/clients/a-b.c", "/ui/requests?client=app&failed=1", "/ui/usage?by=model&start=2026-01-01"):
        assert safe(place) == place


def test_no_header_makes_somebody_an_administrator(gateway: GatewayHandle) -> None:
    for headers in (
        {"coollm.console": "x"},
        {"coollm-console": "x"},
        {"x-coollm-actor": "root"},
        {"cookie": "coollm_console=" + "a" * 43},
        {"authorization": f"Bearer {ADMIN_KEY}"},
    ):
        reply = requests.get(f"{gateway.url}/ui/clients", headers=headers, timeout=10, allow_redirects=False)
        assert reply.status_code == 303, headers
    reply = requests.get(f"{gateway.url}/admin/v1/clients", headers={"cookie": "coollm_console=" + "a" * 43}, timeout=10)
    assert reply.status_code == 401


def test_a_cookie_of_the_console_is_no_key_of_the_api(gateway: GatewayHandle, root: Visitor) -> None:
    for headers in ({"cookie": f"coollm_console={root.cookie}"}, {"authorization": f"Bearer {root.cookie}"}):
        assert requests.get(f"{gateway.url}/admin/v1/clients", headers=headers, timeout=10).status_code == 401


def test_what_is_too_large_or_broken_gets_a_page_and_no_traceback(gateway: GatewayHandle, root: Visitor) -> None:
    root.get("/ui/configuration/edit")
    large = root.post("/ui/configuration/check", {"text": "x" * (5 * 1024 * 1024)})
    assert large.status_code == 413
    assert "too large" in large.text
    assert root.get("/ui/requests/%ff%fe").status_code in (400, 404)
    assert root.get("/ui/static/x/../../app.py").status_code in (303, 404)
    assert root.get("/ui/static/x/console.html").status_code == 404
    assert root.get("/ui/usage?start=99999-99-99&end=x").status_code == 200
    assert root.get("/ui/usage?start=2026-02-01&end=2026-01-01").status_code == 400
    assert root.session.put(f"{gateway.url}/ui/clients", timeout=10).status_code == 405

    def pieces() -> Any:
        yield b"name=root"

    sent = root.session.post(f"{gateway.url}/ui/sign-in", data=pieces(), headers={"origin": gateway.url}, timeout=10)
    assert sent.status_code == 411
    assert "Traceback" not in gateway.words()
    assert not [line for line in gateway.log() if line["message"] == "a page of the console failed"]
