"""What requests used and cost, from the request to the report: through kills of workers, a full disk, and a ledger that goes away."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import requests

from coollm.ledger.book import Ledger
from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated, wait_for


@pytest.fixture
def gateway(simulator: SimulatorHandle, tmp_path: Path) -> Iterator[GatewayHandle]:
    clients = [{"id": "app", "key": "client-key-of-the-tests", "team": "search"}, {"id": "batch", "key": "batch-key-0001"}]
    settings = {"llm_providers": simulated(simulator.url), "api_keys": clients, "teams": [{"id": "search"}]}
    with serve(tmp_path, settings, workers=3) as handle:
        yield handle


def report(gateway: GatewayHandle, *more: str) -> dict[str, Any]:
    return json.loads(gateway.coollm("usage", "report", "--json", *more).stdout)


def entries(gateway: GatewayHandle) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (gateway.home / "state" / "logs" / "usage.log").read_text().split("\n") if line]


def test_what_was_used_is_reported(gateway: GatewayHandle) -> None:
    for model in ("gpt-sim~tokens=10", "claude-sim~tokens=10~cached=2", "gemini-sim~tokens=10~reasoning=4"):
        assert gateway.chat(model).status_code == 200
        assert gateway.chat(model, stream=True).content
    assert gateway.chat("no-such-model").status_code == 404
    wait_for(lambda: report(gateway)["total"]["requests"] == 7, 10, "the ledger to have them")
    total = report(gateway)["total"]
    assert (total["errors"], total["output_tokens"], total["cached_input_tokens"], total["unpriced"]) == (1, 68, 4, 0)
    lines = entries(gateway)
    assert total["cost_usd"] == pytest.approx(sum(line["cost_nano_usd"] for line in lines) / 1e9)
    assert {line["team"] for line in lines} == {"search"}
    by_model = {row["model"]: row["requests"] for row in report(gateway, "--by", "model")["rows"]}
    assert by_model[""] == 1, "what reached no model"
    assert by_model["gpt-sim~tokens=10"] == 2
    assert [row["client"] for row in report(gateway)["rows"]] == ["app"]
    assert report(gateway, "--start", "2100-01-01")["rows"] == []
    verified = gateway.coollm("usage", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert len(gateway.coollm("usage", "export").stdout.splitlines()) == 7
    log = gateway.home / "state" / "logs" / "usage.log"
    assert log.stat().st_mode & 0o777 == 0o600
    assert "hello" not in log.read_text(), "never a prompt"


def test_mistakes_are_told(gateway: GatewayHandle) -> None:
    wrong = gateway.coollm("usage", "report", "--start", "soon")
    assert wrong.returncode == 1
    assert "2027-01-31" in wrong.stderr
    assert gateway.coollm("usage", "report", "--by", "clinet").returncode == 2
    nobody = gateway.coollm("usage", "prune", "--before", "2026-01-01")
    assert (nobody.returncode, "--yes" in nobody.stderr) == (1, True)
    assert gateway.coollm("usage", "prune", "--before", "2100-01-01", "--dry-run").stdout == "0 requests would be deleted\n"
    refused = requests.get(f"{gateway.url}/admin/v1/stats", headers=gateway.headers, timeout=5)
    assert refused.status_code == 403


def test_nothing_is_lost_and_nothing_is_counted_twice_when_workers_are_killed(gateway: GatewayHandle) -> None:
    answered: list[str] = []
    until = time.monotonic() + 6

    def client(number: int) -> None:
        while time.monotonic() < until:
            try:
                reply = gateway.chat("gpt-sim~tokens=5~latency_ms=20")
            except requests.RequestException:
                continue
            if reply.status_code == 200:
                answered.append(reply.headers["x-request-id"])

    with ThreadPoolExecutor(8) as pool:
        for number in range(8):
            pool.submit(client, number)
        while time.monotonic() < until - 1:
            time.sleep(0.7)
            os.kill(gateway.workers()[0], signal.SIGKILL)
    written = [line["request_id"] for line in entries(gateway)]
    assert set(answered) <= set(written)
    assert len(answered) > 50
    wait_for(lambda: report(gateway)["total"]["requests"] >= len(set(written)), 15, "the ledger to catch up")
    verified = json.loads(gateway.coollm("usage", "verify", "--json").stdout)
    assert verified["ok"], verified
    assert verified["requests"] == verified["hours"]
    rebuilt = json.loads(gateway.coollm("usage", "rebuild", "--yes", "--json").stdout)
    assert rebuilt["requests"] == len({line["request_id"] for line in entries(gateway)})


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_ledger_on_a_server(simulator: SimulatorHandle, tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    Ledger(url).clear()
    with serve(tmp_path, {"llm_providers": simulated(simulator.url), "storage": {"ledger": {"url": url}}}, workers=2) as gateway:
        for _ in range(5):
            assert gateway.chat("gpt-sim").status_code == 200

        def has_all() -> bool:
            told = gateway.coollm("usage", "report", "--json")  # the first may find the database busy with its new tables
            return told.returncode == 0 and json.loads(told.stdout)["total"]["requests"] == 5

        wait_for(has_all, 20, "the ledger to have them")
        assert gateway.coollm("usage", "verify").returncode == 0
        assert "a-password" not in gateway.words()


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_many_ask_a_ledger_on_a_server_at_once(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    """Each in a thread of the worker's, whose connections are not for other threads."""
    provider = {"id": "openai", "type": "openai", "base_url": "simulator://", "api_keys": ["sk-one"], "models": ["gpt-sim"]}
    server = {"admin_api_key": "admin-key-of-the-tests", "admin_requests_per_minute": 100_000}
    settings = {"llm_providers": [provider], "server": server, "storage": {"ledger": {"url": request.getfixturevalue(f"{kind}_url")}}}
    with serve(tmp_path, settings, workers=1) as gateway, ThreadPoolExecutor(16) as pool:

        def ask(_: int) -> int:
            headers = {"authorization": "Bearer admin-key-of-the-tests"}
            return requests.get(f"{gateway.url}/admin/v1/stats?group_by=client", headers=headers, timeout=30).status_code

        assert set(pool.map(ask, range(300))) == {200}


class Page(HTMLParser):
    """What a page refers to, and what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.refers: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.refers += [str(value) for name, value in attributes if name in ("src", "href", "action", "data", "xlink:href", "style")]
        if tag not in ("meta", "rect", "text", "title", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag


def test_a_page_for_people_who_would_rather_look(tmp_path: Path) -> None:
    provider = {"id": "openai", "type": "openai", "base_url": "simulator://", "api_keys": ["sk-one"], "models": ["*"]}
    provider["pricing"] = {"input_token_cost": 10.0, "output_token_cost": 10.0}
    with serve(tmp_path, {"llm_providers": [provider]}, workers=1) as gateway:
        for model in ("gpt-sim", "<script>alert(1)</script>", "gpt-sim~status=400"):
            gateway.chat(model)
        wait_for(lambda: report(gateway)["total"]["requests"] == 3, what="the ledger")
        done = gateway.coollm("usage", "report", "--html", "usage.html")
        assert done.returncode == 0, done.stderr
        text = (tmp_path / "usage.html").read_text()
        assert gateway.coollm("usage", "report", "--html", "/proc/no.html").returncode == 1
    page = Page()
    page.feed(text)
    assert page.refers == [], "it needs nothing from anywhere"
    assert page.open == []
    assert "script" not in page.tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert page.tags.count("svg") == 4
    assert page.tags.count("table") == 4, "clients, models, providers, and causes of errors"
    assert page.tags.count("polyline") == 3, "p50, p95 and p99"
    assert "gpt-sim" in text
    assert "http" not in text.replace("http-equiv", "")


def test_a_ledger_that_is_not_there_yet(simulator: SimulatorHandle, tmp_path: Path) -> None:
    settings = {"llm_providers": simulated(simulator.url), "storage": {"ledger": {"url": "postgresql+psycopg://u:a-password@127.0.0.1:1/x"}}}
    with serve(tmp_path, settings, workers=1) as gateway:
        assert gateway.chat("gpt-sim").status_code == 200
        wait_for(lambda: requests.get(f"{gateway.url}/health", timeout=5).json()["status"] == "degraded", 15, "the ledger to be missed")
        unable = gateway.coollm("usage", "report")
        assert (unable.returncode, "ledger" in unable.stderr) == (1, True)
        assert len(entries(gateway)) == 1
        assert "warning: the ledger does not answer" in gateway.words()
        assert "a-password" not in gateway.words() + (gateway.home / "state" / "logs" / "app.log").read_text()
        assert "Traceback" not in gateway.words()
