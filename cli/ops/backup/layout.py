"""Lays the files of a backup out as a gateway would find them, in a directory: to validate its configuration, and to boot it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from coollm_cli.ops.backup.archive import Manifest

from coollm.core.config.generations import CURRENT, Pointer
from coollm.core.config.load import Loaded, load
from coollm.core.errors import CheckFailed
from coollm.core.files import link_or_copy

MASTER_KEY_VARIABLES = ("COOLLM_MASTER_KEY_FILE", "CREDENTIALS_DIRECTORY")


class Layout:
    """A configuration of its own under `home`, with its state beside it."""

    def __init__(self, home: Path, tree: Path, manifest: Manifest) -> None:
        self.home = home
        self.config = home / "config.yaml"
        self.state = home / "state"
        self._tree = tree
        self._manifest = manifest

    def make(self) -> Loaded:
        """Copies small files, and links large ones. Returns what the configuration comes to, with the backup's own secrets and variables alone."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.state.mkdir(exist_ok=True, mode=0o700)
        text = effective_file(self._tree).read_text("utf-8")
        for name, member in self._manifest.files.items():
            if name.startswith("config/files/") and member.origin:
                text = text.replace(member.origin, str(self._tree / name))
        self.config.write_text(text, "utf-8")
        self._take("config/environment", self.home / ".env")
        for name in ("secrets.json", "vendor-keys.json", "master.key"):
            self._take(f"secrets/{name}", self.state / name)
        for name in ("limits.json", "access.json"):
            self._take(f"state/{name}", self.state / name)
        with own_master_key():
            return load(self.config, environ=_plain_environment(), state=self.state)

    def _take(self, name: str, target: Path) -> None:
        source = self._tree / name
        if source.exists() and not target.exists():
            link_or_copy(source, target)
            target.chmod(0o600)


@contextlib.contextmanager
def own_master_key() -> Iterator[None]:
    """The master key is the backup's, whatever this process was told of the host's."""
    kept = {name: os.environ.pop(name) for name in MASTER_KEY_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _plain_environment() -> dict[str, str]:
    """Without variables of this process: the backup has to have what it needs."""
    return {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}


def effective_file(tree: Path) -> Path:
    """The configuration that was in force, or would have been: the generation that the pointer names, else the file. Raises CheckFailed."""
    pointer = tree / "config" / "generations" / CURRENT
    if pointer.exists():
        try:
            number = msgspec.json.decode(pointer.read_bytes(), type=Pointer).effective(time.time())
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CheckFailed("config/generations/current makes no sense") from error
        found = tree / "config" / "generations" / str(number) / "config.yaml"
        if found.exists():
            return found
        raise CheckFailed(f"config/generations/current says {number}, which is not there")
    found = tree / "config" / "config.yaml"
    if not found.exists():
        raise CheckFailed("config/config.yaml is missing")
    return found
