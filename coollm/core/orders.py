"""What administrators ask for in the console that only root may do: the gateway writes an order, and `coollm orders run`, which systemd starts, carries it out.

    STATE/orders/ID.json       {"id", "action", "argument", "by", "role", "address", "at"}
    STATE/orders/done/ID.json  the same, with "began", "ended", "exit_code" and the last lines of what was "told"

The gateway's user can do no more by this than what ACTIONS has: none of them takes a path, an address or a text of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from coollm.core.errors import OperationFailed
from coollm.core.files import replace_file
from coollm.core.paths import make_private

DIRECTORY = "orders"
DONE = "done"
KEPT = 100
LARGEST_BYTES = 64 * 1024
STALE_SECONDS = 900.0
"""An order that nobody has carried out for so long is not wanted any more: who gave it has done something else since."""

_ID = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")
_INSTANCE = re.compile(r"[1-9]\d?")


class Action(NamedTuple):
    """The words of the command, the role that it needs, and whether an instance belongs to it."""

    words: tuple[str, ...]
    role: str
    has_instance: bool = False


ACTIONS: Mapping[str, Action] = {
    "restart": Action(("restart", "--rolling", "--yes", "--quiet"), "admin"),
    "drain": Action(("drain", "--yes", "--quiet"), "operator", has_instance=True),
    "undrain": Action(("undrain", "--yes", "--quiet"), "operator", has_instance=True),
    "backup": Action(("backup", "create", "--quiet"), "operator"),
    "drill": Action(("backup", "drill", "--quiet"), "operator"),
}


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One order. Times are of the epoch in seconds; `exit_code` is None until it is carried out."""

    id: str
    action: str
    argument: str = ""
    by: str
    role: str
    address: str
    at: float
    began: float = 0.0
    ended: float = 0.0
    exit_code: int | None = None
    told: str = ""

    def command(self) -> tuple[str, ...]:
        """The words of the command. Raises OperationFailed for what is no order."""
        action = ACTIONS.get(self.action)
        if action is None:
            raise OperationFailed(f"'{self.action[:40]}' is nothing that can be ordered", f"known: {', '.join(ACTIONS)}")
        if not action.has_instance:
            return action.words
        if not _INSTANCE.fullmatch(self.argument):
            raise OperationFailed(f"'{self.argument[:40]}' is no instance", "instances are numbers, as coollm status shows them")
        return (action.words[0], self.argument, *action.words[1:])


class Orders:
    """The orders of a host."""

    def __init__(self, state: Path) -> None:
        self._directory = state / DIRECTORY

    def give(self, action: str, argument: str, by: str, role: str, address: str) -> Order:
        """Writes an order. Raises OperationFailed for one that cannot be, and OSError."""
        now = time.time()
        name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}-{secrets.token_hex(4)}"
        order = Order(id=name, action=action, argument=argument, by=by[:200], role=role, address=address, at=now)
        order.command()
        make_private(self._directory)
        replace_file(self._directory / f"{order.id}.json", msgspec.json.encode(order), like=self._directory)
        return order

    def waiting(self) -> list[Order]:
        """Those that nobody has carried out, the oldest first."""
        return self._read(self._directory)

    def done(self) -> list[Order]:
        """Those that were, the newest first."""
        return self._read(self._directory / DONE)[::-1]

    def begin(self, order: Order) -> None:
        """Notes that an order is being carried out. Raises OSError."""
        replace_file(self._directory / f"{order.id}.json", msgspec.json.encode(order), like=self._directory)

    def end(self, order: Order) -> None:
        """Keeps an order with its end. Raises OSError."""
        done = make_private(self._directory / DONE)
        replace_file(done / f"{order.id}.json", msgspec.json.encode(order), like=self._directory)
        (self._directory / f"{order.id}.json").unlink(missing_ok=True)
        for old in sorted(done.glob("*.json"))[:-KEPT]:
            old.unlink(missing_ok=True)

    def clear(self) -> int:
        """Removes what is no order, for which systemd would start the command again and again. Returns how many files that were."""
        known = {f"{order.id}.json" for order in self.waiting()}
        others = [file for file in self._directory.glob("*.json") if file.name not in known]
        for file in others:
            with contextlib.suppress(OSError):
                file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
        return len(others)

    @staticmethod
    def _read(directory: Path) -> list[Order]:
        found = []
        for file in sorted(directory.glob("*.json")):
            # Root reads what another user wrote: a link, a device or a file without an end is not followed, opened or read.
            with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
                descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                with open(descriptor, "rb") as opened:
                    order = msgspec.json.decode(opened.read(LARGEST_BYTES), type=Order)
                if _ID.fullmatch(order.id) and file.name == f"{order.id}.json":
                    found.append(order)
        return found
