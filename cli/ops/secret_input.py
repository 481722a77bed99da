"""Secrets that a command is given: on a terminal, on standard input, or in a file; never as an argument, which every user of the host can read."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

from coollm.core.errors import UsageError

LONGEST = 64 * 1024


def read_secret(what: str, file: Path | None = None, *, twice: bool = False) -> str:
    """The secret, without the line break at its end. With `twice` a person types it again. Raises UsageError."""
    if file is not None:
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from error
    elif sys.stdin.isatty():
        text = getpass.getpass(f"{what}: ")
        if twice and getpass.getpass("once more: ") != text:
            raise UsageError("the two are not the same", "nothing was changed")
    else:
        text = sys.stdin.read(LONGEST + 1)
    text = text.rstrip("\r\n")
    if not text:
        raise UsageError(f"{what}: nothing was given", "pipe it in, type it when asked, or name a file")
    if len(text) > LONGEST:
        raise UsageError(f"{what}: longer than {LONGEST} characters")
    return text
