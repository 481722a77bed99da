"""Reads requests of the past from app.log."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coollm_cli.ops.gateway_client import running_instances

from coollm.core.config.load import load
from coollm.core.errors import ConfigurationError, OperationFailed, UsageError
from coollm.core.logs import log_file
from coollm.core.paths import find_config, state_directory

BLOCK_BYTES = 1024 * 1024


def find_request(request_id: str, path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The line of a request in the log at `path` or in what was rotated of it, and the other lines of the same file with its id, the oldest first. Raises
    OperationFailed if there is none.
    """
    files = [path, *sorted(path.parent.glob(f"{path.name}?*"), key=lambda file: -file.stat().st_mtime)]
    for file in files:
        found, others = None, []
        for line in _compressed(file) if file.suffix == ".gz" else _lines_from_the_end(file):
            entry = parse_line(line) if request_id.encode() in line else None
            if entry is None or entry.get("request_id") != request_id:
                continue
            if "attempts" not in entry:
                others.append(entry)
            elif found is None:
                found = entry
        if found is not None:
            return found, sorted(others, key=lambda entry: str(entry.get("time")))
    raise OperationFailed(f"no request '{request_id}' in {', '.join(str(file) for file in files)}", "older logs may be in a backup: coollm backup list")


def log_path(config: Path | None) -> Path | None:
    """app.log of the gateway that runs, else of the configuration in force; None if the log goes to standard error."""
    running = running_instances(config)
    if running:
        return Path(running[0].log) if running[0].log else None
    path = find_config(config).absolute()
    loaded = load(path)
    if loaded.settings is None:
        raise ConfigurationError(loaded.faults)
    return log_file(loaded.settings, path, state_directory(path))


def _lines_from_the_end(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            rest = b""
            while end > 0:
                start = max(0, end - BLOCK_BYTES)
                file.seek(start)
                lines = (file.read(end - start) + rest).split(b"\n")
                end, rest = start, lines[0]
                yield from reversed(lines[1:])
            yield rest
    except OSError as error:
        raise OperationFailed(f"{path}: the log cannot be read: {error.strerror}") from error


def _compressed(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise OperationFailed(f"{path}: the log cannot be read: {error}") from error


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The entry of a line of the log; None for one that is none, or was cut."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def read_request(path: Path) -> dict[str, Any]:
    """A chat request from a file. Raises UsageError."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"--request {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--request {path}: not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"--request {path}: expected a JSON object")
    return found
