"""Restores a backup in the place of what a host has, with a copy of what was there, from which it can be taken back.

The backup is fetched and checked to its last file before the gateway is stopped; what is replaced is set aside; each file is exchanged in one step. A command
that is killed is finished, or taken back, by the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

from coollm_cli.ops import host, systemd, units
from coollm_cli.ops.apply import apply_plan
from coollm_cli.ops.backup.copies import ask
from coollm_cli.ops.backup.create import work_directory
from coollm_cli.ops.backup.encryption import read_identity
from coollm_cli.ops.backup.layout import Layout, effective_file, own_master_key
from coollm_cli.ops.backup.moves import Move, Moves, is_server
from coollm_cli.ops.backup.names import CONFIG
from coollm_cli.ops.backup.opening import check_databases, known_note, unpack, workplace
from coollm_cli.ops.backup.records import Records
from coollm_cli.ops.backup.restore import CLIENTS, LEDGER, find, settings_or_none
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step
from coollm_cli.ops.watch import wait_until_healthy

from coollm.core.errors import CheckFailed, OperationFailed, UsageError
from coollm.core.files import link_or_copy, replace_file, sync_directory
from coollm.core.master_key import MasterKeys
from coollm.core.paths import HASH_KEY, RESTORES, SYSTEM_RUN, admin_directory, is_installed, make_private
from coollm.core.secret_store import SecretStore, from_json, secret_store
from coollm.core.secret_store import as_json as sealed_json

KEPT_COPIES = 3


def in_place_plan(
    config: Path, state: Path, target: str | None, name: str | None, at: float | None, part: str | None, identity: Path | None, sha256: str | None = None
) -> Plan:
    """Puts a backup, or a part of it, in the place of what this host has. Raises CoollmError."""
    if is_installed(config):
        host.need_root()
    place, found = find(config, state, target, name, at, part, sha256)
    if part == CONFIG:
        with workplace(work_directory(config, state), found.name.text) as work:
            note = known_note(place, found.name.text, Records(admin_directory(config, state)))
            unpack(place, note, read_identity(identity), work)
            return apply_plan(config, state, effective_file(work), None, f"backup restore {found.name.text} --only config")
    names = host.numbers() if is_installed(config) else []
    if part != CLIENTS and not names and host.live_workers(config):
        raise OperationFailed("a gateway serves with this state: it cannot be exchanged beneath it", "stop it first, and start it again afterwards")
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    parameters = {
        "config": str(config),
        "state": str(state),
        "target": target,
        "name": found.name.text,
        "part": part,
        "identity": str(identity.absolute()) if identity is not None and str(identity) != "-" else None,
        "safety": str(admin_directory(config, state) / RESTORES / f"{stamp}-{found.name.text}"),
        "instances": [one for one in names if systemd.is_active(systemd.service(one))] if part != CLIENTS else [],
        "began": time.time(),
        "sha256": sha256,
    }
    if str(identity) == "-":
        raise UsageError("--identity -: a restore in place that is killed has to find the key again", "give a file")
    notes = [
        f"{found.name.text} of host {found.name.host} from {place.url} takes the place of this host's {part or 'configuration, secrets, ledger and state'}"
    ]
    if parameters["instances"]:
        notes.append("the gateway is stopped while files are exchanged")
    reverse = ("backup-restore", {**parameters, "put_back": True})
    return Plan("backup-restore", parameters, restore_steps(parameters), notes, reverse=reverse, asks=True)


def restore_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `backup restore --in-place`, and of its undo."""
    work = _Work(parameters)
    stop = Step("stop", "stop the gateway", lambda _: work.stop(), lambda _: work.start())
    start = Step("start", "start it, and wait until every instance is healthy", lambda _: work.start(), lambda _: work.stop())
    if parameters.get("put_back"):
        back = Step("put-back", "put back what was there before", lambda _: work.put_back())
        return [back] if parameters["part"] == CLIENTS else [stop, back, start]
    fetch = Step("fetch", "fetch the backup, and check all of it", work.fetch, lambda _: work.clean(), cleans=True)
    aside = Step("set-aside", f"copy what is there now to {parameters['safety']}", work.set_aside, lambda _: work.forget_aside(), cleans=True)
    swap = Step("exchange", "put the backup's in its place", work.exchange, lambda _: work.put_back())
    end = Step("end", "tell what came of it", work.end)
    if parameters["part"] == CLIENTS:
        return [fetch, aside, swap, end]
    return [fetch, stop, aside, swap, start, end]


class _Work:
    """One restore in place."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.config, self.state = Path(parameters["config"]), Path(parameters["state"])
        self.parameters = parameters
        self.part: str | None = parameters["part"]
        self.place = work_directory(self.config, self.state) / f"restore-{parameters['name']}"
        self.tree = self.place / "tree"
        self.safety = Path(parameters["safety"])

    def fetch(self, entry: Entry) -> None:
        """Raises CoollmError: until here nothing of the host was changed."""
        self.clean()
        make_private(self.place.parent)
        make_private(self.place)
        target, found = find(self.config, self.state, self.parameters["target"], self.parameters["name"], None, self.part, self.parameters["sha256"])
        note = known_note(target, found.name.text, Records(admin_directory(self.config, self.state)))
        identity = read_identity(Path(self.parameters["identity"]) if self.parameters["identity"] else None)
        manifest = unpack(target, note, identity, self.tree)
        check_databases(self.config, self.state, self.tree, manifest)
        loaded = Layout(self.place / "host", self.tree, manifest).make()
        if loaded.settings is None and self.part is None:
            raise CheckFailed(f"its configuration is not valid here: {loaded.faults[0]}", f"coollm backup restore {manifest.name} --into DIR, and look at it")
        if (self.tree / "ledger" / "ledger.sqlite").exists():
            ask(self.config, self.state, "adopt", self.tree)
        live = settings_or_none(self.config, self.state)
        settings = (loaded.settings if self.part is None else live) or live
        moves = list(Moves(self.config, self.state, self.tree, manifest, settings, self.part).all())
        entry.kept["moves"] = [tuple(move) for move in moves]
        entry.kept["sql"] = bool(settings and is_server(settings) and self.part in (None, LEDGER) and (self.tree / "ledger" / "ledger.sqlite").exists())
        entry.kept["redis"] = bool(
            self.part is None and (self.tree / "store" / "redis.jsonl").exists() and settings and settings.storage.runtime.type == "redis"
        )
        entry.kept["rows"], entry.kept["host"] = manifest.rows, manifest.host
        entry.kept["drop_ins"] = [
            name for name in manifest.files if name.startswith("config/units/") and name.endswith(".conf") and not name.endswith(units.DROP_IN)
        ]

    def stop(self) -> None:
        """Stops the instances that ran."""
        names = self.parameters["instances"]
        if names:
            host.close_sockets(host.numbers())
            host.stop_services(host.numbers())

    def start(self) -> None:
        """Starts them again."""
        names = self.parameters["instances"]
        if not names:
            return
        from coollm_cli.ops.install import write_drop_ins

        write_drop_ins()
        host.open_sockets(names)
        for name in names:
            host.start(name)
            wait_until_healthy(name, SYSTEM_RUN / name, None)

    def set_aside(self, entry: Entry) -> None:
        """Copies what will be exchanged. Files that are only replaced as a whole are linked."""
        self.forget_aside()
        make_private(make_private(self.safety.parent.parent) / RESTORES)
        make_private(self.safety)
        if self.part == CLIENTS:
            ask(self.config, self.state, "clients", self.safety)
            sealed = secret_store(self.config, self.state).names().get(HASH_KEY)
            if sealed is not None:
                replace_file(self.safety / "hash-key.json", json.dumps(sealed_json(sealed)).encode())
            return
        if entry.kept["sql"]:
            ask(self.config, self.state, "save", self.safety)
            ask(self.config, self.state, "check", self.safety)
        targets = []
        for number, move in enumerate(_all(entry)):
            target = Path(move.target)
            if target.suffix == ".sqlite" and target.exists():
                _fold(target)
            if target.exists():
                link_or_copy(target, make_private(self.safety / "files") / str(number))
            log = target.with_name(f"{target.name}-wal")
            if log.exists():
                link_or_copy(log, make_private(self.safety / "files") / f"{number}-wal")
            targets.append({"target": move.target, "number": number if target.exists() else None, "mode": _mode(target), "like": move.like})
        _write_list(self.safety, {"targets": targets, "sql": entry.kept["sql"]})

    def exchange(self, entry: Entry) -> None:
        """Each file in one step; done again, it comes to the same."""
        if self.part == CLIENTS:
            self._exchange_clients()
            return
        for move in _all(entry):
            if move.source:
                _put(Path(move.source), Path(move.target), move.mode, Path(move.like))
            else:
                Path(move.target).unlink(missing_ok=True)
        if entry.kept["sql"]:
            ask(self.config, self.state, "load", self.tree, "ledger")
        if entry.kept["redis"]:
            entry.kept["redis_written"] = ask(self.config, self.state, "counters", self.tree)["written"]

    def _exchange_clients(self) -> None:
        """Keys of clients are hashed under a secret, which has to come with them."""
        kept = SecretStore(self.tree / "secrets", MasterKeys(self.tree / "secrets" / "master.key"))
        with own_master_key():
            value = kept.get(HASH_KEY) if HASH_KEY in kept.names() else None
        live = secret_store(self.config, self.state)
        if value is not None and (HASH_KEY not in live.names() or live.get(HASH_KEY) != value):
            live.master.make()
            live.put(HASH_KEY, live.seal(HASH_KEY, value, "backup restore"))
        ask(self.config, self.state, "load", self.tree, "clients")

    def put_back(self) -> None:
        """What was set aside takes its place again."""
        if self.part == CLIENTS:
            self._put_clients_back()
            return
        told = _read_list(self.safety)
        for one in told["targets"]:
            target = Path(one["target"])
            if target.suffix == ".sqlite":
                _drop_logs(target)
            if one["number"] is None:
                target.unlink(missing_ok=True)
            else:
                _put(self.safety / "files" / str(one["number"]), target, one["mode"], Path(one["like"]))
        if told["sql"]:
            ask(self.config, self.state, "load", self.safety, "ledger")

    def _put_clients_back(self) -> None:
        ask(self.config, self.state, "load", self.safety, "clients")
        sealed = self.safety / "hash-key.json"
        if sealed.exists():
            secret_store(self.config, self.state).put(HASH_KEY, from_json(json.loads(sealed.read_text("utf-8"))))

    def forget_aside(self) -> None:
        """Removes the copy: what it is of is in its place."""
        shutil.rmtree(self.safety, ignore_errors=True)

    def clean(self) -> None:
        """Removes what was fetched."""
        shutil.rmtree(self.place, ignore_errors=True)

    def end(self, entry: Entry) -> None:
        """The receipt; of older copies the last few are kept."""
        for old in sorted(self.safety.parent.iterdir())[:-KEPT_COPIES]:
            shutil.rmtree(old, ignore_errors=True)
        self.clean()
        seconds = time.time() - self.parameters["began"]
        requests = entry.kept["rows"].get("usage", 0)
        told = {"id": self.parameters["name"], "host": entry.kept["host"], "part": self.part, "requests": requests, "seconds": round(seconds, 1)}
        entry.kept["told"] = {**told, "set_aside": str(self.safety)}
        entry.kept["lines"] = [
            f"{self.parameters['name']} of {entry.kept['host']} is restored, in {seconds:.0f} s: {requests} requests in the ledger",
            f"what was here before is in {self.safety}; coollm undo puts it back",
        ]
        if entry.kept.get("redis") and entry.kept.get("redis_written") is None:
            entry.kept["lines"].append("Redis has counters of its own, which are newer: they stay")
        if entry.kept["drop_ins"]:
            told_of = ", ".join(entry.kept["drop_ins"])
            entry.kept["lines"].append(f"drop-ins of units are yours to put back, for what they say is done by root: {told_of}")
        entry.kept["audit"] = {"backup": self.parameters["name"]}
        entry.kept.pop("moves", None)


def _all(entry: Entry) -> list[Move]:
    return [Move(*one) for one in entry.kept["moves"]]


def _fold(file: Path) -> None:
    """Whatever is in SQLite's log beside the file comes into it; nobody else has it open."""
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=30)) as opened:
            opened.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error:
        pass  # it is damaged, and set aside as it is, with its log


def _drop_logs(file: Path) -> None:
    for end in ("-wal", "-shm"):
        file.with_name(file.name + end).unlink(missing_ok=True)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777 if path.exists() else 0o600


def _put(source: Path, target: Path, mode: int, like: Path) -> None:
    """In one step: beside it first, then over it."""
    for folder in reversed([one for one in target.parents if not one.exists()]):
        make_private(folder)
    beside = target.with_name(f".{target.name}.restored")
    beside.unlink(missing_ok=True)
    shutil.copyfile(source, beside)
    beside.chmod(mode)
    if os.getuid() == 0:
        owner = next(one for one in (like, *like.parents) if one.exists()).stat()
        os.chown(beside, owner.st_uid, owner.st_gid)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    if target.suffix == ".sqlite":
        _drop_logs(target)
    beside.replace(target)
    sync_directory(target.parent)


def _write_list(safety: Path, told: dict[str, Any]) -> None:
    replace_file(safety / "list.json", json.dumps(told).encode())


def _read_list(safety: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((safety / "list.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OperationFailed(f"{safety}: what was set aside is not there any more", "coollm backup restore: from an earlier backup") from error
    return told
