"""Stickiness, second requests and limits that are set while the gateway runs, before real workers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import requests

from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated, wait_for


def keyed(simulator: SimulatorHandle, *keys: str) -> dict[str, Any]:
    return {**simulated(simulator.url)[0], "api_keys": list(keys)}


def ask(gateway: GatewayHandle, content: str = "hello", model: str = "gpt-sim", headers: dict[str, str] | None = None, **more: Any) -> requests.Response:
    body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
    return requests.post(f"{gateway.url}/v1/chat/completions", json=body, headers={**gateway.headers, **(headers or {})}, timeout=30)


def test_a_session_stays_with_its_key_in_every_worker(simulator: SimulatorHandle, tmp_path: Path) -> None:
    settings = {"llm_providers": [keyed(simulator, *(f"sk-sticky-{number}" for number in range(5)))]}
    settings["policy"] = {"sticky": {"by": "session"}, "algorithm": "round_robin"}  # others take their turns, however fast each key is
    with serve(tmp_path, settings, workers=2) as gateway:

        def key_of(session: str) -> str:
            return ask(gateway, headers={"x-session-id": session}).headers["x-coollm-key"]

        chosen = {f"s{number}": key_of(f"s{number}") for number in range(30)}
        assert len(set(chosen.values())) == 5
        assert all(key_of(session) == key for session, key in chosen.items() for _ in range(2))
        assert len({ask(gateway).headers["x-coollm-key"] for _ in range(40)}) > 1, "who names no session has none"


def test_a_slow_key_is_raced_by_another(simulator: SimulatorHandle, tmp_path: Path) -> None:
    settings = {
        "llm_providers": [keyed(simulator, "sk-slow~latency_ms=4000", "sk-fast")],
        "policy": {"algorithm": "round_robin", "hedge": {"enabled": True, "after": "0.3s", "budget_usd": 0.01, "budget_period": "total"}},
    }
    with serve(tmp_path, settings, workers=1) as gateway:
        started = time.monotonic()
        for stream in (False, True):
            for number in range(4):
                answer = ask(gateway, f"race {number}", max_tokens=20, stream=stream)
                assert answer.status_code == 200
                assert "data: [DONE]" in answer.text or not stream
        assert time.monotonic() - started < 8, "nobody waited for the slow key"
        lines = wait_for(lambda: (found := gateway.requests_logged()) and len(found) >= 12 and found, 5, "the lines of both")
        losers = [line for line in lines if line["ending"] == "hedged"]
        winners = [line for line in lines if line["ending"] == "answered"]
        assert (len(winners), len(losers)) == (8, 4)
        assert all(line["input_tokens"] > 0 and line["output_tokens"] == 0 and line["estimated"] for line in losers)
        assert all(line["request_id"].partition("/")[0] in {winner["request_id"] for winner in winners} for line in losers)
        assert {attempt["outcome"] for line in winners for attempt in line["attempts"]} == {"answered", "outpaced"}
        slow = [row for row in simulator.seen() if row.get("key", "").endswith("latency_ms=4000"[-12:])]
        assert all(row["how"] == "client_closed" for row in slow), "its call is closed"
        assert json.loads(gateway.coollm("usage", "verify", "--json").stdout)["ok"]
        report = json.loads(gateway.coollm("usage", "report", "--json").stdout)["total"]
        assert report["requests"] == 8, "a second request is none of the client's"
        assert json.loads(gateway.coollm("budget", "verify", "--json").stdout)["ok"]


def test_the_budget_of_second_requests_is_their_cap(simulator: SimulatorHandle, tmp_path: Path) -> None:
    hedge = {"enabled": True, "after": "0.1s", "budget_usd": 0.0000001, "budget_period": "total"}
    settings = {"llm_providers": [keyed(simulator, "sk-slow~latency_ms=700", "sk-other~latency_ms=700")], "policy": {"hedge": hedge}}
    with serve(tmp_path, settings, workers=1) as gateway:
        for _ in range(3):
            assert ask(gateway, max_tokens=20).status_code == 200
        assert all(line["ending"] == "answered" for line in gateway.requests_logged())
        assert all([attempt["outcome"] for attempt in line["attempts"]] == ["answered"] for line in gateway.requests_logged())


def test_a_race_that_both_lose_ends_in_the_last_failure(simulator: SimulatorHandle, tmp_path: Path) -> None:
    hedge = {"enabled": True, "after": "0.1s", "budget_usd": 1}
    retry = {"max_attempts": 2, "interval": "0.1s"}
    settings = {
        "llm_providers": [keyed(simulator, "sk-one~latency_ms=400~status=500", "sk-two~latency_ms=400~status=500")],
        "policy": {"hedge": hedge, "retry": retry},
    }
    with serve(tmp_path, settings, workers=1) as gateway:
        assert ask(gateway, max_tokens=20).status_code == 502
        assert json.loads(gateway.coollm("budget", "verify", "--json").stdout)["ok"]


def test_limits_are_set_in_every_worker_within_a_second(simulator: SimulatorHandle, tmp_path: Path) -> None:
    clients = [{"id": "app", "key": "client-key-of-the-tests"}, {"id": "other", "key": "other-key-0001", "team": "all"}]
    settings = {"llm_providers": simulated(simulator.url), "api_keys": clients, "teams": [{"id": "all", "limits": {"req_per_min": 1000}}]}
    with serve(tmp_path, settings, workers=4) as gateway:
        assert ask(gateway).status_code == 200
        plan = gateway.coollm("clients", "limit", "app", "--req-per-min", "5", "--dry-run", "--json")
        assert json.loads(plan.stdout)["after"]["limits"]["req_per_min"] == 5
        assert all(ask(gateway).status_code == 200 for _ in range(8)), "a plan changes nothing"
        done = gateway.coollm("clients", "limit", "app", "--req-per-min", "5", "--yes")
        assert (done.returncode, "req_per_min: none -> 5" in done.stdout) == (0, True), done.stderr
        time.sleep(1)
        answers = [ask(gateway) for _ in range(30)]
        assert [answer.status_code for answer in answers].count(200) == 5
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert (refused.headers["x-ratelimit-limit-requests"], refused.headers["x-ratelimit-remaining-requests"]) == ("5", "0"), "told with a refusal too"
        gateway.coollm("clients", "limit", "app", "--req-per-min", "7", "--yes")
        for before in ("5", "none"):
            undone = gateway.coollm("undo")
            assert (undone.returncode, f"-> {before}" in undone.stdout) == (0, True), undone.stderr
        time.sleep(1)
        assert all(ask(gateway).status_code == 200 for _ in range(12))


def test_budgets_are_set_reset_and_survive_a_restart(simulator: SimulatorHandle, tmp_path: Path) -> None:
    settings = {"llm_providers": simulated(simulator.url)}
    with serve(tmp_path, settings, workers=2) as gateway:
        for _ in range(5):
            ask(gateway, max_tokens=20)
        done = gateway.coollm("budget", "set", "client", "app", "--usd", "0.0015", "--period", "day", "--yes", "--json")
        assert json.loads(done.stdout)["done"], done.stderr
        time.sleep(1)
        row = json.loads(gateway.coollm("budget", "list", "--json").stdout)["budgets"][0]
        assert (row["id"], row["limit_usd"]) == ("app", 0.0015)
        assert row["used_usd"] == row["ledger_usd"] > 0, "what was spent before counts in the period"
        statuses = [ask(gateway, max_tokens=20).status_code for _ in range(12)]
        assert set(statuses) == {200, 429}
        assert gateway.coollm("budget", "set", "client", "app", "--reset", "--yes").returncode == 0
        time.sleep(1)
        assert ask(gateway, max_tokens=20).status_code == 200, "begun anew"
        told = json.loads(gateway.coollm("budget", "verify", "--json").stdout)
        assert told["ok"], told
    with serve(tmp_path, settings, workers=2) as gateway:
        time.sleep(0.6)
        assert 429 in [ask(gateway, max_tokens=20).status_code for _ in range(16)], "it holds after a restart"
        nobody = gateway.coollm("budget", "set", "client", "apq", "--usd", "1", "--yes")
        assert (nobody.returncode, "did you mean 'app'" in nobody.stderr) == (1, True), nobody.stderr
        assert gateway.coollm("budget", "set", "client", "app", "--usd", "much", "--yes").returncode == 2
        assert gateway.coollm("budget", "set", "client", "app", "--timezone", "Nowhere/Else", "--yes").returncode == 1
        assert gateway.coollm("budget", "set", "client", "app", "--usd", "5").returncode == 1, "nobody can be asked, and nothing is done"


def test_models_without_a_configured_price_have_the_list_price(simulator: SimulatorHandle, tmp_path: Path) -> None:
    provider = {**simulated(simulator.url)[0], "models": ["gpt-4o-mini", "gpt-sim"], "model": "gpt-sim"}
    del provider["pricing"]
    with serve(tmp_path, {"llm_providers": [provider]}, workers=1) as gateway:
        priced, unknown = ask(gateway, model="gpt-4o-mini"), ask(gateway, model="gpt-sim")
        assert float(priced.headers["x-coollm-cost-usd"]) > 0
        assert "x-coollm-cost-usd" not in unknown.headers, "unknown is not 0"
        told = {row["model"]: row for row in json.loads(gateway.coollm("models", "--prices", "--json").stdout)["prices"]}
        assert told["openai:gpt-4o-mini"]["source"].startswith("list price of 20")
        assert told["openai:gpt-sim"]["source"] is None
        wait_for(lambda: json.loads(gateway.coollm("usage", "report", "--json").stdout)["total"]["unpriced"] == 1, 8, "the ledger")
