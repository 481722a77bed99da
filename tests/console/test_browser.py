"""The console in Debian's Chromium: every page for every role, by day and by night, on a phone and on a desk; every form by keyboard and mouse; and no complaint."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyotp
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.browser import Watched, chromium
from tests.conftest import GatewayHandle, wait_for
from tests.console.visitor import PASSWORD, in_ledger

PLACES = {
    "overview": "/ui/",
    "usage": "/ui/usage",
    "requests": "/ui/requests",
    "providers": "/ui/providers",
    "clients": "/ui/clients",
    "client": "/ui/clients/app",
    "configuration": "/ui/configuration",
    "operations": "/ui/operations",
    "audit": "/ui/audit",
    "account": "/ui/account",
    "playground": "/ui/playground",
    "configuration-edit": "/ui/configuration/edit",
}
OF_OPERATORS, OF_ADMINS = ("playground",), ("configuration-edit",)
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def traffic(gateway: GatewayHandle, keys: dict[str, str]) -> None:
    for number in range(24):
        model = ("gpt-sim~tokens=40", "claude-sim~tokens=20", "gemini-sim", "gpt-sim~status=500")[number % 4]
        assert gateway.chat(model, stream=number % 2 == 0).content
    wait_for(lambda: in_ledger(gateway, "SELECT count(*) FROM usage")[0][0] >= 24, 10, "the requests in the ledger")


def sign_in(seen: Watched, gateway: GatewayHandle, name: str, password: str) -> None:
    """By keyboard alone: the first field has the focus."""
    page = seen.page
    page.goto(f"{gateway.url}/ui/")
    page.wait_for_function("document.activeElement.id === 'name'")
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type(password)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{gateway.url}/ui/")


def faults_of(page: Page) -> list[Any]:
    found = Axe().run(page).response
    return [(one["id"], [node["target"] for node in one["nodes"]][:3]) for one in found["violations"] if one["impact"] in SERIOUS]


@contextmanager
def window(browser: Browser, gateway: GatewayHandle, width: int = 1440, **options: Any) -> Iterator[Watched]:
    """A browser that has kept nothing. What is done in it leaves no complaint, and asks for nothing elsewhere."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    seen = Watched(context)
    yield seen
    assert seen.complaints == []
    assert [one for one in seen.requests if not one.startswith((gateway.url, "data:"))] == []
    context.close()


ADMINS = [("admin", width, scheme) for width in (360, 1440) for scheme in ("light", "dark")]


@pytest.mark.parametrize(
    ("role", "width", "scheme"), [("viewer", 360, "dark"), ("viewer", 1440, "light"), ("operator", 360, "light"), ("operator", 1440, "dark"), *ADMINS]
)
def test_every_page(browser: Browser, gateway: GatewayHandle, keys: dict[str, str], role: str, width: int, scheme: str) -> None:
    with window(browser, gateway, width, color_scheme=scheme) as seen:
        seen.page.goto(f"{gateway.url}/ui/sign-in")
        assert faults_of(seen.page) == []
        sign_in(seen, gateway, f"the-{role}", keys[role])
        for name, place in PLACES.items():
            if (name in OF_OPERATORS and role == "viewer") or (name in OF_ADMINS and role != "admin"):
                assert not seen.page.locator(f'a[href="{place}"]').count(), "nothing leads to what is not for this role"
                continue
            seen.page.goto(gateway.url + place)
            assert not seen.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"), f"{name} is wider than the window"
            if role == "admin":
                seen.page.wait_for_timeout(150)
                assert faults_of(seen.page) == [], name
                seen.picture(f"console-{name}-{scheme}-{width}")


def test_the_overview_stays_fresh(browser: Browser, gateway: GatewayHandle) -> None:
    with window(browser, gateway) as seen:
        sign_in(seen, gateway, "root", PASSWORD)
        assert seen.page.locator("#chart-traffic canvas").count() == 1
        assert "the last: Requests" in (seen.page.locator("#chart-traffic").get_attribute("aria-label") or "")
        identity = gateway.chat("gpt-sim~tokens=3").headers["x-request-id"]
        seen.page.locator(f'#live-requests a[href="/ui/requests/{identity}"]').wait_for(timeout=15_000)
        seen.page.click(f'#live-requests a[href="/ui/requests/{identity}"]')
        assert seen.page.locator("h2", has_text="What was tried").count() == 1


def test_the_menu_on_a_phone(browser: Browser, gateway: GatewayHandle) -> None:
    with window(browser, gateway, 360, has_touch=True) as seen:
        sign_in(seen, gateway, "root", PASSWORD)
        menu = seen.page.locator(".menu-button")
        assert (menu.get_attribute("aria-expanded"), seen.page.locator("#menu").is_visible()) == ("false", False)
        menu.tap()
        assert (menu.get_attribute("aria-expanded"), seen.page.locator("#menu").is_visible()) == ("true", True)
        seen.page.locator("#menu a", has_text="Clients").tap()
        seen.page.wait_for_url("**/ui/clients")


def test_the_forms(browser: Browser, gateway: GatewayHandle) -> None:
    with window(browser, gateway) as seen:
        page = seen.page
        sign_in(seen, gateway, "root", PASSWORD)

        page.goto(f"{gateway.url}/ui/usage")
        page.select_option("#by", "model")
        page.locator("#result th", has_text="Model").wait_for()
        assert "by=model" in page.url, "the address of what is seen can be sent to somebody"
        assert page.locator("[data-chart] canvas").count() == 1

        page.goto(f"{gateway.url}/ui/clients")
        page.fill("#id", "by-browser")
        page.fill("#budget_usd", "3")
        page.click("text=Make the client and show its key")
        key = page.locator("#key").inner_text()
        assert re.fullmatch(r"\S{20,}", key)
        assert faults_of(page) == []
        page.click("text=To the client")
        page.fill("#req_per_min", "42")
        page.click("text=Set them")
        assert "The limits hold" in page.locator(".notice").inner_text()
        assert page.input_value("#req_per_min") == "42"

        in_ledger(gateway, "UPDATE console_sessions SET confirmed_ms = 0")
        page.click("text=Make it and show it")
        assert page.locator("h1").inner_text() == "Confirm who you are"
        assert faults_of(page) == []
        page.wait_for_function("document.activeElement.id === 'confirm_password'")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        page.locator("#key").wait_for()
        assert page.locator("#key").inner_text() != key
        page.click("text=To the client")
        page.fill("#again", "by-browser")
        page.get_by_role("button", name="Remove it").click()
        assert "is removed" in page.locator(".notice").inner_text()

        page.goto(f"{gateway.url}/ui/playground")
        page.fill("#model", "openai:gpt-sim~tokens=12")
        page.fill("#question", "hello?")
        page.click("text=Ask")
        page.locator("#answer-facts", has_text="first token after").wait_for(timeout=15_000)
        assert len(page.locator("#answer").inner_text().split()) >= 3
        page.fill("#model", "no-such:model")
        seen.complaints.clear()
        page.click("text=Ask")
        page.locator("#answer-facts", has_text="It failed").wait_for()
        seen.complaints.clear()  # the browser says of every status above 400 that it is one

        page.goto(f"{gateway.url}/ui/configuration")
        page.fill("#find", "webui")
        assert page.locator("#values-table tbody tr:visible").count() >= 5
        assert page.locator("#values-table tbody tr:visible", has_text="llm_providers[0].id").count() == 0


def test_the_other_forms(browser: Browser, gateway: GatewayHandle, keys: dict[str, str]) -> None:
    """As an operator, then as an administrator."""
    with window(browser, gateway, 360) as seen:
        page = seen.page
        sign_in(seen, gateway, "the-operator", keys["operator"])
        page.goto(f"{gateway.url}/ui/clients/app")
        page.fill("#concurrent", "50")
        page.click("text=Set them")
        assert "The limits hold" in page.locator(".notice").inner_text()
        page.goto(f"{gateway.url}/ui/providers")
        page.locator("text=Test with a live request").first.click()
        page.locator("h2", has_text="Tested just now").wait_for()
        page.goto(f"{gateway.url}/ui/requests")
        page.check("#failed")
        page.click("text=Show")
        page.wait_for_url("**failed=1**")
        assert page.locator("tbody .state.ok").count() == 0
        page.locator("tr", has_text="gpt-sim~status=500").locator("a").first.click()
        assert page.locator("h2", has_text="Where it would go now").count() == 1
        assert faults_of(page) == []
        page.goto(f"{gateway.url}/ui/operations")
        page.click("text=Back up now")
        assert "Ordered: coollm backup create" in page.locator(".notice").inner_text()
        page.locator("#orders-list .state", has_text="waits").first.wait_for()
        page.goto(f"{gateway.url}/ui/account")
        page.click("text=Set it up")
        assert page.locator("img.code").evaluate("(image) => image.complete && image.naturalWidth > 50")
        assert faults_of(page) == []
        page.fill("#code", pyotp.TOTP(page.locator("code.key").inner_text()).now())
        page.click("text=Turn it on")
        assert "From now on" in page.locator(".notice").inner_text()
        page.click("text=Remove it")
        assert "not asked for a code any more" in page.locator(".notice").inner_text()
        page.click("text=Sign out")
        page.wait_for_url("**/ui/sign-in")

        sign_in(seen, gateway, "the-admin", keys["admin"])
        page.goto(f"{gateway.url}/ui/clients")
        page.fill("#id", "on-the-phone")
        page.click("text=Make the client and show its key")
        page.click("text=To the client")
        page.fill("#description", "made on a phone")
        page.get_by_role("button", name="Change it").click()
        assert "It is changed" in page.locator(".notice").inner_text()
        page.click("text=Shut it out")
        assert "It is shut out" in page.locator(".notice").inner_text()
        page.click("text=Let it in again")
        assert "It is let in again" in page.locator(".notice").inner_text()
        page.goto(f"{gateway.url}/ui/audit")
        page.fill("#action", "admin_client_change")
        page.click("text=Show")
        page.wait_for_url("**action=admin_client_change**")
        assert page.locator("tbody tr").count() >= 2
        page.goto(f"{gateway.url}/ui/operations")
        page.click("text=Restart all, one after the other")
        assert "Ordered: coollm restart --rolling" in page.locator(".notice").inner_text()
        page.goto(f"{gateway.url}/ui/account")
        page.click("text=End all my sessions")
        page.wait_for_url("**/ui/sign-in")


def test_a_configuration_is_edited(browser: Browser, gateway: GatewayHandle) -> None:
    with window(browser, gateway) as seen:
        page = seen.page
        sign_in(seen, gateway, "root", PASSWORD)
        page.goto(f"{gateway.url}/ui/configuration/edit")
        text = page.input_value("#text")
        page.fill("#text", f"{text}\nservre: 1\n")
        page.locator("#checked .faults .bad", has_text="servre").wait_for()
        page.click("#checked [data-line]")
        selected = page.evaluate("(() => { const t = document.getElementById('text'); return t.value.slice(t.selectionStart, t.selectionEnd) })()")
        assert selected == "servre: 1", "the line that is wrong is marked"
        page.fill("#text", f"{text}\n# by browser\n")
        page.locator("#checked .diff .added", has_text="# by browser").wait_for()
        assert faults_of(page) == []
        page.select_option("#confirm_within", "5m")
        page.click("text=Apply it")
        assert "It reverts in 5m" in page.locator(".notice").inner_text()
        before = page.locator(".countdown strong").inner_text()
        wait_for(lambda: page.locator(".countdown strong").inner_text() != before, 10, "the countdown to go on")
        page.click("text=Keep it")
        assert "stays in force" in page.locator(".notice").inner_text()
        number = json.loads(gateway.coollm("config", "history", "--json").stdout)["generations"][0]["number"]
        page.click(f'[aria-label="Back to generation {number - 1}"]')
        assert "is in force" in page.locator(".notice").inner_text()


def test_pages_of_a_session_that_has_ended(browser: Browser, gateway: GatewayHandle) -> None:
    with window(browser, gateway) as seen:
        sign_in(seen, gateway, "root", PASSWORD)
        seen.page.goto(f"{gateway.url}/ui/operations")
        in_ledger(gateway, "DELETE FROM console_sessions")
        seen.page.wait_for_url("**/ui/sign-in", timeout=15_000)  # a part of the page is asked for anew, and leads there
        seen.complaints.clear()  # the browser says of every status above 400 that it is one
