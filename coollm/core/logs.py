"""app.log: one JSON object a line, redacted where it is written, never a prompt."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from coollm.core.config.schema import Settings
from coollm.core.errors import OperationFailed
from coollm.core.paths import log_directory, make_private
from coollm.core.secrets import Redactor

STANDARD_ERROR = "-"
CHECK_FILE_EVERY_SECONDS = 1.0

_root = logging.getLogger("coollm")

_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def log_file(settings: Settings, config: Path, state: Path) -> Path | None:
    """Where app.log is; None means standard error."""
    if settings.logging.file == STANDARD_ERROR:
        return None
    return Path(settings.logging.file) if settings.logging.file else log_directory(config, state) / "app.log"


class JsonFormatter(logging.Formatter):
    """A record and its extra fields as one line of JSON, redacted."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its line break."""
        line = _beginning(record.created, record.levelname, record.name, record.getMessage())
        line.update({name: value for name, value in vars(record).items() if name not in _STANDARD_FIELDS})
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            # Frames without their local variables: those hold keys and prompts.
            line["trace"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(record.exc_info[2])]
            line["cause"] = str(record.exc_info[1])
        return self.write(line)

    def write(self, line: dict[str, Any]) -> str:
        """A line as JSON, redacted."""
        return self._redact(orjson.dumps(line, default=str).decode())


_LEVELS = {level: name.lower() for name, level in logging.getLevelNamesMapping().items()}

_told = (0, "")


def _time(created: float) -> str:
    """A time of the epoch in seconds, in ISO 8601 with milliseconds; all but these is made once a second."""
    global _told
    whole = int(created)
    if _told[0] != whole:
        _told = (whole, datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S."))
    return f"{_told[1]}{int((created - whole) * 1000):03d}+00:00"


def _beginning(created: float, level: str, name: str, message: str) -> dict[str, Any]:
    return {"time": _time(created), "level": level.lower(), "logger": name, "message": message}


class LineFileHandler(logging.Handler):
    """Appends whole lines with one write each, so that the lines of several processes do not mix. Opens the file anew when log rotation has moved it."""

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self._path = path
        self._checked = 0.0
        self._descriptor = sys.stderr.fileno() if path is None else self._open(path)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record. A full disk loses the line and not the request."""
        self.write((self.format(record) + "\n").encode("utf-8", "backslashreplace"))

    def write(self, lines: bytes) -> None:
        """Writes lines, each with its end."""
        with contextlib.suppress(OSError):
            self._reopen_if_moved()
            os.write(self._descriptor, lines)

    def close(self) -> None:
        """Closes the file."""
        if self._path is not None and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        super().close()

    @staticmethod
    def _open(path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _reopen_if_moved(self) -> None:
        now = time.monotonic()
        if self._path is None or now - self._checked < CHECK_FILE_EVERY_SECONDS:
            return
        self._checked = now
        ours = os.fstat(self._descriptor)
        try:
            there = self._path.stat()
        except FileNotFoundError:
            there = None
        if there is None or (there.st_ino, there.st_dev) != (ours.st_ino, ours.st_dev):
            fresh = self._open(self._path)
            os.close(self._descriptor)
            self._descriptor = fresh


def open_log(settings: Settings, path: Path | None, redact: Redactor) -> LineFileHandler:
    """Sends the `coollm` loggers of this process to `path`. Raises OperationFailed if it cannot be written."""
    try:
        if path is not None and not path.parent.exists():
            make_private(path.parent)
        handler = LineFileHandler(path)
    except OSError as error:
        raise OperationFailed(f"{path}: the log cannot be written: {error.strerror}", "give logging.file another path") from error
    handler.setFormatter(JsonFormatter(redact))
    for before in list(_root.handlers):
        _root.removeHandler(before)
        before.close()
    _root.addHandler(handler)
    _root.setLevel(settings.logging.level.upper())
    _root.propagate = False
    return handler


def write_lines(logger: logging.Logger, message: str, lines: Sequence[tuple[int, bytes]]) -> None:
    """What `logger.log(level, message, extra=…)` writes of each, with one write for all of them: there is a line for each request.

    A line is its level, and its fields as JSON without the braces of an object. Whoever calls it has redacted what others wrote in them: to look through the
    whole line takes longer than to write it. `message` is a word of ours.
    """
    for handler in _root.handlers:
        if isinstance(handler, LineFileHandler):
            now, whose = _time(time.time()), f'"logger":"{logger.name}","message":"{message}"'
            starts = {level: f'{{"time":"{now}","level":"{_LEVELS[level]}",{whose},'.encode() for level in dict(lines)}
            handler.write(b"".join([starts[level] + members + b"}\n" for level, members in lines]))
        else:
            for level, members in lines:
                handler.handle(logger.makeRecord(logger.name, level, "", 0, message, (), None, extra=orjson.loads(b"{%b}" % members)))
