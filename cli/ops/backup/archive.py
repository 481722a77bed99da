"""An archive: a tree of files as tar, zstd and age (or gpg) make it, its last member a manifest of all the others.

    age -d -i recovery.key NAME.tar.zst.age | zstd -d | tar x

Sources: https://docs.python.org/3/library/tarfile.html, https://python-zstandard.readthedocs.io/.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from coollm_cli.ops.backup.encryption import Encryption, Identity, opened

from coollm.core.background import Gradual
from coollm.core.errors import CheckFailed

MANIFEST = "manifest.json"
LEVEL = 3
CHUNK = 1024 * 1024
FORMAT = 1
LARGEST_MANIFEST = 64 * CHUNK

_MEMBER = re.compile(r"[^\x00-\x1f\\]+")


class Member(msgspec.Struct, frozen=True):
    """A file of the archive. `origin` is where it was on the host, "" for what was made for the backup."""

    size_bytes: int
    sha256: str
    mode: int
    origin: str = ""


class Manifest(msgspec.Struct, frozen=True):
    """What a backup has to have. `rows` are those of the ledger's tables, `keys` fingerprints of keys; `created` is a time of the epoch in seconds."""

    name: str
    kind: str
    host: str
    created: float
    coollm: str
    config: str
    state: str
    ledger: str | None
    store: str
    rows: dict[str, int]
    store_keys: int
    keys: dict[str, Any]
    generation: int
    format: int = FORMAT
    files: dict[str, Member] = {}


Step = Callable[[int], None]


class Hashed:
    """A file that is written, or read, and its SHA-256."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        """Writes all of it."""
        self._file.write(data)
        self._count(data)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """As a file."""
        data: bytes = self._file.read(size)
        self._count(data)
        return data

    def flush(self) -> None:
        """As a file."""
        self._file.flush()

    def _count(self, data: bytes) -> None:
        self.digest.update(data)
        self.size += len(data)


def files_of(tree: Path) -> Iterator[Path]:
    """The files of a tree, in an order that is always the same."""
    for folder, folders, names in os.walk(tree):
        folders.sort()
        for name in sorted(names):
            yield Path(folder) / name


def pack(tree: Path, manifest: Manifest, origins: dict[str, str], encryption: Encryption, out: Path, step: Step) -> tuple[int, str]:
    """Makes the archive `out` of a tree. Returns its size and SHA-256. Raises OSError and OperationFailed."""
    import zstandard

    with out.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        with (
            encryption.into(Gradual(file)) as sealed,
            zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(sealed, closefd=False) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK) as tar,
        ):
            members = {}
            for path in files_of(tree):
                name = str(path.relative_to(tree))
                members[name] = _add(tar, path, name, origins.get(name, ""), step)
            text = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(manifest, files=members)), indent=1)
            told = tarfile.TarInfo(MANIFEST)
            told.size, told.mode, told.mtime = len(text), 0o600, int(manifest.created)
            tar.addfile(told, io.BytesIO(text))
        file.flush()
        os.fsync(file.fileno())
    with out.open("rb") as file:
        return hash_all(file, lambda _: None)


def _add(tar: tarfile.TarFile, path: Path, name: str, origin: str, step: Step) -> Member:
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        told = tarfile.TarInfo(name)
        told.size, told.mode, told.mtime = found.st_size, found.st_mode & 0o777, int(found.st_mtime)
        hashed = Stepped(file, step)
        tar.addfile(told, hashed)
        return Member(hashed.size, hashed.digest.hexdigest(), told.mode, origin)


class Stepped(Hashed):
    """One that tells how far it is read."""

    def __init__(self, file: Any, step: Step) -> None:
        super().__init__(file)
        self._step = step

    def read(self, size: int = -1) -> bytes:
        """As a file."""
        data = super().read(size)
        self._step(len(data))
        return data


def hash_all(file: Any, step: Step) -> tuple[int, str]:
    """The size and the SHA-256 of what is left of a file."""
    hashed = Stepped(file, step)
    while hashed.read(CHUNK):
        pass
    return hashed.size, hashed.digest.hexdigest()


def unpack(source: Any, kind: str, identity: Identity, recipients: tuple[str, ...], into: Path, step: Step) -> Manifest:
    """Writes the files of an archive under `into`, each for this user alone, and compares them with the manifest.

    Raises CheckFailed, which says what is missing or was changed; UsageError and OperationFailed where it cannot be opened; OSError.
    """
    import zstandard

    found: dict[str, Member] = {}
    text: bytes | None = None
    with opened(source, kind, identity, recipients) as clear:
        try:
            with (
                zstandard.ZstdDecompressor().stream_reader(clear, closefd=False) as packed,
                tarfile.open(fileobj=packed, mode="r|", bufsize=CHUNK) as tar,
            ):
                for member in tar:
                    if not member.isreg() or not _is_inside(member.name):
                        raise CheckFailed(f"'{member.name[:200]}' does not belong into a backup")
                    content = tar.extractfile(member)
                    assert content is not None  # noqa: S101  it is a regular file
                    if member.name == MANIFEST:
                        text = content.read(LARGEST_MANIFEST)
                    else:
                        found[member.name] = _extract(content, into / member.name, member.mode, step)
            while clear.read(CHUNK):  # to its end, which is authenticated, too
                pass
        except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
            raise CheckFailed(f"its content ends before its time, or makes no sense ({type(error).__name__})") from error
    return _compare(text, found)


def _extract(content: Any, path: Path, mode: int, step: Step) -> Member:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        hashed = Stepped(content, step)
        shutil.copyfileobj(hashed, file, CHUNK)
    return Member(hashed.size, hashed.digest.hexdigest(), mode)


def _is_inside(name: str) -> bool:
    return bool(_MEMBER.fullmatch(name)) and not name.startswith("/") and not {"", ".", ".."} & set(name.split("/"))


def _compare(text: bytes | None, found: dict[str, Member]) -> Manifest:
    if text is None:
        raise CheckFailed(f"{MANIFEST} is missing: the archive was not finished, or its end was cut off")
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckFailed(f"{MANIFEST} makes no sense: {error}") from error
    if manifest.format > FORMAT:
        raise CheckFailed(f"its format is {manifest.format}, and this version knows {FORMAT}", "use the version that made it, or a newer one")
    missing, more = sorted(manifest.files.keys() - found.keys()), sorted(found.keys() - manifest.files.keys())
    if missing or more:
        faults = [f"{name} is missing" for name in missing] + [f"{name} is not in its manifest" for name in more]
        raise CheckFailed("; ".join(faults[:5]))
    changed = [name for name, member in sorted(manifest.files.items()) if (member.size_bytes, member.sha256) != (found[name].size_bytes, found[name].sha256)]
    if changed:
        raise CheckFailed("; ".join(f"{name} is not what its manifest says" for name in changed[:5]))
    return manifest
