"""Deciding how many instances there are to be: above a threshold for a while, below all of them for longer, and never twice at once."""

from __future__ import annotations

from typing import Any

import pytest
from coollm_cli.ops.autoscale import Memory, decide
from coollm_cli.ops.load import Load
from hypothesis import given
from hypothesis import strategies as st

from coollm.core.config.schema import Autoscale

NOW = 1_790_000_000.0
CALM = Memory()


def wanted(**changes: Any) -> Autoscale:
    return Autoscale(**{"enabled": True, "min": 1, "max": 4, **changes})


def load(processors: float = 0.0, requests: float = 0.0, streams: float = 0.0, instances: int = 2) -> Load:
    return Load(requests=requests, streams=streams, processors=processors, workers=instances, seconds=10, memory_bytes=10**8, instances=instances)


def ask(load: Load, settings: Autoscale, memory: Memory, now: float = NOW, running: int = 2, cores: int = 8, share: float = 0.1) -> tuple[int, str, Memory]:
    return decide(load, running, settings, memory, now, cores=cores, memory_share=share)


def test_one_more_when_it_lasts() -> None:
    settings = wanted()
    first = ask(load(processors=1.8), settings, CALM)
    assert first[0] == 2
    assert first[2].above_since == NOW
    assert "above for 0 s, of 2m" in first[1]
    soon = ask(load(processors=1.8), settings, first[2], NOW + 60)
    assert soon[0] == 2
    number, why, memory = ask(load(processors=1.8), settings, soon[2], NOW + 121)
    assert (number, memory) == (3, Memory(changed=NOW + 121))
    assert why == "processors 90 % of 70 for 121 s: one more"
    # What was just changed is left alone for a while, also if the load goes on.
    assert ask(load(processors=2.9, instances=3), settings, memory, NOW + 200, running=3)[:2] == (
        3,
        "processors 97 % of 70: nothing for 221 s more after the last change",
    )


def test_a_short_burst_is_forgotten() -> None:
    settings = wanted()
    memory = ask(load(processors=1.8), settings, CALM)[2]
    memory = ask(load(processors=1.0), settings, memory, NOW + 60)[2]
    assert memory.above_since == 0
    assert ask(load(processors=1.8), settings, memory, NOW + 130)[0] == 2


def test_one_fewer_when_those_that_stay_would_do() -> None:
    settings = wanted()
    # Two that are 20 % busy: one alone would be 40 % busy, which is below 60 % of 70.
    memory = ask(load(processors=0.4), settings, CALM)[2]
    assert memory.below_since == NOW
    number, why, _ = ask(load(processors=0.4), settings, memory, NOW + 901)
    assert number == 1
    assert why.endswith("1 have done for 901 s: one fewer")
    # Two that are 25 % busy: one alone would be 50 % busy.
    assert ask(load(processors=0.5), settings, CALM)[2].below_since == 0


def test_bounds() -> None:
    assert ask(load(), wanted(min=3), CALM)[0] == 3
    assert ask(load(instances=6), wanted(max=4), CALM, running=6)[0] == 4
    full = Memory(above_since=NOW - 500)
    number, why, _ = ask(load(processors=4, instances=4), wanted(), full, running=4)
    assert number == 4
    assert "other hosts are needed" in why
    number, why, _ = ask(load(processors=1.9), wanted(), full, share=0.9)
    assert number == 2
    assert "memory_percent" in why
    number, why, _ = ask(load(processors=0.0, instances=2), wanted(min=2), Memory(below_since=NOW - 5000))
    assert number == 2
    assert "server.autoscale.min is 2" in why


def test_workers_share_the_cores_that_there_are() -> None:
    """Four workers on two cores that are both full: more workers would not help by themselves, but the threshold is told of what they can have."""
    _, why, memory = ask(load(processors=1.9, instances=4), wanted(max=8), CALM, running=4, cores=2)
    assert memory.above_since == NOW
    assert "processors 95 % of 70" in why


@pytest.mark.parametrize(
    ("settings", "busy", "text"),
    [({"requests_per_second": 100}, {"requests": 300}, "150.0 requests/s of 100 each"), ({"streams": 50}, {"streams": 120}, "60 streams of 50 each")],
)
def test_other_thresholds(settings: dict[str, Any], busy: dict[str, float], text: str) -> None:
    number, why, _ = ask(load(**busy), wanted(cpu_percent=None, **settings), Memory(above_since=NOW - 200))
    assert number == 3
    assert text in why


@given(
    st.lists(st.floats(0, 8), min_size=1, max_size=200),
    st.integers(1, 3),
    st.integers(3, 6),
)
def test_it_never_leaves_its_bounds_nor_flaps(processors: list[float], least: int, most: int) -> None:
    settings = wanted(min=least, max=most)
    running, memory, changes = least, CALM, []
    for minute, used in enumerate(processors):
        now = NOW + 60 * minute
        number, why, memory = ask(load(processors=min(used, running), instances=running), settings, memory, now, running=running)
        assert why
        assert least <= number <= most
        assert abs(number - running) <= 1
        if number != running:
            changes.append(now)
            running = number
    assert all(later - earlier >= settings.cooldown for earlier, later in zip(changes, changes[1:], strict=False))
