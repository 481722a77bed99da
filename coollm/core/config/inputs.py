"""What the settings in force are made of beside the file of their generation: secrets, and vendor keys that were added or retired."""

from __future__ import annotations

import hashlib
from pathlib import Path

from coollm.core.paths import SECRETS
from coollm.core.vendor_keys import FILE_NAME as VENDOR_KEYS


def input_files(state: Path) -> tuple[Path, ...]:
    """The files beside the generation's own; each may be missing."""
    return state / SECRETS, state / VENDOR_KEYS


def stamp(generation: int, state: Path) -> str:
    """Names what a worker serves: another one where anything of it has changed."""
    digest = hashlib.sha256(str(generation).encode())
    for path in input_files(state):
        try:
            content = path.read_bytes()
        except OSError:
            content = b""
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]
