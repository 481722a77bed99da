"""The console in front of a ledger of ten million requests, the last of them just now: its first page, and every other one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import requests
from sqlalchemy import text

from coollm.ledger.book import DAY_MS, Ledger
from tests.browser import Watched, chromium
from tests.conftest import SimulatorHandle, serve, simulated, wait_for
from tests.console.visitor import PASSWORD, SERVER, Visitor
from tests.soak.test_large_ledger import DAYS, FILL, START_MS, SUM

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

FIRST_PAGE_SECONDS = 0.3
FIRST_PAGE_BYTES = 200_000
LOADS = 10

# What a browser has fetched for the page that it shows, without what it kept of an earlier one.
FETCHED = """() => { const page = performance.getEntriesByType('navigation')[0];
  const parts = performance.getEntriesByType('resource').filter((one) => !one.name.endsWith('/ui/live'));
  return [page.loadEventEnd / 1000, page.transferSize + parts.reduce((sum, one) => sum + one.transferSize, 0)] }"""


def test_the_first_page_of_ten_million_requests(simulator: SimulatorHandle, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    ledger = Ledger(f"sqlite:///{state}/ledger.sqlite")
    ledger.prepare()
    until = int(time.time() * 1000)
    with ledger.writing() as connection:
        connection.execute(text(FILL.replace(str(START_MS), str(until - DAYS * DAY_MS))))
        for unit, milliseconds in (("hour", DAY_MS // 24), ("day", DAY_MS)):
            connection.execute(text(SUM.format(unit=unit, milliseconds=milliseconds)))
    ledger.close()
    clients = [{"id": f"client-{number}", "key": f"key-of-client-{number}", "limits": {"budget_usd": 1e6}} for number in range(20)]
    with serve(tmp_path, {"llm_providers": simulated(simulator.url), "server": SERVER, "api_keys": clients}) as gateway:
        wait_for(lambda: requests.get(f"{gateway.url}/ready", timeout=30).status_code == 200, 120)
        first = []
        with chromium() as browser:
            for _ in range(LOADS):
                context = browser.new_context(viewport={"width": 1440, "height": 900})  # one that has kept nothing
                seen = Watched(context)
                context.add_cookies([{"name": one.name, "value": one.value or "", "url": f"{gateway.url}/ui/"} for one in signed_in(gateway)])
                seen.page.goto(f"{gateway.url}/ui/")
                seen.page.wait_for_function("performance.getEntriesByType('navigation')[0].loadEventEnd > 0")
                first.append(tuple(seen.page.evaluate(FETCHED)))
                assert seen.complaints == []
                context.close()
        seconds, size = sorted(one for one, _ in first)[LOADS // 2], max(one for _, one in first)
        visitor = Visitor(gateway)
        visitor.sign_in()
        took = {}
        for path in (
            "/ui/",
            "/ui/usage",
            "/ui/requests",
            "/ui/requests?client=client-7",
            "/ui/providers",
            "/ui/clients",
            "/ui/clients/client-7",
            "/ui/operations",
        ):
            began = time.monotonic()
            assert visitor.get(path).status_code == 200
            took[path] = round(time.monotonic() - began, 3)
        print(f"first page {seconds:.3f} s, {size / 1000:.0f} kB; pages {took}")
        assert seconds < FIRST_PAGE_SECONDS
        assert size < FIRST_PAGE_BYTES


def signed_in(gateway: object) -> list[object]:
    visitor = Visitor(gateway)  # type: ignore[arg-type]
    assert visitor.sign_in("root", PASSWORD).status_code == 303
    return list(visitor.session.cookies)
