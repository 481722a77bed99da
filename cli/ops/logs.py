"""app.log for people: one line each, as it is written or as it comes."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coollm_cli import output
from coollm_cli.output import Result

from coollm.core.config.load import load
from coollm.core.errors import ConfigurationError, OperationFailed, Unreachable
from coollm.core.logs import log_file
from coollm.core.paths import state_directory
from coollm.core.request_log import parse_line

LOOK_SECONDS = 0.2
SHOWN = ("request_id", "client", "route", "provider", "model", "key_id", "status", "ending", "latency_ms", "cost_usd", "error", "reason", "cause")


def last_lines(config: Path, state: Path | None, count: int, request_id: str | None, level: str | None, *, as_json: bool) -> Result:
    """The last lines that are wanted."""
    path = _log(config, state)
    wanted = deque((entry for entry in _entries(path) if _is_wanted(entry, request_id, level)), maxlen=count)
    return Result({"lines": list(wanted)}, [_text(entry) for entry in wanted], as_json=as_json)


def entries(config: Path, state: Path | None) -> Iterator[dict[str, Any]]:
    """Every line of the log that is now, the oldest first. Raises ConfigurationError, OperationFailed and Unreachable."""
    yield from _entries(_log(config, state))


def follow(config: Path, state: Path | None, count: int, request_id: str | None, level: str | None, *, as_json: bool) -> Result:
    """The last lines, then each that comes, until Ctrl-C; the file that log rotation puts in its place is followed, too."""
    path = _log(config, state)
    for entry in deque((entry for entry in _entries(path) if _is_wanted(entry, request_id, level)), maxlen=count):
        _show(entry, as_json=as_json)
    try:
        for entry in _coming(path):
            if _is_wanted(entry, request_id, level):
                _show(entry, as_json=as_json)
    except KeyboardInterrupt:
        pass
    return Result({}, [])


def _log(config: Path, state: Path | None) -> Path:
    loaded = load(config)
    if loaded.settings is None:
        raise ConfigurationError(loaded.faults)
    path = log_file(loaded.settings, config, state_directory(config, state))
    if path is None:
        raise OperationFailed("the gateway logs to standard error (logging.file is '-')", "journalctl -u 'coollm@*', or the terminal that it runs in")
    if not path.exists():
        raise Unreachable(f"{path}: there is no log yet", "coollm status shows whether a gateway runs")
    return path


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            for line in file:
                entry = parse_line(line)
                if entry is not None:
                    yield entry
    except PermissionError as error:
        raise OperationFailed(f"{path}: may not be read by this user", "use sudo") from error


def _coming(path: Path) -> Iterator[dict[str, Any]]:
    file = path.open("rb")
    try:
        file.seek(0, 2)
        rest = b""
        while True:
            data = file.read()
            if not data:
                time.sleep(LOOK_SECONDS)
                if path.exists() and path.stat().st_ino != _inode(file):
                    file.close()
                    file = path.open("rb")
                continue
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                entry = parse_line(line)
                if entry is not None:
                    yield entry
    finally:
        file.close()


def _inode(file: Any) -> int:
    return os.fstat(file.fileno()).st_ino


def _is_wanted(entry: dict[str, Any], request_id: str | None, level: str | None) -> bool:
    return (request_id is None or entry.get("request_id") == request_id) and (level is None or entry.get("level") == level)


def _text(entry: dict[str, Any]) -> str:
    told = " ".join(f"{name}={entry[name]}" for name in SHOWN if entry.get(name) not in (None, ""))
    return f"{str(entry.get('time', ''))[:23]} {entry.get('level', '')!s:<7} {entry.get('message', '')} {told}".rstrip()


def _show(entry: dict[str, Any], *, as_json: bool) -> None:
    output.write((json.dumps(entry, ensure_ascii=False) if as_json else output.plain(_text(entry))) + "\n")
