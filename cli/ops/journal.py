"""What is being changed, written before it is done: a command that was killed can be run again, and finishes or takes back.

    DIR/journal/20261125T101500-restart.json
      {"id", "kind", "command", "by", "began", "state": "running", "parameters": {…}, "begun": ["surge"], "done": [], "kept": {…}}

States: running, done, undone (taken back), failed (stopped, and said so).
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from coollm.core.errors import OperationFailed
from coollm.core.files import replace_file
from coollm.core.paths import make_private

KEPT = 200

RUNNING, DONE, UNDONE, FAILED = "running", "done", "undone", "failed"


class Entry(msgspec.Struct):
    """One change. `parameters` are all that its steps need; `kept` is what they have found out; `reverse` is the kind and the parameters that take it back.
    `once` is shown with the end of the change and never written, such as a new key.
    """

    id: str
    kind: str
    command: str
    by: str
    began: float
    parameters: dict[str, Any]
    state: str = RUNNING
    begun: list[str] = []
    done: list[str] = []
    kept: dict[str, Any] = {}
    reverse: tuple[str, dict[str, Any]] | None = None
    ended: float = 0.0
    once: dict[str, str] = {}


class Journal:
    """The changes of one host, in its own directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "journal"

    def begin(self, kind: str, command: str, by: str, parameters: dict[str, Any]) -> Entry:
        """A change that is about to be made."""
        make_private(self._directory.parent)
        make_private(self._directory)
        now = time.time()
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S.%f")
        entry = Entry(f"{stamp}-{kind}", kind, command, by, now, parameters)
        self.write(entry)
        for old in sorted(self._directory.glob("*.json"))[:-KEPT]:
            old.unlink(missing_ok=True)
        return entry

    def write(self, entry: Entry) -> None:
        """Lets the disk have how far a change is. Raises OperationFailed: what is not written must not be done."""
        try:
            replace_file(self._directory / f"{entry.id}.json", msgspec.json.encode(msgspec.structs.replace(entry, once={})))
        except OSError as error:
            raise OperationFailed(f"{self._directory}: the journal cannot be written: {error.strerror}", "make room on its disk") from error

    def all(self) -> list[Entry]:
        """Those that are kept, the newest first."""
        found = []
        for file in sorted(self._directory.glob("*.json"), reverse=True):
            try:
                found.append(msgspec.json.decode(file.read_bytes(), type=Entry))
            except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
                continue  # removed in between, or of another version
        return found

    def unfinished(self) -> Entry | None:
        """The change that somebody began and did not end, if there is one."""
        return next((entry for entry in self.all() if entry.state == RUNNING), None)
