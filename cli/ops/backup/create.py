"""Makes a backup: copies what there is, encrypts it, brings it to its place, reads it back, and only then says that it is one."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
from coollm_cli import output
from coollm_cli.ops.backup import archive, catalog, names, proof
from coollm_cli.ops.backup.encryption import encryption_for
from coollm_cli.ops.backup.names import NOTE, new_name, parse, this_host
from coollm_cli.ops.backup.records import Record, Records
from coollm_cli.ops.backup.snapshot import Snapshot
from coollm_cli.ops.backup.target import Target, find_target
from coollm_cli.ops.journal import Entry, Journal
from coollm_cli.ops.operation import Plan, Step
from coollm_cli.ops.releases import running_version

from coollm.core.background import give_way
from coollm.core.backup_status import read_backup_status, write_backup_status
from coollm.core.config.generations import Generations
from coollm.core.config.load import load
from coollm.core.config.schema import Settings
from coollm.core.errors import CheckFailed, ConfigurationError, CoollmError, OperationFailed
from coollm.core.paths import admin_directory, log_directory, make_private

GO_ON_SECONDS = 3600.0
"""A backup that was killed is finished when the command is given again, but not one of yesterday in the place of today's."""

SPARE_BYTES = 64 * 1024 * 1024
EARLIER_SECONDS = 300.0


def settings_in_force(config: Path, state: Path) -> Settings:
    """What is said of backups on this host. Raises ConfigurationError and OperationFailed."""
    effective = Generations(config, state).effective()
    loaded = load(config, content=effective.file if effective else None, state=state)
    if loaded.settings is None:
        raise ConfigurationError(loaded.faults)
    return loaded.settings


def create_plan(config: Path, state: Path, kind: str, target: str | None, recipients: tuple[str, ...]) -> Plan:
    """Checks all that can be checked before anything is copied. Raises CoollmError."""
    settings = settings_in_force(config, state)
    encryption = encryption_for(recipients or settings.backup.recipients)
    place = find_target(settings.backup, config, state, target)
    _check_clock(place)
    size = _size(config, state, kind)
    work = work_directory(config, state)
    _check_room(work, size)
    parameters = {
        "config": str(config),
        "state": str(state),
        "kind": kind,
        "target": target,
        "recipients": list(recipients or settings.backup.recipients),
        "name": new_name(kind),
        "began": time.time(),
        "go_on_seconds": GO_ON_SECONDS,
    }
    notes = [f"{kind} backup of about {proof.sized(size)} before it is packed, to {place.url}, for {len(encryption.recipients)} recipients"]
    return Plan("backup-create", parameters, create_steps(parameters), notes)


def create_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `backup create`. What they make for themselves goes again, however they end."""
    making = _Making(parameters)
    return [
        Step("snapshot", "copy what there is, at one moment", making.snapshot, making.clean, cleans=True),
        Step("archive", "pack and encrypt it", making.pack, making.clean, cleans=True),
        Step("upload", "bring it to its place", making.bring, making.take_back, cleans=True),
        Step("read-back", "read it back", making.read_back, making.take_back, cleans=True),
        Step("publish", "note beside it what it has to be: now it is a backup", making.publish),
    ]


class _Making:
    """One backup that is made."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.config, self.state, self.name = Path(parameters["config"]), Path(parameters["state"]), parameters["name"]
        self.parameters = parameters
        self.encryption = encryption_for(parameters["recipients"])
        self.work = work_directory(self.config, self.state) / self.name
        self.packed = self.work / f"{self.name}{self.encryption.suffix}"

    def place(self) -> Target:
        """Where it goes."""
        return find_target(settings_in_force(self.config, self.state).backup, self.config, self.state, self.parameters["target"])

    def snapshot(self, entry: Entry) -> None:
        """Raises CoollmError and OSError, as all of them."""
        give_way()
        shutil.rmtree(self.work, ignore_errors=True)
        make_private(self.work.parent)
        make_private(self.work)
        taken = Snapshot(self.work / "tree", self.config, self.state)
        taken.take(self.parameters["kind"])
        manifest = archive.Manifest(
            name=self.name,
            kind=self.parameters["kind"],
            host=this_host(),
            created=_created(self.name),
            coollm=running_version(),
            config=str(self.config),
            state=str(self.state),
            ledger=taken.told["ledger"],
            store=taken.told["store"],
            rows=taken.told["rows"],
            store_keys=taken.told["keys"],
            keys=taken.keys,
            generation=taken.generation,
        )
        entry.kept["manifest"], entry.kept["origins"] = msgspec.to_builtins(manifest), taken.origins

    def pack(self, entry: Entry) -> None:
        """See above."""
        manifest, tree = msgspec.convert(entry.kept["manifest"], archive.Manifest), self.work / "tree"
        with output.bar("encrypting", sum(file.stat().st_size for file in archive.files_of(tree))) as step:
            size, digest = archive.pack(tree, manifest, entry.kept["origins"], self.encryption, self.packed, step)
        entry.kept["size_bytes"], entry.kept["sha256"] = size, digest

    def bring(self, entry: Entry) -> None:
        """See above."""
        shutil.rmtree(self.work / "tree", ignore_errors=True)  # not sooner: whoever packs it again needs all of it
        target, size = self.place(), entry.kept["size_bytes"]
        if (self.packed.name, size) in target.names():
            return  # brought by one who was killed before he could say so
        with output.bar("uploading", size) as step:
            note = Progress(entry, self.config, self.state).write
            target.put(self.packed.name, self.packed, entry.kept.setdefault("sent", {}), note, step)

    def read_back(self, entry: Entry) -> None:
        """See above."""
        target = self.place()
        with output.bar("reading back", entry.kept["size_bytes"]) as step:
            found = hash_stored(target, self.packed.name, step)
        if found != (entry.kept["size_bytes"], entry.kept["sha256"]):
            raise CheckFailed(f"{target.url} does not give back what was brought there: it is removed again", "try it again; see to its disks")

    def publish(self, entry: Entry) -> None:
        """See above."""
        target, name, now = self.place(), self.name, time.time()
        size, digest = entry.kept["size_bytes"], entry.kept["sha256"]
        kind, made = self.parameters["kind"], self.encryption
        note = catalog.Note(name, self.packed.name, _created(name), kind, this_host(), size, digest, made.kind, made.recipients, running_version())
        if f"{name}{NOTE}" not in {one.name for one in target.names()}:
            target.put_text(f"{name}{NOTE}", msgspec.json.format(msgspec.json.encode(note.checked()), indent=1))
        Records(admin_directory(self.config, self.state)).put(name, Record(digest, size, target.url, verified=now))
        write_backup_status(self.state, msgspec.structs.replace(read_backup_status(self.state), success=now, name=name))
        shutil.rmtree(self.work, ignore_errors=True)
        for told in ("manifest", "origins"):
            entry.kept.pop(told, None)
        seconds = now - self.parameters["began"]
        entry.kept["told"] = {"id": name, "size_bytes": size, "sha256": digest, "target": target.url, "seconds": round(seconds, 1)}
        entry.kept["lines"] = [f"{name}: {proof.sized(size)} in {target.url}, read back, in {seconds:.0f} s"]
        entry.kept["audit"] = {"backup": name, "sha256": digest, "target": target.url}

    def clean(self, _: Entry) -> None:
        """Removes what was copied."""
        shutil.rmtree(self.work, ignore_errors=True)

    def take_back(self, entry: Entry) -> None:
        """Removes what was brought, unless it is a backup already."""
        with contextlib.suppress(CoollmError):  # in a place that does not answer there is nothing of it that lists as a backup
            target = self.place()
            target.abandon(entry.kept.get("sent", {}))
            if f"{self.name}{NOTE}" not in {one.name for one in target.names()}:
                target.delete(self.packed.name)


class Progress:
    """Lets the journal have how far an upload is, in the middle of its step."""

    def __init__(self, entry: Entry, config: Path, state: Path) -> None:
        self._journal = Journal(admin_directory(config, state))
        self._entry = entry

    def write(self) -> None:
        """Raises OperationFailed."""
        self._journal.write(self._entry)


def hash_stored(target: Target, name: str, step: archive.Step) -> tuple[int, str]:
    """The size and the SHA-256 of a file as its place gives it. Raises as Target."""
    with target.open(name) as file:
        return archive.hash_all(file, step)


def work_directory(config: Path, state: Path) -> Path:
    """Where backups are put together and taken apart: the command's own."""
    return admin_directory(config, state) / "backup-work"


def _created(name: str) -> float:
    parsed = parse(name)
    assert parsed is not None  # noqa: S101  the plan has made it
    return parsed.created


def _check_clock(target: Target) -> None:
    """A clock that is behind would make a backup that passes for an old one."""
    newest = next((one for one in catalog.backups(target) if one.name.host == this_host()), None)
    if newest is not None and newest.name.created > time.time() + EARLIER_SECONDS:
        now, then = time.strftime("%Y-%m-%d %H:%M", time.gmtime()), time.strftime("%Y-%m-%d %H:%M", time.gmtime(newest.name.created))
        raise OperationFailed(f"this host's clock says {now} UTC, but {newest.name.text} was made at {then}", "set the clock: timedatectl")


def _size(config: Path, state: Path, kind: str) -> int:
    places = [config, Generations(config, state).directory]
    if kind == names.FULL:
        places += [*state.glob("*.sqlite*"), *log_directory(config, state).glob("usage.log*"), *log_directory(config, state).glob("audit.log*")]
    total = 0
    for place in places:
        for file in [place, *(place.rglob("*") if place.is_dir() else ())]:
            with contextlib.suppress(OSError):
                total += file.stat().st_size if file.is_file() and not file.is_symlink() else 0
    return total


def _check_room(work: Path, size: int) -> None:
    """The copy, and the archive that is made of it, which may be as large."""
    there = next(one for one in (work, *work.parents) if one.exists())
    free = shutil.disk_usage(there).free
    if free < 2 * size + SPARE_BYTES:
        needed = (2 * size + SPARE_BYTES) / 1_000_000
        raise OperationFailed(f"{there} has {free / 1_000_000:.0f} MB free, and a backup needs up to {needed:.0f} MB there", "make room; coollm usage prune")
