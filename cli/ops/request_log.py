"""Reads requests of the past from app.log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coollm_cli.ops.gateway_client import running_instances

from coollm.core.config.load import load
from coollm.core.errors import ConfigurationError, OperationFailed, UsageError
from coollm.core.logs import log_file
from coollm.core.paths import find_config, state_directory

BLOCK_BYTES = 1024 * 1024


def find_request(request_id: str, path: Path) -> dict[str, Any]:
    """The line of a request in the log at `path`. Raises OperationFailed if there is none."""
    for line in _lines_from_the_end(path):
        if request_id.encode() in line:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict) and found.get("request_id") == request_id and "attempts" in found:
                return found
    raise OperationFailed(f"no request '{request_id}' in {path}", "older lines may be in a rotated file: name it with logging.file in another --config")


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
