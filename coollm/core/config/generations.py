"""Generations of the configuration: every one that was applied is kept, and one file says which of them is in force.

    STATE/generations/current        {"number": 4, "previous": 3, "revert_at": null}
    STATE/generations/4/config.yaml  what was applied
    STATE/generations/4/note.json    {"applied": 1790000000.0, "by": "root", "reason": "config apply", "digest": "…"}

`current` is replaced in one step. One that was applied with a time to confirm it has `revert_at`: once that has passed, the one before it is in force again,
for everyone who reads the file, without anybody who would have to act.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

import msgspec

from coollm.core.errors import OperationFailed
from coollm.core.files import replace_file
from coollm.core.paths import is_installed, make_private
from coollm.core.types import Json

CURRENT = "current"
CONFIG = "config.yaml"
NOTE = "note.json"
KEPT = 50

SHORTEST_CONFIRM_SECONDS = 5.0
"""Sooner nobody can confirm one."""


class Pointer(msgspec.Struct, frozen=True):
    """Which generation is in force; `revert_at` is a time of the epoch in seconds."""

    number: int
    previous: int | None = None
    revert_at: float | None = None

    def effective(self, now: float) -> int:
        """The generation that is in force at `now`."""
        if self.revert_at is not None and self.previous is not None and now >= self.revert_at:
            return self.previous
        return self.number

    def is_unconfirmed(self, now: float) -> bool:
        """Whether it is in force for now, and reverts unless it is confirmed."""
        return self.revert_at is not None and now < self.revert_at


class Generation(msgspec.Struct, frozen=True):
    """One that was applied."""

    number: int
    file: Path
    applied: float
    by: str
    reason: str
    digest: str


class Generations:
    """The generations of one configuration."""

    def __init__(self, config: Path, state: Path) -> None:
        self.config = config
        folder = state / "generations"
        self.directory = folder if is_installed(config) else folder / hashlib.sha256(os.fsencode(config.absolute())).hexdigest()[:12]
        self.pointer_file = self.directory / CURRENT

    def pointer(self) -> Pointer | None:
        """Which one is in force; None if none was ever applied. Raises OperationFailed if the file makes no sense."""
        try:
            return msgspec.json.decode(self.pointer_file.read_bytes(), type=Pointer)
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
            way_out = "put back a number of a folder beside it: coollm config history"
            raise OperationFailed(f"{self.pointer_file}: cannot be read: {error}", way_out) from error

    def effective(self) -> Generation | None:
        """The one that is in force now."""
        pointer = self.pointer()
        return None if pointer is None else self.get(pointer.effective(time.time()))

    def get(self, number: int) -> Generation:
        """One by its number. Raises OperationFailed if there is none."""
        folder = self.directory / str(number)
        try:
            note = json.loads((folder / NOTE).read_text("utf-8"))
            return Generation(number, folder / CONFIG, float(note["applied"]), str(note["by"]), str(note["reason"]), str(note["digest"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OperationFailed(f"there is no generation {number} of {self.config}", "coollm config history lists them") from error

    def all(self) -> list[Generation]:
        """Those that are kept, the newest first."""
        numbers = sorted((int(folder.name) for folder in self.directory.glob("[0-9]*") if folder.name.isdigit()), reverse=True)
        found = []
        for number in numbers:
            try:
                found.append(self.get(number))
            except OperationFailed:
                continue  # one that is just being written
        return found

    def listed(self) -> list[Json]:
        """The same, as they are told of: which of them is in force, and which is unconfirmed."""
        effective, pointer = self.effective(), self.pointer()
        return [
            {
                "number": one.number,
                "applied": one.applied,
                "by": one.by,
                "reason": one.reason,
                "digest": one.digest,
                "in_force": effective is not None and one.number == effective.number,
                "unconfirmed": pointer is not None and pointer.number == one.number and pointer.is_unconfirmed(time.time()),
            }
            for one in self.all()
        ]

    def add(self, content: bytes, by: str, reason: str, most: int = KEPT, oldest: float = 0.0) -> Generation:
        """Keeps a configuration as a new generation, which is not in force yet. Of older ones `most` stay, of those that were applied after `oldest`."""
        make_private(self.directory.parent)
        make_private(self.directory)
        number = self._take_number()
        folder = make_private(self.directory / str(number))
        digest = hashlib.sha256(content).hexdigest()
        replace_file(folder / CONFIG, content, like=self.directory)
        note = {"applied": time.time(), "by": by, "reason": reason, "digest": digest}
        replace_file(folder / NOTE, json.dumps(note).encode(), like=self.directory)
        self._forget_old(number, most, oldest)
        return self.get(number)

    def _take_number(self) -> int:
        """The next number, which nobody else takes at the same time."""
        while True:
            number = max((int(folder.name) for folder in self.directory.glob("[0-9]*") if folder.name.isdigit()), default=0) + 1
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.directory / str(number), 0o700)
                if os.getuid() == 0:
                    owner = self.directory.stat()
                    os.chown(self.directory / str(number), owner.st_uid, owner.st_gid)
                return number

    def set(self, number: int, previous: int | None = None, revert_at: float | None = None) -> None:
        """Puts one in force: gateways that run have it within a second. With `revert_at` it is only until then."""
        replace_file(self.pointer_file, msgspec.json.encode(Pointer(number, previous, revert_at)), like=self.directory)

    def start_with(self, by: str, *, follow_file: bool) -> Generation | None:
        """What a gateway starts with: the one in force, or a new one of the file where there is none; with `follow_file` also where the file has changed."""
        effective = self.effective()
        if effective is not None and not follow_file:
            return effective
        try:
            content = self.config.read_bytes()
        except OSError:
            return effective
        if effective is not None and effective.digest == hashlib.sha256(content).hexdigest():
            return effective
        made = self.add(content, by, "the file, as the gateway started")
        self.set(made.number, effective.number if effective else None)
        return made

    def _forget_old(self, newest: int, most: int, oldest: float) -> None:
        pointer = self.pointer()
        in_use = {newest, pointer.number, pointer.previous} if pointer else {newest}
        for one in self.all():
            if one.number not in in_use and (one.number <= newest - most or one.applied < oldest):
                for file in one.file.parent.iterdir():
                    file.unlink(missing_ok=True)
                one.file.parent.rmdir()
