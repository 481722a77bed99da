"""Lines of JSON that are alike: what repeats from line to line is written once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

MOST_REMEMBERED = 1000
LONGEST_REMEMBERED = 1000


class Repeated:
    """The members of a JSON object that have these names, for one of a line's parts. What is different in every line belongs in no such part."""

    def __init__(self, *names: str, prepared: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> None:
        """`prepared` gives the members as they are to be written."""
        self._names = names
        self._prepared = prepared
        self._written: dict[tuple[Any, ...], bytes] = {}

    def write(self, *values: Any) -> bytes:
        """These values under their names, without the braces of an object. A name's values are all of one type, or None."""
        found = self._written.get(values)
        if found is None:
            found = self.write_once(*values)
            if len(found) <= LONGEST_REMEMBERED:
                if len(self._written) >= MOST_REMEMBERED:
                    self._written.clear()
                self._written[values] = found
        return found

    def write_once(self, *values: Any) -> bytes:
        """The same for values that will hardly come again: they are not remembered, and nothing is forgotten for them."""
        return orjson.dumps(self._prepared(dict(zip(self._names, values, strict=True))))[1:-1]
