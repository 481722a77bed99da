"""What the model of capacity makes of loads, and what the command tells of a gateway that works."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from coollm_cli.ops.capacity import model
from coollm_cli.ops.capacity.guide import size_for
from coollm_cli.ops.capacity.report import parse_what_if
from coollm_cli.ops.load import Load

from coollm.core.errors import UsageError
from tests.conftest import serve, wait_for


def load(requests: float, busy: float, streams: float = 0, workers: int = 1) -> Load:
    return Load(requests=requests, streams=streams, processors=busy * workers, workers=workers, seconds=10)


def test_a_request_costs_more_where_there_are_few() -> None:
    factors = [model.factor(busy / 100) for busy in range(101)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == 1.0
    assert model.factor(-1) == factors[0]
    assert model.factor(2) == 1.0


@pytest.mark.parametrize(("requests", "busy"), [(400, 0.205), (700, 0.31), (1000, 0.417), (1400, 0.553), (2000, 0.76)])
def test_the_same_saturation_from_every_load_of_one_machine(requests: float, busy: float) -> None:
    """The loads of one gateway, from which COSTS was made: each of them predicts about the same."""
    cost = model.cost_of(load(requests, busy))
    assert cost.is_measured
    assert model.most_requests(cost, 1, 2) == pytest.approx(4850, rel=0.2)


def test_too_little_load_tells_nothing() -> None:
    for idle in (load(0, 0.0), load(5, 0.05), load(1000, 0.0, workers=0)):
        cost = model.cost_of(idle)
        assert not cost.is_measured
        assert cost.request_seconds == model.REQUEST_SECONDS


def test_streams_take_their_share() -> None:
    cost = model.Cost(0.0003, 0.001, is_measured=True)
    assert model.needed(cost, 1000, 200) == pytest.approx(0.5)
    assert model.most_requests(cost, 2, 8, 300) == pytest.approx((2 * model.FULL - 0.3) / 0.0003)
    assert model.most_requests(cost, 8, 2) == model.most_requests(cost, 2, 8), "more workers than cores have no more"
    assert model.most_requests(cost, 1, 1, 5000) == 0
    busy_with_streams = model.cost_of(load(30, 0.6, streams=800))
    assert busy_with_streams.is_measured
    assert busy_with_streams.stream_share == pytest.approx(0.6 / 800, rel=0.1)


def test_advice() -> None:
    cost = model.Cost(0.0005, 0.001, is_measured=True)
    small = model.advise(cost, 100, 0, workers=2, cores=4, store="sqlite")
    assert (small.instances, small.hosts, small.store, small.fits) == (1, 1, "sqlite", True)
    large = model.advise(cost, 5000, 1000, workers=2, cores=4, store="sqlite")
    assert large.processors == pytest.approx(3.5)
    assert large.instances == math.ceil(math.ceil(3.5 / model.COMFORTABLE) / 2)
    assert (large.hosts, large.store, large.fits) == (2, "redis", False)
    assert model.advise(cost, 3000, 0, workers=2, cores=4, store="memory").store == "redis"
    assert model.advise(cost, 1500, 0, workers=2, cores=4, store="memory").store == "sqlite", "workers that count each for itself keep no limit"


def test_growth_is_not_turned_by_a_wild_day() -> None:
    drawn = random.Random(3)
    steady = [1000 + 20 * day + drawn.uniform(-30, 30) for day in range(28)]
    steady[9] = 50_000
    grows = model.growth(steady)
    assert grows == pytest.approx(20 / 1280, rel=0.15)
    assert model.growth([5.0] * 3) is None
    assert model.growth([0.0] * 20) is None
    assert model.days_until(100, 200, 0.01) == pytest.approx(100)
    assert model.days_until(200, 100, 0.01) == 0
    assert model.days_until(100, 200, -0.01) is None
    assert model.days_until(100, 200, None) is None


def test_the_guides_table() -> None:
    assert [size_for(rate).cores for rate in (0, 9.9, 10, 99, 100, 999, 1000, 50_000)] == ["1-2", "1-2", "2-4", "2-4", "4-8", "4-8", "8+", "8+"]


@pytest.mark.parametrize("text", ["rps", "rps=", "rps=-1", "rps=x", "requests=5", "rps=5;streams=3", "rps=inf", "rps=nan", "rps=1e9"])
def test_what_if_of_nonsense(text: str) -> None:
    with pytest.raises(UsageError, match="--what-if"):
        parse_what_if(text)


def test_of_a_gateway_that_works(tmp_path: Path) -> None:
    provider = {"id": "openai", "type": "openai", "base_url": "simulator://", "api_keys": ["sk-one"], "models": ["gpt-sim"], "limits": {"req_per_min": 60_000}}
    clients = [{"id": "app", "key": "client-key-of-the-tests", "limits": {"req_per_min": 50_000}}]
    with serve(tmp_path, {"llm_providers": [provider], "api_keys": clients}, workers=1) as gateway:
        stopped = threading.Event()

        def ask() -> None:
            while not stopped.is_set():
                gateway.chat("gpt-sim")

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        done = gateway.coollm("capacity", "--seconds", "3", "--what-if", "rps=500,streams=300", "--json")
        stopped.set()
        for thread in threads:
            thread.join()
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["now"]["workers"] == 1
        assert told["now"]["requests_per_second"] > 10
        assert told["saturation_requests_per_second"] > 0
        assert told["what_if"]["streams"] == 300
        assert told["what_if"]["processors"] == pytest.approx(
            500 * told["cost"]["cpu_us_per_request"] / 1e6 + 300 * told["cost"]["cpu_share_per_stream"], abs=0.02
        )
        assert told["what_if"]["guide"]["cores"] == "4-8"

        def limits() -> list[dict[str, Any]]:
            """From the ledger, into which the requests are shipped."""
            found: list[dict[str, Any]] = json.loads(gateway.coollm("capacity", "--seconds", "1", "--json").stdout)["limits"]
            return found if {row["who"] for row in found} == {"provider openai", "client app"} else []

        assert all(0 < row["used"] < 1 for row in wait_for(limits, what="the limits"))
        text = gateway.coollm("capacity", "--seconds", "1").stdout
        assert "requests/s" in text
        assert "the guide's size" in text
        assert "16+ GB" in gateway.coollm("capacity", "--table").stdout
        assert gateway.coollm("capacity", "--what-if", "rps=many").returncode == 2
    assert gateway.coollm("capacity").returncode == 5
