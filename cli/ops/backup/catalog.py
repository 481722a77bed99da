"""The backups of a place: those that are whole by what their notes say, and what was begun there."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import msgspec
from coollm_cli.ops.backup.names import FULL, NOTE, SUFFIXES, Name, parse
from coollm_cli.ops.backup.records import Record
from coollm_cli.ops.backup.target import Target
from coollm_cli.ops.times import instant

from coollm.core.errors import CheckFailed, OperationFailed, UsageError

LONGEST_NOTE = 1024 * 1024
LATEST = "latest"


class Note(msgspec.Struct, frozen=True):
    """What an archive has to be; public, since it stands beside it in clear. `created` is a time of the epoch in seconds, `check` a SHA-256 of the rest."""

    name: str
    archive: str
    created: float
    kind: str
    host: str
    size_bytes: int
    sha256: str
    encryption: str
    recipients: tuple[str, ...]
    coollm: str
    format: int = 1
    check: str = ""

    def checked(self) -> Note:
        """The same with its check."""
        return msgspec.structs.replace(self, check=hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, check=""))).hexdigest())


class Found(NamedTuple):
    """A backup of a place. `note` tells of its size as the place has it; `is_whole` is false for an archive without a note, or a note without an archive."""

    name: Name
    size_bytes: int
    is_whole: bool
    files: tuple[str, ...]


def backups(target: Target) -> list[Found]:
    """All that is there, the newest first. Raises as Target."""
    by_name: dict[str, dict[str, int]] = {}
    for one in target.names():
        suffix = next((end for end in (*SUFFIXES, NOTE) if one.name.endswith(end)), None)
        if suffix is not None and parse(one.name.removesuffix(suffix)) is not None:
            by_name.setdefault(one.name.removesuffix(suffix), {})[one.name] = one.size_bytes
    found = []
    for text, files in by_name.items():
        name = parse(text)
        assert name is not None  # noqa: S101  it was parsed above
        archives = [size for file, size in files.items() if not file.endswith(NOTE)]
        found.append(Found(name, sum(archives), bool(archives) and f"{text}{NOTE}" in files, tuple(sorted(files))))
    return sorted(found, key=lambda one: one.name, reverse=True)


def read_note(target: Target, name: str) -> Note:
    """What a backup has to be. Raises CheckFailed, and as Target."""
    with target.open(f"{name}{NOTE}") as file:
        text = file.read(LONGEST_NOTE)
    try:
        note = msgspec.json.decode(text, type=Note)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckFailed(f"{name}{NOTE} makes no sense: {error}", "coollm backup list: another one") from error
    if note.checked() != note:
        raise CheckFailed(f"{name}{NOTE} was changed: it is not what its own check says", "coollm backup list: another one")
    if note.name != name or note.archive not in [f"{name}{suffix}" for suffix in SUFFIXES]:
        raise CheckFailed(f"{name}{NOTE} is of another backup, {note.name}")
    return note


def choose(target: Target, wanted: str | None, *, at: float | None = None, kinds: tuple[str, ...] = (FULL,), host: str | None = None) -> Found:
    """The backup that is named, or the newest whole one not after `at`. Raises UsageError, OperationFailed and CheckFailed."""
    there = backups(target)
    if wanted not in (None, LATEST):
        one = next((one for one in there if one.name.text == wanted), None)
        if one is None:
            raise UsageError(f"there is no backup '{wanted}' in {target.url}", "coollm backup list")
        if not one.is_whole:
            raise CheckFailed(f"{wanted} is not whole: {_lack(one)}", "coollm backup list: another one")
        return one
    fitting = [one for one in there if one.is_whole and one.name.kind in kinds and (at is None or one.name.created <= at) and host in (None, one.name.host)]
    if not fitting:
        what = f"no {' or '.join(kinds)} backup{f' of {host}' if host else ''}{' from before that time' if at is not None else ''}"
        raise OperationFailed(f"there is {what} in {target.url}", "coollm backup list shows what there is")
    return fitting[0]


def _lack(one: Found) -> str:
    return "its archive is missing" if all(file.endswith(NOTE) for file in one.files) else "its note is missing: it was never finished"


def as_json(one: Found, record: Record) -> dict[str, Any]:
    """As `backup list` tells of it."""
    return {
        "id": one.name.text,
        "created": instant(one.name.created),
        "kind": one.name.kind,
        "host": one.name.host,
        "size_bytes": one.size_bytes,
        "whole": one.is_whole,
        "verified": instant(record.verified),
        "verify_fault": record.verify_fault or None,
        "drilled": instant(record.drilled),
        "drill_fault": record.drill_fault or None,
        "drill_seconds": record.drill_seconds or None,
    }
