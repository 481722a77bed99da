"""Names of backups: they sort by time, and tell the kind and the host.

20261125T101500Z-full-gateway1-3fa9c2.tar.zst.age   the archive
20261125T101500Z-full-gateway1-3fa9c2.json          what it has to be; written last, so that an archive without it is none
"""

from __future__ import annotations

import platform
import re
import secrets
import time
from datetime import UTC, datetime
from typing import NamedTuple

FULL, CONFIG = "full", "config"
KINDS = (FULL, CONFIG)

NOTE = ".json"
SUFFIXES = (".tar.zst.age", ".tar.zst.gpg")

_NAME = re.compile(r"(\d{8}T\d{6}Z)-(full|config)-([a-z0-9.\-]+)-([0-9a-f]{6})")
_STAMP = "%Y%m%dT%H%M%SZ"


class Name(NamedTuple):
    """A backup's name, taken apart; `created` is a time of the epoch in seconds."""

    text: str
    created: float
    kind: str
    host: str


def new_name(kind: str, now: float | None = None) -> str:
    """The name of a backup that is about to be made on this host."""
    stamp = datetime.fromtimestamp(time.time() if now is None else now, UTC).strftime(_STAMP)
    return f"{stamp}-{kind}-{this_host()}-{secrets.token_hex(3)}"


def this_host() -> str:
    """This host's name, as names of backups have it."""
    return re.sub(r"[^a-z0-9.\-]", "-", platform.node().lower()) or "host"


def parse(text: str) -> Name | None:
    """A name; None for what is none."""
    found = _NAME.fullmatch(text)
    if found is None:
        return None
    try:
        created = datetime.strptime(found[1], _STAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
    return Name(text, created, found[2], found[3])
