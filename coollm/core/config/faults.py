"""A fault of a configuration: its place, its path, what is wrong and the way out."""

from __future__ import annotations

import msgspec


class Place(msgspec.Struct, frozen=True, order=True):
    """Line and column in a file, both from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Fault(msgspec.Struct, frozen=True):
    """One fault. `place` is None where there is none, such as a variable of the environment."""

    place: Place | None
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        what = f"{self.path}: " if self.path else ""
        return f"{where}{what}{self.message}"

    def as_json(self) -> dict[str, object]:
        """The shape that `config validate --json` promises."""
        place = self.place
        return {
            "file": place.file if place else None,
            "line": place.line if place else None,
            "column": place.column if place else None,
            "path": self.path,
            "message": self.message,
            "hint": self.hint,
        }
