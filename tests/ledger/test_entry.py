"""A request that has ended, as a line of the usage log and as one of app.log: both are put together from parts, and are what an encoder would write."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from coollm.core.config.schema import Settings
from coollm.core.errors import UnknownModel
from coollm.core.logs import open_log
from coollm.core.repeated import MOST_REMEMBERED
from coollm.core.secrets import MASK, Redactor, Secret
from coollm.core.types import Target, Usage
from coollm.ledger.entry import Entry, line_of, read_line
from coollm.limits.settlement import Ending
from coollm.telemetry.record import HIT, Attempt, RequestRecord
from coollm.telemetry.request_log import RequestLog

ODD = 'a "name" \\ with é, \u2028 and \n'


def record(**told: Any) -> RequestRecord:
    one = RequestRecord("req_1", "client", "chat")
    for name, value in told.items():
        setattr(one, name, value)
    return one


TARGET = Target(provider="openai", type="openai", key_id="k1", model=ODD)
OTHER = Target(provider="openai", type="openai", key_id="k0", model="m")
RECORDS = {
    "answered": record(
        target=TARGET,
        requested_model=ODD,
        team=ODD,
        usage=Usage(input_tokens=10, cached_input_tokens=2, output_tokens=30, reasoning_tokens=4, service_tier="flex"),
        ending=Ending.ANSWERED,
        latency_seconds=1.2345,
        first_token_seconds=0.25,
        is_stream=True,
        cost_usd=1.5e-05,
        charged=1_790_000_000.5,
        attempts=[
            Attempt(OTHER, "overloaded", 0.0031, 0.0, "is full; key sk-secret-0001", 529),
            Attempt(TARGET, "answered", 0.009, 0.0036),
        ],
    ),
    "refused": record(status=429, error="rate_limit_exceeded" * 5, latency_seconds=0.0001),
    "cached": record(target=TARGET, cache=HIT, saved_usd=0.25, cost_usd=0.0, ending=Ending.CACHED, latency_seconds=0.002, dropped=("top_k", ODD)),
    "without a price": record(target=TARGET, usage=Usage(input_tokens=1, estimated=True), ending=Ending.CUT, status=502, is_second=True),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_its_line_in_the_usage_log(kind: str) -> None:
    one, began = RECORDS[kind], int(time.time() * 1000)
    for _ in range(2):  # made, and remembered in part
        line = line_of(one)
        found = read_line(line)
        assert found is not None
        assert line.endswith(b"}\n")
        assert line.count(b"\n") == 1
        assert began <= found.at_ms <= time.time() * 1000
        usage, is_plain = one.usage, one.target is None
        assert found == Entry(
            request_id="req_1",
            at_ms=found.at_ms,
            charged_ms=1_790_000_000_500 if one.charged else found.charged_ms,
            client="client",
            team=one.team,
            provider="" if is_plain else "openai",
            model="" if is_plain else ODD,
            key_id="" if is_plain else "k1",
            route="chat",
            status=one.status,
            ending=str(one.ending) if one.ending else "refused",
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            cache_write_tokens=0,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cost_nano_usd={"answered": 15_000, "without a price": None}.get(kind, 0),
            saved_nano_usd=250_000_000 if kind == "cached" else 0,
            cached=kind == "cached",
            second=kind == "without a price",
            service_tier=usage.service_tier or "",
            estimated=usage.estimated,
            latency_ms={"answered": 1234, "cached": 2}.get(kind, 0),
            first_token_ms=250 if kind == "answered" else 0,
            error=one.error[:64],
        )


@pytest.mark.parametrize("kind", RECORDS)
def test_its_line_in_app_log(kind: str, tmp_path: Path) -> None:
    one, path = RECORDS[kind], tmp_path / "app.log"
    redact = Redactor([Secret("sk-secret-0001")])
    handler = open_log(Settings(), path, redact)
    log = RequestLog(redact)
    for _ in range(2):
        log.write([one])
    handler.close()
    first, second = map(orjson.loads, path.read_bytes().splitlines())
    assert {**first, "time": ""} == {**second, "time": ""}
    assert (first["level"], first["logger"], first["message"]) == ("warning" if one.status >= 500 else "info", "coollm.request", "request")
    assert (first["request_id"], first["requested_model"], first["status"], first["stream"]) == ("req_1", one.requested_model, one.status, one.is_stream)
    assert (first["provider"], first["model"], first["key_id"]) == ((None,) * 3 if one.target is None else ("openai", ODD, "k1"))
    assert (first["ending"], first["error"], first["dropped"]) == (str(one.ending or "refused"), one.error or None, list(one.dropped))
    assert (first["cost_usd"], first["saved_usd"], first["cache"]) == (one.cost_usd, one.saved_usd, one.cache)
    assert first["latency_ms"] == {"answered": 1234.5, "cached": 2.0, "refused": 0.1}.get(kind, 0.0)
    assert first["time_to_first_token_ms"] == (250.0 if kind == "answered" else None)
    assert [attempt["outcome"] for attempt in first["attempts"]] == [attempt.outcome for attempt in one.attempts]
    if kind == "answered":
        assert first["attempts"][0]["reason"] == f"is full; key {MASK}"
        assert (first["attempts"][0]["status"], first["attempts"][0]["ms"], first["attempts"][1]["after_ms"]) == (529, 3, 4)
        assert (first["input_tokens"], first["cached_input_tokens"], first["output_tokens"], first["service_tier"]) == (10, 2, 30, "flex")


def test_what_others_wrote_is_redacted_in_app_log(tmp_path: Path) -> None:
    path, secret = tmp_path / "app.log", "sk-secret-0001"
    redact = Redactor([Secret(secret)])
    handler, log = open_log(Settings(), path, redact), RequestLog(redact)
    told = Target(provider="openai", type="openai", key_id="k1", model=secret)
    attempt = Attempt(told, "answered", reason=secret)
    for _ in range(2):  # made, and remembered
        log.write([record(target=told, requested_model=secret, dropped=("top_k", secret), attempts=[attempt])])
    handler.close()
    for line in map(orjson.loads, path.read_bytes().splitlines()):
        assert (line["requested_model"], line["model"], line["dropped"]) == (MASK, MASK, ["top_k", MASK])
        assert (line["attempts"][0]["model"], line["attempts"][0]["reason"]) == (MASK, MASK)


def test_names_that_clients_make_up_are_not_remembered(tmp_path: Path) -> None:
    redact = Redactor([])
    handler, log = open_log(Settings(), tmp_path / "app.log", redact), RequestLog(redact)
    log.write([record(target=TARGET, requested_model="gpt-sim")])
    known = dict(log._names._written)
    log.write([record(requested_model=f"no-model-{number}", status=UnknownModel.status, error=UnknownModel.code) for number in range(MOST_REMEMBERED + 1)])
    handler.close()
    assert len(known) == 1
    assert log._names._written == known
    assert len((tmp_path / "app.log").read_bytes().splitlines()) == MOST_REMEMBERED + 2


def test_a_long_name_is_written_and_not_remembered() -> None:
    one = record(error="x" * 64, team="t" * 100_000)
    assert len(line_of(one)) > 100_000
    found = read_line(line_of(one))
    assert found is not None
    assert found.team == "t" * 100_000
