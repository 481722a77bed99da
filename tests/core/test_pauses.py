"""Work in the background makes pauses, and none where it would not come to an end."""

from __future__ import annotations

from coollm.core.pauses import LATE_SECONDS, PAUSE_SECONDS, RUSH_SECONDS, STEP_SECONDS, Pauses


class Time:
    """Goes on by itself during a sleep alone, and by `late` more."""

    def __init__(self) -> None:
        self.now = 100.0
        self.late = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds + self.late


def test_a_pause_after_each_step() -> None:
    time = Time()
    pause = Pauses(lambda: time.now, time.sleep)
    pause()
    assert time.slept == [], "nothing was done yet"
    for _ in range(4):
        time.now += STEP_SECONDS * 0.6
        pause()
    assert time.slept == [PAUSE_SECONDS] * 2


def test_no_pauses_where_the_processor_has_no_time() -> None:
    time = Time()
    pause = Pauses(lambda: time.now, time.sleep)
    time.late = LATE_SECONDS
    time.now += STEP_SECONDS
    pause()
    while time.now < 100.0 + RUSH_SECONDS:
        time.now += STEP_SECONDS
        pause()
    assert len(time.slept) == 1
    time.now += LATE_SECONDS
    time.late = 0.0
    for _ in range(10):
        time.now += STEP_SECONDS * 1.1
        pause()
    assert len(time.slept) == 11, "it is tried again"
