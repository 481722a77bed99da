"""One suite over every row of CACHES: kept answers, their bound, and who fetches what is missing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coollm.cache import base
from coollm.cache.base import Absent, AnswerStore
from coollm.core.config.schema import RuntimeStorage
from coollm.core.registry import CACHES

MOST_BYTES = 1000


@pytest.fixture(params=CACHES.names())
def open_again(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for module in ("memory", "sqlite", "redis"):
        monkeypatch.setattr(f"coollm.cache.{module}.CLAIM_SECONDS", 0.3)
    settings = RuntimeStorage(type=request.param)
    if request.param == "redis":
        settings = RuntimeStorage(type="redis", addr=request.getfixturevalue("redis_url"))
    opened: list[AnswerStore] = []

    def opener() -> AnswerStore:
        if request.param == "memory" and opened:
            return opened[0]
        opened.append(CACHES[request.param](settings, tmp_path, MOST_BYTES))
        return opened[-1]

    if request.param == "redis":
        opener()._redis.command("FLUSHALL")  # type: ignore[attr-defined]
    yield opener
    for store in opened:
        store.close()


def test_what_is_kept_is_found_by_all(open_again: Any) -> None:
    first, second = open_again(), open_again()
    assert first.look("k", "one") is Absent.YOURS
    assert first.look("k", "one") is Absent.YOURS, "asking again is no harm"
    assert second.look("k", "two") is Absent.FETCHED_BY_ANOTHER
    first.keep("k", b"\x00 answer", 60, "one")
    assert second.look("k", "two") == b"\x00 answer"
    assert second.size() == 8


def test_a_claim_that_is_given_up_or_runs_out_is_anothers(open_again: Any) -> None:
    first, second = open_again(), open_again()
    first.look("k", "one")
    second.give_up("k", "two")
    assert second.look("k", "two") is Absent.FETCHED_BY_ANOTHER, "nobody gives up another's claim"
    first.give_up("k", "one")
    assert second.look("k", "two") is Absent.YOURS
    for _ in range(4):
        time.sleep(0.15)
        second.renew(["k"], "two")
    assert first.look("k", "one") is Absent.FETCHED_BY_ANOTHER, "a claim that is renewed lasts"
    time.sleep(0.4)
    assert first.look("k", "one") is Absent.YOURS


def test_an_answer_ends(open_again: Any) -> None:
    store = open_again()
    store.keep("k", b"x", 1, "one")
    assert store.look("k", "one") == b"x"
    time.sleep(1.1)
    assert store.look("k", "one") is Absent.YOURS


def test_what_was_not_asked_for_longest_makes_room(open_again: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coollm.cache.sqlite.NOTED_EVERY_SECONDS", 0.0)
    store = open_again()
    for number in range(4):
        store.keep(f"k{number}", b"x" * 250, 60, "one")
        time.sleep(0.01)
    assert store.look("k0", "one") == b"x" * 250
    time.sleep(0.01)
    store.keep("k4", b"y" * 400, 60, "one")
    assert store.size() <= MOST_BYTES
    assert store.look("k0", "one") == b"x" * 250
    assert store.look("k4", "one") == b"y" * 400
    assert [isinstance(store.look(f"k{number}", "one"), Absent) for number in (1, 2)] == [True, True]


def test_keeping_again_counts_once(open_again: Any) -> None:
    store = open_again()
    for size in (100, 300, 200):
        store.keep("k", b"x" * size, 60, "one")
        assert store.size() == size
    assert base.CLAIM_SECONDS > 1
