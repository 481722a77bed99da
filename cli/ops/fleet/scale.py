"""More hosts, or fewer: machines are made and given back by a command of the administrator's own (`fleet.scale.command`), and everything else is done here.

    COMMAND add          makes a machine, and says on standard output what `fleet.hosts` would have of it: {"name": "gw4", "address": "10.0.0.14", …}
    COMMAND remove NAME  gives it back

Both are safe to be done twice: with the same `COOLLM_CHANGE` in the environment `add` makes one machine and says it again. Machines that were made stand in
files of their own beside the inventory (`fleet.d/NAME.json`); those that a person wrote are never given back.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from coollm_cli.ops.fleet import bootstrap
from coollm_cli.ops.fleet.balancers import DRAIN, Balancers
from coollm_cli.ops.fleet.changes import parameters_of, reached
from coollm_cli.ops.fleet.inventory import FOLDER, Inventory, find_inventory, http_address, made_hosts
from coollm_cli.ops.fleet.ssh import Remote, remotes
from coollm_cli.ops.fleet.status import OK, UNREACHABLE, fleet_status, host_row
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step

from coollm.core.config.fleet import FleetHost, Scale
from coollm.core.errors import CoollmError, OperationFailed, UsageError
from coollm.core.files import replace_file

HEALTHY_SECONDS = 120.0
LOOK_SECONDS = 2.0


def plan(inventory: Inventory, wanted: int, wheelhouse: Path | None, instances: int) -> Plan:
    """To so many hosts. Raises UsageError and OperationFailed."""
    scale = inventory.fleet.scale
    if scale is None:
        raise OperationFailed(f"{inventory.file} has no command that makes hosts", "fleet: {scale: {command: /usr/local/bin/our-machines}}")
    now = len(inventory.fleet.hosts)
    if not scale.min_hosts <= wanted <= scale.max_hosts:
        raise UsageError(f"{wanted} hosts: fleet.scale allows {scale.min_hosts} to {scale.max_hosts}")
    if wanted == now:
        return Plan("fleet-scale", {}, (), nothing=f"there are {now} hosts: nothing to do")
    parameters = parameters_of(inventory, ()) | {"instances": instances, "wheelhouse": None, "model": None, "add": max(0, wanted - now), "remove": []}
    if wanted > now:
        if wheelhouse is None:
            raise UsageError("what is to be installed on new hosts?", "--wheelhouse DIR, as scripts/release makes it")
        bootstrap.pack(wheelhouse)
        well = [row["host"] for row in fleet_status(inventory, inventory.fleet.hosts)["hosts"] if row["status"] == OK]
        if not well:
            raise OperationFailed("no host is well whose configuration a new one could have", "coollm fleet status")
        parameters |= {"wheelhouse": str(wheelhouse.absolute()), "model": well[0]}
        return Plan("fleet-scale", parameters, steps(parameters), [f"{now} -> {wanted} hosts; new ones get the configuration of {well[0]}"], asks=True)
    made = [one.name for one in made_hosts(inventory.file)]
    if len(made) < now - wanted:
        raise OperationFailed(f"{len(made)} of the {now} hosts were made by fleet.scale.command; those that a person wrote stay", "take them out by hand")
    parameters["remove"] = list(reversed(made))[: now - wanted]
    return Plan("fleet-scale", parameters, steps(parameters), [f"{now} -> {wanted} hosts: {', '.join(parameters['remove'])} go"], asks=True)


def steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `fleet scale`."""
    made: list[Step] = []
    for number in range(1, parameters["add"] + 1):
        made += [
            Step(f"make-{number}", f"new host {number}: let the command make it", _make(number, parameters), _give_back(number, parameters)),
            Step(f"install-{number}", f"new host {number}: install coollm with the configuration of {parameters['model']}", _install(number, parameters)),
            Step(f"join-{number}", f"new host {number}: wait until it is well, and send requests to it", _join(number, parameters), _leave(number, parameters)),
        ]
    for name in parameters["remove"]:
        made += [
            Step(f"leave-{name}", f"{name}: no new requests, and wait until what runs there has ended", _drain(name, parameters)),
            Step(f"remove-{name}", f"{name}: let the command take it", _remove(name, parameters)),
        ]
    return [*made, Step("end", "count the hosts", lambda entry: _end(entry, parameters))]


def _scale(inventory: Inventory) -> Scale:
    if inventory.fleet.scale is None:
        raise OperationFailed(f"{inventory.file} has no fleet.scale any more")
    return inventory.fleet.scale


def _call(inventory: Inventory, change: str, *words: str) -> str:
    """Runs the administrator's command. Raises OperationFailed."""
    scale = _scale(inventory)
    command = [*shlex.split(scale.command), *words]
    environment = {**os.environ, "COOLLM_CHANGE": change, "COOLLM_HOSTS": " ".join(one.name for one in inventory.fleet.hosts)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=scale.timeout, env=environment, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise OperationFailed(f"`{shlex.join(command)}` has not ended within {scale.timeout:.0f} s", "fleet.scale.timeout") from error
    except OSError as error:
        raise OperationFailed(f"fleet.scale.command: {command[0]}: {error.strerror}", "its path, and whether it may be run") from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [""])[-1][:300]
        raise OperationFailed(f"`{shlex.join(command)}` exits with {done.returncode}: {said}", "the same command of ours goes on")
    return done.stdout


def _ask_for_one(inventory: Inventory, entry: Entry, number: int) -> FleetHost:
    said = _call(inventory, f"{entry.id}-{number}", "add")
    try:
        return msgspec.json.decode(said, type=FleetHost)
    except msgspec.MsgspecError as error:
        raise OperationFailed(f"fleet.scale.command add: it says what is no host: {error}", 'it prints {"name": "gw4", "address": "10.0.0.14"}') from error


def _make(number: int, parameters: dict[str, Any]) -> Callable[[Entry], None]:
    def make(entry: Entry) -> None:
        inventory = find_inventory(Path(parameters["inventory"]), None)
        try:
            host = _ask_for_one(inventory, entry, number)
        except OperationFailed:
            entry.kept[f"none-{number}"] = True
            raise
        if host.name in {one.name for one in inventory.fleet.hosts} and host.name != entry.kept.get(f"host-{number}"):
            raise OperationFailed(f"fleet.scale.command add: there is a host '{host.name}' already", "every machine has a name of its own")
        entry.kept[f"host-{number}"] = host.name
        folder = inventory.file.parent / FOLDER
        folder.mkdir(exist_ok=True)
        replace_file(folder / f"{host.name}.json", msgspec.json.encode(host) + b"\n", mode=0o644)

    return make


def _give_back(number: int, parameters: dict[str, Any]) -> Callable[[Entry], None]:
    def undo(entry: Entry) -> None:
        name = entry.kept.pop(f"host-{number}", None)
        if name is None and not entry.kept.pop(f"none-{number}", False):
            # Whoever asked for it died before he heard which one it is: with the same change the command says it again.
            name = _ask_for_one(find_inventory(Path(parameters["inventory"]), None), entry, number).name
        if name is not None:
            _remove(name, parameters)(entry)

    return undo


def _install(number: int, parameters: dict[str, Any]) -> Callable[[Entry], None]:
    def install(entry: Entry) -> None:
        name = entry.kept[f"host-{number}"]
        inventory = find_inventory(Path(parameters["inventory"]), None)
        with remotes(inventory.fleet, inventory.hosts([parameters["model"], name])) as found:
            ends = time.monotonic() + _scale(inventory).timeout
            while not _answers(found[name]):
                if time.monotonic() >= ends:
                    raise OperationFailed(f"{name}: it does not answer to ssh", "its key has to be known: see StrictHostKeyChecking=accept-new of ssh")
                time.sleep(LOOK_SECONDS)
            files = {path: _content(found[parameters["model"]], path) for path in (bootstrap.CONFIGURATION, bootstrap.ENVIRONMENT)}
        kept = {path: data for path, data in files.items() if data is not None}
        told = bootstrap.install(inventory, inventory.hosts([name]), bootstrap.pack(Path(parameters["wheelhouse"])), kept, parameters["instances"])
        if not told[0]["ok"]:
            raise OperationFailed(f"{name}: {told[0]['what']}", "coollm fleet scale --resume, or --rollback")

    return install


def _answers(remote: Remote) -> bool:
    try:
        return remote.run("true").exit_code == 0
    except CoollmError:
        return False


def _content(remote: Remote, path: str) -> bytes | None:
    done = remote.run("cat", path)
    return done.output.encode() if done.exit_code == 0 else None


def _join(number: int, parameters: dict[str, Any]) -> Callable[[Entry], None]:
    def join(entry: Entry) -> None:
        name = entry.kept[f"host-{number}"]
        with reached(parameters) as (inventory, found, balancers):
            host = inventory.hosts([name])[0]
            ends = time.monotonic() + HEALTHY_SECONDS
            while (row := host_row(host, found[name]))["status"] != OK:
                if time.monotonic() >= ends:
                    raise OperationFailed(f"{name} is {row['status']}: {'; '.join(row['notes'])}", f"ssh {found[name].where} coollm doctor")
                time.sleep(LOOK_SECONDS)
            balancers.add(name, http_address(host), host.weight)

    return join


def _leave(number: int, parameters: dict[str, Any]) -> Callable[[Entry], None]:
    def undo(entry: Entry) -> None:
        name = entry.kept.get(f"host-{number}")
        if name is not None:
            _drain(name, parameters)(entry)

    return undo


def _drain(name: str, parameters: dict[str, Any]) -> Callable[[Entry], None]:
    def drain(_: Entry) -> None:
        with reached(parameters) as (inventory, found, balancers):
            if name not in found:
                return
            host = inventory.hosts([name])[0]
            if balancers.servers([name]):
                balancers.set_state(name, DRAIN)
                _wait_until_idle(host, found[name], balancers, _scale(inventory).timeout)
                balancers.remove(name)

    return drain


def _wait_until_idle(host: FleetHost, remote: Remote, balancers: Balancers, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        row = host_row(host, remote)
        if row["status"] == UNREACHABLE or (row["streams"] == 0 and all(one["sessions"] == 0 for one in balancers.servers([host.name]))):
            return
        time.sleep(LOOK_SECONDS)


def _remove(name: str, parameters: dict[str, Any]) -> Callable[[Entry], None]:
    def remove(entry: Entry) -> None:
        inventory = find_inventory(Path(parameters["inventory"]), None)
        _call(inventory, entry.id, "remove", name)
        (inventory.file.parent / FOLDER / f"{name}.json").unlink(missing_ok=True)

    return remove


def _end(entry: Entry, parameters: dict[str, Any]) -> None:
    inventory = find_inventory(Path(parameters["inventory"]), None)
    names = [one.name for one in inventory.fleet.hosts]
    entry.kept["told"] = {"hosts": names}
    entry.kept["lines"] = [
        f"{len(names)} hosts: {', '.join(names)}",
        "write the load balancers' file anew before their next reload: coollm lb render, coollm lb reload",
    ]
