"""Answers in the memory of one worker."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from coollm.cache.base import CLAIM_SECONDS, Absent, AnswerStore
from coollm.core.config.schema import RuntimeStorage


def open_answers(settings: RuntimeStorage, state: Path, most_bytes: int) -> AnswerStore:  # noqa: ARG001  the signature of all
    """Answers of this process."""
    return MemoryAnswers(most_bytes)


class MemoryAnswers:
    """The contract in a dictionary, ordered by when an answer was last asked for."""

    def __init__(self, most_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._most_bytes = most_bytes
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._claims: dict[str, tuple[float, str]] = {}
        self._bytes = 0

    def look(self, key: str, owner: str) -> bytes | Absent:
        now = self._clock()
        until, value = self._kept.get(key, (0.0, b""))
        if until > now:
            self._kept.move_to_end(key)
            return value
        self._forget(key)
        claimed_until, holder = self._claims.get(key, (0.0, owner))
        if claimed_until > now and holder != owner:
            return Absent.FETCHED_BY_ANOTHER
        self._claims[key] = (now + CLAIM_SECONDS, owner)
        return Absent.YOURS

    def renew(self, keys: Sequence[str], owner: str) -> None:
        for key in keys:
            if self._claims.get(key, (0.0, ""))[1] == owner:
                self._claims[key] = (self._clock() + CLAIM_SECONDS, owner)

    def keep(self, key: str, value: bytes, seconds: int, owner: str) -> None:
        self._forget(key)
        self._kept[key] = (self._clock() + seconds, value)
        self._bytes += len(value)
        while self._bytes > self._most_bytes and self._kept:
            self._forget(next(iter(self._kept)))
        self.give_up(key, owner)

    def give_up(self, key: str, owner: str) -> None:
        if self._claims.get(key, (0.0, ""))[1] == owner:
            del self._claims[key]

    def size(self) -> int:
        return self._bytes

    def close(self) -> None:
        pass

    def _forget(self, key: str) -> None:
        _, value = self._kept.pop(key, (0.0, b""))
        self._bytes -= len(value)
