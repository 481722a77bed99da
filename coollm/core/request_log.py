"""Reads requests of the past from app.log and what was rotated of it."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coollm.core.errors import OperationFailed

BLOCK_BYTES = 1024 * 1024


def find_request(request_id: str, path: Path, ended: float | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The line of a request in the log at `path` or in what was rotated of it, and the other lines of the same file with its id, the oldest first. Files that
    were written last before it `ended` (a time of the epoch) are not looked into. Raises OperationFailed if there is none.
    """
    files = [path, *sorted(path.parent.glob(f"{path.name}?*"), key=lambda file: -file.stat().st_mtime)]
    for file in files if ended is None else [file for file in files if file.exists() and file.stat().st_mtime >= ended - 1]:
        found, others = None, []
        for line in _lines_with(request_id.encode(), file):
            entry = parse_line(line)
            if entry is None or entry.get("request_id") != request_id:
                continue
            if "attempts" in entry:
                found = entry
            else:
                others.append(entry)
        if found is not None:
            return found, others
    raise OperationFailed(f"no request '{request_id}' in {', '.join(str(file) for file in files)}", "older logs may be in a backup: coollm backup list")


def _lines_with(words: bytes, path: Path) -> Iterator[bytes]:
    """The lines that have the words, the oldest first. Blocks without them are not taken apart: a gateway that serves requests may be what looks."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            rest = b""
            while block := file.read(BLOCK_BYTES):
                *whole, rest = (rest + block).rsplit(b"\n", 1) if b"\n" in block else (rest + block,)
                if whole and words in whole[0]:
                    yield from (line for line in whole[0].split(b"\n") if words in line)
            if words in rest:
                yield rest
    except (OSError, EOFError, zlib.error) as error:
        raise OperationFailed(f"{path}: the log cannot be read: {getattr(error, 'strerror', None) or error}") from error


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The entry of a line of the log; None for one that is none, or was cut."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
