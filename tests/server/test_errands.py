"""Work that comes up in the loop is done in a greenlet that stays."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import gevent
import pytest

from coollm.errands import do_soon


class _Told:
    """What was done, and by which greenlet."""

    def __init__(self) -> None:
        self.by: list[tuple[str, object]] = []

    def work(self, name: str, seconds: float = 0.0) -> Callable[[], None]:
        def done() -> None:
            self.by.append((name, gevent.getcurrent()))
            if seconds:
                gevent.sleep(seconds)
                self.by.append((f"{name} is over", gevent.getcurrent()))

        return done

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.by]


def test_one_greenlet_does_all_that_comes_one_after_the_other() -> None:
    told = _Told()
    for name in ("first", "second", "third"):
        do_soon(told.work(name))
        assert name not in told.names, "not before this turn is over"
        gevent.sleep(0.01)
    assert told.names == ["first", "second", "third"]
    assert len({by for _, by in told.by}) == 1
    assert told.by[0][1] is not gevent.getcurrent()


def test_what_waits_holds_up_nothing() -> None:
    told = _Told()
    do_soon(told.work("slow", 0.05))
    do_soon(told.work("quick"))
    gevent.sleep(0.01)
    assert told.names == ["slow", "quick"]
    gevent.sleep(0.1)
    assert told.names == ["slow", "quick", "slow is over"]
    do_soon(told.work("after"))
    gevent.sleep(0.01)
    assert told.names[-1] == "after"


def test_what_fails_is_told_and_the_next_is_done(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("broken work")

    told = _Told()
    do_soon(told.work("before"))
    gevent.sleep(0.01)
    do_soon(fail)
    gevent.sleep(0.01)
    assert "broken work" in capfd.readouterr().err
    do_soon(told.work("after"))
    gevent.sleep(0.01)
    assert told.names == ["before", "after"]


def test_nothing_is_held_of_work_that_is_done() -> None:
    told = _Told()
    done = told.work("once")
    gone = weakref.ref(done)
    do_soon(done)
    gevent.sleep(0.01)
    assert told.names == ["once"]
    del done
    gc.collect()
    assert gone() is None
