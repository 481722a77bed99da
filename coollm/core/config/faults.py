"""A fault of a configuration: its place, its path, what is wrong and the way out."""

from __future__ import annotations

import msgspec

from coollm.core.errors import CoollmError


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


class ConfigurationError(CoollmError):
    """The configuration is invalid; `faults` has every fault found in one run."""

    exit_code = 3

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults
