"""Where backups are: the contract of every place, and the directory. S3 is in a file of its own.

A place keeps files by their names. What has a name is whole, and is never overwritten.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from coollm.core.background import Gradual
from coollm.core.config.backup import Backup
from coollm.core.errors import CheckFailed, OperationFailed, UsageError
from coollm.core.files import sync_directory
from coollm.core.paths import is_installed, make_private

SYSTEM_TARGET = Path("/var/backups/coollm")
PARTIAL = ".partial"
CHUNK = 1024 * 1024
ABANDONED_SECONDS = 86400.0

Step = Callable[[int], None]


class Stored(NamedTuple):
    """A file of a place."""

    name: str
    size_bytes: int


class Target(Protocol):
    """A place. Every method raises OperationFailed, and Unreachable where the place does not answer. `url` is its name for messages."""

    url: str

    def names(self) -> list[Stored]:
        """What is there."""

    def open(self, name: str) -> BinaryIO:
        """A file, to be read to its end by whoever closes it. Raises CheckFailed if it is not there."""

    def put(self, name: str, source: Path, kept: dict[str, Any], note: Callable[[], None], step: Step) -> None:
        """Copies a file there. `kept` may hold how far an earlier attempt came; `note` is called after each change of it."""

    def put_text(self, name: str, text: bytes) -> None:
        """Writes a small file there."""

    def delete(self, name: str) -> None:
        """Removes a file; one that is not there is none."""

    def abandon(self, kept: dict[str, Any]) -> None:
        """Removes what an attempt left that will not be gone on with."""

    def tidy(self, *, dry_run: bool) -> list[str]:
        """Removes what was begun a day ago or longer, and never ended. Returns the names."""


class DirectoryTarget:
    """A directory of this host, or of another that is mounted here."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = str(directory)

    def names(self) -> list[Stored]:
        """See Target."""
        try:
            return [Stored(entry.name, entry.stat().st_size) for entry in os.scandir(self.directory) if entry.is_file() and not entry.name.startswith(".")]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._failed(error, "read") from error

    def open(self, name: str) -> BinaryIO:
        """See Target."""
        try:
            return (self.directory / name).open("rb")
        except FileNotFoundError as error:
            raise CheckFailed(f"{name} is not in {self.url}") from error
        except OSError as error:
            raise self._failed(error, "read") from error

    def put(self, name: str, source: Path, kept: dict[str, Any], note: Callable[[], None], step: Step) -> None:
        """See Target. A copy that broke off is begun anew."""
        kept["partial"] = f".{name}{PARTIAL}"
        note()
        with source.open("rb") as file:
            self._write(name, file, step)

    def put_text(self, name: str, text: bytes) -> None:
        """See Target."""
        import io

        self._write(name, io.BytesIO(text), lambda _: None)

    def _write(self, name: str, source: BinaryIO, step: Step) -> None:
        beside = self.directory / f".{name}{PARTIAL}"
        try:
            make_private(self.directory)
            with beside.open("wb") as file:
                os.fchmod(file.fileno(), 0o600)
                gradual = Gradual(file)
                while data := source.read(CHUNK):
                    gradual.write(data)
                    step(len(data))
                file.flush()
                os.fsync(file.fileno())
            if (self.directory / name).exists():
                raise OperationFailed(f"{self.directory / name} is there already, and backups are not overwritten")
            beside.rename(self.directory / name)
            sync_directory(self.directory)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise self._failed(error, "written") from error

    def delete(self, name: str) -> None:
        """See Target."""
        try:
            (self.directory / name).unlink(missing_ok=True)
            sync_directory(self.directory)
        except OSError as error:
            raise self._failed(error, "changed") from error

    def abandon(self, kept: dict[str, Any]) -> None:
        """See Target."""
        if kept.get("partial"):
            with contextlib.suppress(OSError):
                (self.directory / kept["partial"]).unlink()

    def tidy(self, *, dry_run: bool) -> list[str]:
        """See Target."""
        old = []
        with contextlib.suppress(OSError):
            for file in self.directory.glob(f".*{PARTIAL}"):
                if time.time() - file.stat().st_mtime > ABANDONED_SECONDS:
                    old.append(file.name)
                    if not dry_run:
                        file.unlink(missing_ok=True)
        return old

    def _failed(self, error: OSError, what: str) -> OperationFailed:
        way_out = {
            errno.ENOSPC: f"make room on its disk ({_free(self.directory)} MB are free): coollm backup prune",
            errno.EACCES: "be root, or the user whose backups they are",
            errno.EROFS: "it is mounted read-only: backup.target",
        }
        return OperationFailed(f"{self.url} cannot be {what}: {error.strerror}", way_out.get(error.errno or 0, "backup.target names another place"))


def _free(directory: Path) -> int:
    with contextlib.suppress(OSError):
        return shutil.disk_usage(next(one for one in (directory, *directory.parents) if one.exists())).free // 1_000_000
    return 0


def find_target(settings: Backup | None, config: Path, state: Path, given: str | None = None) -> Target:
    """The place that `--target` or the configuration names. Raises UsageError and OperationFailed."""
    settings = settings or Backup()
    text = given or settings.target
    if text is None:
        return DirectoryTarget(SYSTEM_TARGET if is_installed(config) else state / "backups")
    if text.startswith("s3://"):
        from coollm_cli.ops.backup.s3 import S3Target

        return S3Target(text, settings.s3)
    if "://" in text:
        raise UsageError(f"--target {text}: expected a directory, or s3://BUCKET/PREFIX")
    return DirectoryTarget(Path(text).absolute())
