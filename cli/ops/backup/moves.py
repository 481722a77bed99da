"""Which file of a backup takes the place of which file of a host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from coollm_cli.ops import units
from coollm_cli.ops.backup import archive
from coollm_cli.ops.backup.archive import Manifest
from coollm_cli.ops.backup.restore import OF_PART

from coollm.core.backup_status import FILE_NAME as STATUS
from coollm.core.config.generations import Generations
from coollm.core.config.schema import Settings
from coollm.core.master_key import CREDENTIAL, master_key_file
from coollm.core.paths import environment_file, is_installed, log_directory

IDENTITY_FILE = "store.identity"
CERTIFICATES = (Path("/etc/ssl"), Path("/etc/pki"), Path("/etc/letsencrypt"))
"""Beside the configuration's own directory, where files that it refers to are put back: a backup must not say where on a host root writes."""


class Move(NamedTuple):
    """A file that takes the place of another; without a `source` the one at `target` goes. `like` is whose it becomes."""

    source: str
    target: str
    mode: int
    like: str


class Moves:
    """The files of a backup in `tree`, and where they belong here; of `part` alone where it is named. `settings` are those that hold afterwards."""

    def __init__(self, config: Path, state: Path, tree: Path, manifest: Manifest, settings: Settings | None, part: str | None) -> None:
        self.config, self.state, self.tree, self.manifest, self.settings, self.part = config, state, tree, manifest, settings, part

    def all(self) -> Iterator[Move]:
        """Of the parts that are restored."""
        parts: dict[str, Callable[[], Iterator[Move]]] = {
            "config": self._configuration,
            "secrets": self._secrets,
            "state": self._state,
            "ledger": self._ledger,
            "store": self._store,
            "audit": self._audit,
        }
        for name, found in parts.items():
            if (self.part is None or name in OF_PART[self.part]) and (self.tree / name).is_dir():
                yield from found()

    def _move(self, name: str, target: Path, like: Path, mode: int = 0o600) -> Iterator[Move]:
        source = self.tree / name
        if source.exists():
            yield Move(str(source), str(target), mode, str(like))

    def _configuration(self) -> Iterator[Move]:
        """The directory of the configuration is root's; the gateway reads its files, each as the one that it replaces."""
        folder = self.config.parent
        yield from self._move("config/config.yaml", self.config, self.config if self.config.exists() else folder, 0o640 if is_installed(self.config) else 0o600)
        environment = environment_file(self.config)
        yield from self._move("config/environment", environment, environment if environment.exists() else folder)
        generations = Generations(self.config, self.state).directory
        wanted = self.tree / "config" / "generations"
        for file in archive.files_of(wanted) if wanted.is_dir() else ():
            yield Move(str(file), str(generations / file.relative_to(wanted)), 0o600, str(self.state))
        for file in archive.files_of(generations) if generations.is_dir() else ():
            if not (wanted / file.relative_to(generations)).exists():
                yield Move("", str(file), 0o600, str(self.state))
        for name, member in sorted(self.manifest.files.items()):
            origin = Path(member.origin)
            if name.startswith("config/files/") and any(origin.is_relative_to(one) for one in (folder, *CERTIFICATES)) and ".." not in origin.parts:
                like = self.config if self.config.exists() and is_installed(self.config) else folder
                yield Move(str(self.tree / name), str(origin), member.mode, str(environment if environment.exists() and not member.mode & 0o077 else like))

    def _secrets(self) -> Iterator[Move]:
        credential = units.CREDENTIALS / CREDENTIAL
        key = credential if is_installed(self.config) and credential.exists() else master_key_file(self.config, self.state)
        owner = environment_file(self.config) if is_installed(self.config) and key != credential else key.parent
        yield from self._move("secrets/master.key", key, key if key.exists() else owner)
        for name in ("secrets.json", "vendor-keys.json"):
            yield from self._move(f"secrets/{name}", self.state / name, self.state)

    def _state(self) -> Iterator[Move]:
        for name in ("limits.json", "access.json"):
            yield from self._move(f"state/{name}", self.state / name, self.state)
        if not (self.state / STATUS).exists():
            yield from self._move(f"state/{STATUS}", self.state / STATUS, self.state)

    def _ledger(self) -> Iterator[Move]:
        """Usage logs that are here stay: they tell what was used since, and are read into the ledger again. Those of the backup come beside them."""
        if self.settings is not None and not is_server(self.settings):
            yield from self._move("ledger/ledger.sqlite", _ledger_file(self.settings, self.state), self.state)
        logs = log_directory(self.config, self.state)
        here = {_first_line(file) for file in logs.glob("usage.log*") if file.stat().st_size}
        folder = self.tree / "ledger" / "logs"
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if file.stat().st_size and _first_line(file) not in here:
                target = logs / file.name
                if target.exists() and target.stat().st_size:
                    target = logs / f"usage.log.of-{self.manifest.name}-{file.name.removeprefix('usage.log').strip('.-') or 'last'}"
                yield Move(str(file), str(target), 0o600, str(logs if logs.exists() else self.state))

    def _store(self) -> Iterator[Move]:
        """Counters of the same store that are here are newer than the backup's, and stay."""
        identity = self.tree / "state" / IDENTITY_FILE
        live = self.state / IDENTITY_FILE
        is_same = identity.exists() and live.exists() and identity.read_bytes() == live.read_bytes()
        if self.settings is None or self.settings.storage.runtime.type != "sqlite" or is_same:
            return
        yield from self._move("store/runtime.sqlite", self.state / "runtime.sqlite", self.state)
        yield from self._move(f"state/{IDENTITY_FILE}", live, self.state)

    def _audit(self) -> Iterator[Move]:
        """The chain that is here goes on; that of the backup is kept beside it, as evidence."""
        logs = log_directory(self.config, self.state)
        for file in archive.files_of(self.tree / "audit"):
            target = logs / f"audit-of-{self.manifest.name}" / file.relative_to(self.tree / "audit")
            yield Move(str(file), str(target), 0o600, str(logs if logs.exists() else self.state))


def is_server(settings: Settings) -> bool:
    """Whether the ledger is in a database of its own, and not in a file of this host."""
    url = settings.storage.ledger.url
    return url is not None and not url.reveal().startswith("sqlite")


def _ledger_file(settings: Settings, state: Path) -> Path:
    url = settings.storage.ledger.url
    return Path(url.reveal().partition("///")[2]) if url is not None else state / "ledger.sqlite"


def _first_line(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.readline(4096)
