"""One configuration on every host, or on none. Every host checks it before any changes; then each puts it in force for a while, and keeps it only when all of
them have it, by its hash. Hosts on which that is not said in time, since who gave the command is gone, go back by themselves.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from coollm_cli import output
from coollm_cli.ops.fleet.changes import parameters_of, reached
from coollm_cli.ops.fleet.inventory import Inventory
from coollm_cli.ops.fleet.ssh import ConnectionLost, Done, Remote, in_parallel, remotes
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step

from coollm.core.config.fleet import FleetHost
from coollm.core.errors import CoollmError, LockHeld, OperationFailed, Paused, Unreachable

PLACE = "/var/opt/coollm/fleet-config.yaml"
CONFIRM_WITHIN, CONFIRM_SECONDS = "5m", 300.0
SECONDS = 120.0


def plan(inventory: Inventory, hosts: Sequence[FleetHost], file: Path, message: str | None) -> Plan:
    """Every host checks it. Raises OperationFailed where one refuses it or cannot be reached."""
    data = _read(file)
    with remotes(inventory.fleet, hosts) as found:
        output.progress(f"{len(hosts)} hosts check it")
        checked = _all(inventory, hosts, found, lambda remote: _check(remote, data))
    _stop_if(checked, "nothing was changed")
    told = {"hosts": [{"host": name, **one} for name, one in checked.items()]}
    parameters = parameters_of(inventory, hosts) | {
        "file": str(file.absolute()),
        "sha256": hashlib.sha256(data).hexdigest(),
        "message": message,
        "before": {name: one["generation"] for name, one in checked.items()},
        "changes": [name for name, one in checked.items() if one["changes"]],
        "go_on_seconds": CONFIRM_SECONDS,
    }
    notes = [f"{row['host']}: {'would change' if row['changes'] else 'has it already'}" for row in told["hosts"]]
    if not any(one["changes"] or one["waits"] for one in checked.values()):
        return Plan("fleet-config", {}, (), nothing="every host has this configuration: nothing to do", told=told)
    reverse = ("fleet-config-back", parameters) if parameters["changes"] else None
    return Plan("fleet-config", parameters, steps(parameters), notes, reverse=reverse, asks=True, told=told)


def steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `fleet config apply`."""
    changed = parameters["changes"]

    def apply(entry: Entry) -> None:
        data = _read(Path(parameters["file"]))
        if hashlib.sha256(data).hexdigest() != parameters["sha256"]:
            raise OperationFailed(f"{parameters['file']} was edited since it was checked", "give the command again")

        def one(remote: Remote) -> int | None:
            remote.put(PLACE, data)
            return _apply(remote, parameters["message"])

        with reached(parameters) as (inventory, found, _):
            applied = _all(inventory, inventory.hosts(changed) if changed else [], found, one)
        entry.kept["applied"] = {name: told for name, told in applied.items() if not isinstance(told, CoollmError)}
        _stop_if(applied, "coollm fleet status")

    def take_back(entry: Entry) -> None:
        _back(parameters, entry.kept.get("applied", {}))

    def keep(_: Entry) -> None:
        with reached(parameters) as (inventory, found, _balancers):
            told = _all(inventory, inventory.hosts(parameters["hosts"]), found, lambda remote: _keep(remote, parameters["message"]))
        faults = _faults(told)
        if faults:
            raise Paused("; ".join(faults), f"hosts that did not hear it go back by themselves within {CONFIRM_WITHIN}: give the same command again")

    def verify(entry: Entry) -> None:
        with reached(parameters) as (inventory, found, _balancers):
            digests = _all(inventory, inventory.hosts(parameters["hosts"]), found, lambda remote: _in_force(remote)["digest"])
        _stop_if(digests, "coollm fleet status shows which host has what")
        if len(set(digests.values())) != 1:
            raise OperationFailed("the hosts do not have the same configuration", "coollm fleet status; then give the command again")
        digest = next(iter(digests.values()))
        applied = entry.kept.get("applied", {})
        rows = [{"host": name, "changed": name in changed, "generation": applied.get(name)} for name in parameters["hosts"]]
        entry.kept["told"] = {"digest": digest, "hosts": rows}
        entry.kept["lines"] = [f"{len(rows)} hosts have configuration {digest[:8]}"]

    return [
        Step("apply", f"{', '.join(changed) or 'no host'}: put it in force, for {CONFIRM_WITHIN}", apply, take_back),
        Step("keep", "every host keeps it", keep),
        Step("verify", "ask every host which configuration it has", verify),
    ]


def back_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of the undo of `fleet config apply`: every host gets back what it had."""

    def back(entry: Entry) -> None:
        _back(parameters, dict.fromkeys(parameters["changes"]), must=True)
        entry.kept["lines"] = [f"{name} has generation {parameters['before'][name]} again" for name in parameters["changes"]]

    return [Step("back", f"{', '.join(parameters['changes'])}: the configuration of before", back)]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise OperationFailed(f"{file}: cannot be read: {error.strerror}") from error


def _all(inventory: Inventory, hosts: Sequence[FleetHost], found: dict[str, Remote], do: Callable[[Remote], Any]) -> dict[str, Any]:
    """What came of it on each host, an error in its place where it failed."""

    def one(host: FleetHost) -> Any:
        try:
            return do(found[host.name])
        except CoollmError as error:
            return error

    return dict(zip((host.name for host in hosts), in_parallel(inventory.fleet, list(hosts), one), strict=True))


def _faults(told: dict[str, Any]) -> list[str]:
    return [f"{name}: {error.message}" for name, error in told.items() if isinstance(error, CoollmError)]


def _stop_if(told: dict[str, Any], hint: str) -> None:
    faults = _faults(told)
    if faults:
        raise OperationFailed("; ".join(faults), hint)


def _check(remote: Remote, data: bytes) -> dict[str, Any]:
    remote.put(PLACE, data)
    done = _need(remote.coollm("config", "apply", PLACE, "--dry-run", "--json", seconds=SECONDS))
    now = _in_force(remote)
    return {"changes": bool(done.as_json()["plan"]), "generation": now["number"], "waits": now["unconfirmed"]}


def _apply(remote: Remote, message: str | None) -> int | None:
    """The generation that it has become; None where it was in force."""
    words = ["--message", message] if message else []
    done = _need(_do(remote, "apply", PLACE, "--confirm-within", CONFIRM_WITHIN, *words))
    number = done.as_json().get("generation")
    return int(number) if number is not None else None


def _keep(remote: Remote, message: str | None) -> None:
    """One that has gone back meanwhile gets it again."""
    if _do(remote, "confirm").exit_code != 0:
        _apply(remote, message)
        _need(_do(remote, "confirm"))


def _do(remote: Remote, *words: str) -> Done:
    """A command that may be given again where the connection is cut; what was begun by then has to end first. Raises Unreachable."""
    was_cut, ends = False, time.monotonic() + SECONDS
    while True:
        try:
            done = remote.coollm("config", *words, "--yes", "--json", seconds=SECONDS)
        except ConnectionLost:
            if time.monotonic() >= ends:
                raise
            was_cut = True
            continue
        if not (was_cut and done.exit_code == LockHeld.exit_code) or time.monotonic() >= ends:
            return done
        time.sleep(1.0)


def _in_force(remote: Remote) -> dict[str, Any]:
    """{"number", "digest", "unconfirmed"} of what a host serves; nothing where it never got a configuration."""
    done = _need(remote.asked("config", "history", "--json", seconds=SECONDS))
    for one in done.as_json()["generations"]:
        if one["in_force"]:
            return {"number": one["number"], "digest": one["digest"], "unconfirmed": one["unconfirmed"]}
    return {"number": None, "digest": "", "unconfirmed": False}


def _back(parameters: dict[str, Any], applied: dict[str, int | None], *, must: bool = False) -> None:
    """Hosts that have what was applied get back what they had. One that does not hear it goes back by itself, while it was not confirmed; with `must` it was.
    Raises OperationFailed.
    """

    def one(name: str, remote: Remote) -> None:
        number = applied[name]
        before = parameters["before"][name]
        if before is None or (number is not None and _in_force(remote)["number"] != number):
            return
        _need(_do(remote, "rollback", str(before)))

    if not applied:
        return
    with reached(parameters) as (inventory, found, _):
        names = {id(found[name]): name for name in applied}
        told = _all(inventory, inventory.hosts(list(applied)), found, lambda remote: one(names[id(remote)], remote))
    gone = {name for name, error in told.items() if isinstance(error, Unreachable) and not must}
    for name in gone:
        output.progress(f"    {name}: {told[name].message}; it goes back by itself within {CONFIRM_WITHIN}")
    _stop_if({name: error for name, error in told.items() if name not in gone}, "coollm fleet status")


def _need(done: Done) -> Done:
    if done.exit_code != 0:
        raise OperationFailed(done.reason)
    return done
