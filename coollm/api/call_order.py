"""Tool calls one after the other, for clients whose dialect has no place for two at a time."""

from __future__ import annotations

import orjson

from coollm.core.types import ToolCallDelta


class CallOrder:
    """Lets pass the deltas of one call and holds those of the others until its arguments are whole, or the stream ends."""

    def __init__(self) -> None:
        self._open: int | None = None
        self._arguments = ""
        self._waiting: dict[int, list[ToolCallDelta]] = {}

    def take(self, delta: ToolCallDelta) -> list[ToolCallDelta]:
        """The deltas that may go out now that `delta` has come."""
        if self._open is None:
            self._open = delta.index
        if delta.index != self._open:
            self._waiting.setdefault(delta.index, []).append(delta)
            return self._next() if _is_whole(self._arguments) else []
        self._arguments += delta.arguments
        return [delta, *(self._next() if self._waiting and _is_whole(self._arguments) else [])]

    def rest(self) -> list[ToolCallDelta]:
        """What waits still."""
        left = [delta for deltas in self._waiting.values() for delta in deltas]
        self._waiting.clear()
        return left

    def _next(self) -> list[ToolCallDelta]:
        """Goes on to the call that waits longest, and further where that is whole too."""
        found: list[ToolCallDelta] = []
        while self._waiting:
            self._open = next(iter(self._waiting))
            deltas = self._waiting.pop(self._open)
            self._arguments = "".join(delta.arguments for delta in deltas)
            found += deltas
            if not _is_whole(self._arguments):
                break
        return found


def _is_whole(arguments: str) -> bool:
    try:
        orjson.loads(arguments)
    except ValueError:
        return False
    return True
