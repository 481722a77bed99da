"""A rolling change of a fleet: batch by batch, each host out of the load balancers, changed by its own command, healthy, and back in steps.

What is lost is a host, never the change: where a host cannot be reached any more the change stops and waits, and says which host is where; `--resume` goes on,
and `--rollback` takes back what was changed.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from coollm_cli import output
from coollm_cli.ops.fleet import jobs
from coollm_cli.ops.fleet.balancers import DRAIN, READY, Balancers
from coollm_cli.ops.fleet.bootstrap import pack
from coollm_cli.ops.fleet.changes import parameters_of, reached
from coollm_cli.ops.fleet.inventory import Inventory, find_inventory
from coollm_cli.ops.fleet.ssh import Done, Remote, in_parallel
from coollm_cli.ops.fleet.status import OK, UNREACHABLE, fleet_status, host_row
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step

from coollm.core.config.fleet import FleetHost
from coollm.core.errors import CoollmError, OperationFailed, Paused, Unreachable, UsageError

SECONDS = 1800.0
HEALTHY_SECONDS = 60.0
STEPS_BACK = ("10%", "50%", "100%")
STEP_SECONDS = 1.0
WHEELS = "/var/opt/coollm/fleet-wheels"
SUMS = ("requests", "failed", "streams_finished", "streams_cut")

_writing = threading.Lock()


def batches_of(text: str, names: Sequence[str]) -> list[list[str]]:
    """`1`, `25%` or `1,10%,50%`: the sizes of the batches, the last of them again and again. Raises UsageError."""
    sizes = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(%?)", part.strip())
        size = 0 if found is None else max(1, len(names) * int(found[1]) // 100) if found[2] and int(found[1]) else int(found[1])
        if size < 1:
            raise UsageError(f"--batch {text}: expected a number of hosts or a share of them, such as 1, 25% or 1,10%,50%")
        sizes.append(size)
    batches, rest = [], list(names)
    while rest:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        batches.append(rest[:size])
        rest = rest[size:]
    return batches


def plan(inventory: Inventory, hosts: Sequence[FleetHost], action: dict[str, Any], batch: str, soak_seconds: float, max_failures: int) -> Plan:
    """`action` is {"kind": "restart"}, {"kind": "upgrade", "release", "wheelhouse"} or {"kind": "rollback"}. Raises UsageError and OperationFailed."""
    names = [one.name for one in hosts]
    told = fleet_status(inventory, hosts)
    ill = [f"{row['host']} is {row['status']}" for row in told["hosts"] if row["status"] != OK]
    if len(ill) > max_failures:
        raise OperationFailed(f"not every host is well: {'; '.join(ill)}", "mend them first, choose others by --host, or allow --max-failures")
    if action["kind"] == "upgrade":
        pack(Path(action["wheelhouse"]))
    batches = batches_of(batch, names)
    everyone = {one.name for one in inventory.fleet.hosts}
    if inventory.fleet.load_balancers and len(everyone) > 1 and any(set(one) == everyone for one in batches):
        raise UsageError(f"--batch {batch}: a batch of every host leaves none that serves", "smaller batches, such as 1 or 25%")
    parameters = parameters_of(inventory, hosts) | {
        "action": action,
        "is_alone": len(everyone) == 1,
        "batches": batches,
        "soak_seconds": soak_seconds,
        "max_failures": max_failures,
        "versions": {row["host"]: row["version"] for row in told["hosts"]},
    }
    notes = [f"{len(names)} hosts, {sum(row['streams'] for row in told['hosts'])} streams now; {len(inventory.fleet.load_balancers)} load balancers are told"]
    reverse = ("fleet-rollout", parameters | {"action": {"kind": "rollback"}}) if action["kind"] == "upgrade" else None
    return Plan("fleet-rollout", parameters, steps(parameters), notes, reverse=reverse, asks=True)


def steps(parameters: dict[str, Any]) -> list[Step]:
    """A step for each batch, and one that looks at the whole at the end."""
    action = parameters["action"]
    made = []
    for number, names in enumerate(parameters["batches"], 1):
        soak = parameters["soak_seconds"] if number == 1 and len(parameters["batches"]) > 1 else 0.0
        watched = f", then watch for {soak:.0f} s" if soak else ""
        text = f"{', '.join(names)}: out of the load balancers, {action['kind']}, healthy, back{watched}"
        goes_back = action["kind"] == "upgrade"
        undo = _undo(names, parameters) if goes_back else _let_in(names, parameters)
        made.append(Step(f"batch-{number}", text, _do(names, parameters, soak), undo, cleans=not goes_back))
    made.append(Step("end", "look at every host, and make the receipt", lambda entry: _end(entry, parameters)))
    return made


def _do(names: Sequence[str], parameters: dict[str, Any], soak: float) -> Callable[[Entry], None]:
    def do(entry: Entry) -> None:
        entry.kept.setdefault("began", time.time())
        with reached(parameters) as (inventory, remotes, balancers):
            failed: dict[str, str] = entry.kept.setdefault("failures", {})
            left = [name for name in names if name not in entry.kept.get("receipts", {}) and name not in failed]
            faults = in_parallel(inventory.fleet, left, lambda name: _attempt(entry, name, remotes[name], balancers, parameters))
            failed |= {
                name: fault.message for name, fault in zip(left, faults, strict=True) if isinstance(fault, CoollmError) and not isinstance(fault, Unreachable)
            }
            lost = [fault for fault in faults if isinstance(fault, Unreachable)]
            if lost:
                raise Paused(
                    f"{lost[0].message}; {_where(entry, parameters)}", "--resume goes on when it is there again, --rollback takes back what was changed"
                )
            if len(failed) > parameters["max_failures"]:
                raise OperationFailed(list(failed.values())[-1], "coollm fleet status")
            if soak:
                _watch(inventory, [one for one in inventory.fleet.hosts if one.name in names], soak)

    return do


def _watch(inventory: Inventory, hosts: Sequence[FleetHost], seconds: float) -> None:
    """The first hosts are looked at for a while before the others follow."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        time.sleep(min(5.0, seconds))
        for row in fleet_status(inventory, hosts)["hosts"]:
            if row["status"] != OK:
                raise OperationFailed(f"{row['host']} is {row['status']} after it was changed")


def _attempt(entry: Entry, name: str, remote: Remote, balancers: Balancers, parameters: dict[str, Any]) -> CoollmError | None:
    """Changes a host; what went wrong, if something did."""
    try:
        receipt = _one(name, remote, balancers, parameters, _job(entry, name))
    except CoollmError as error:
        output.progress(f"    {name}: {error.message}")
        return error
    with _writing:
        entry.kept.setdefault("receipts", {})[name] = receipt
    output.progress(f"    {name}: done, {receipt.get('failed', 0)} of {receipt.get('requests', 0)} requests failed")
    return None


def _job(entry: Entry, name: str) -> str:
    return f"{entry.id}-{name}"


def _one(name: str, remote: Remote, balancers: Balancers, parameters: dict[str, Any], job: str) -> dict[str, Any]:
    if not parameters["is_alone"]:
        _tell(lambda: balancers.set_state(name, DRAIN))
    action = parameters["action"]
    if action["kind"] == "upgrade":
        wheels = pack(Path(action["wheelhouse"]))
        line = f"rm -rf {WHEELS} && install -d -m 700 {WHEELS} && tar -x --no-same-owner -C {WHEELS}"
        if _again(remote, lambda: remote.run("sh", "-c", line, data=wheels, seconds=SECONDS)).exit_code != 0:
            raise OperationFailed(f"{name}: the wheels cannot be brought there", "make room on its disk")
        words = ["upgrade", action["release"], "--wheelhouse", WHEELS]
    else:
        words = ["restart", "--rolling"] if action["kind"] == "restart" else ["rollback"]
    done = jobs.do(remote, job, *words, "--yes", "--json", seconds=SECONDS)
    if done.exit_code != 0:
        _tell(lambda: balancers.set_state(name, READY))  # it serves: its own command has put it back
        raise OperationFailed(f"{name}: {done.reason}", f"ssh {remote.where} coollm status")
    _wait_until_healthy(name, remote)
    _tell(lambda: balancers.set_weight(name, STEPS_BACK[0]))
    _tell(lambda: balancers.set_state(name, READY))
    for share in STEPS_BACK if len(balancers) else ():
        _tell(lambda share=share: balancers.set_weight(name, share))  # type: ignore[misc]
        time.sleep(STEP_SECONDS)
    told = done.as_json()
    return {key: told[key] for key in ("instances", *SUMS, "longest_stall_ms", "seconds") if key in told}


def _again(remote: Remote, ask: Callable[[], Done]) -> Done:
    """Asks again where a connection was cut. Raises Unreachable when nothing helps for a while."""
    ends = time.monotonic() + jobs.RECONNECT_SECONDS
    while True:
        try:
            return ask()
        except Unreachable:
            if time.monotonic() >= ends:
                raise
            remote.close()
            time.sleep(1.0)


def _tell(change: Callable[[], None]) -> None:
    """A load balancer that cannot be told stops nothing: hosts let nobody down who is sent to them."""
    try:
        change()
    except CoollmError as error:
        output.progress(f"    {error.message}")


def _wait_until_healthy(name: str, remote: Remote) -> None:
    ends = time.monotonic() + HEALTHY_SECONDS
    while True:
        done = _again(remote, lambda: remote.coollm("health", "--json"))
        if done.exit_code == 0:
            return
        if time.monotonic() >= ends:
            raise OperationFailed(f"{name} is not healthy: {done.reason}", f"ssh {remote.where} coollm health")
        time.sleep(1.0)


def _undo(names: Sequence[str], parameters: dict[str, Any]) -> Callable[[Entry], None]:
    def undo(entry: Entry) -> None:
        back = parameters | {"action": {"kind": "rollback"}}
        with reached(parameters) as (inventory, remotes, balancers):
            hosts = [one for one in inventory.fleet.hosts if one.name in names]
            versions = in_parallel(inventory.fleet, hosts, lambda host: _settled_version(host, remotes[host.name], _job(entry, host.name)))
            # One that was changed when whoever gave the command died has no receipt.
            changed = [host.name for host, version in zip(hosts, versions, strict=True) if version != parameters["versions"][host.name]]
            faults = in_parallel(inventory.fleet, changed, lambda name: _attempt_back(entry, name, remotes[name], balancers, back))
            _back_in([name for name in names if name not in changed], balancers)
        lost = [fault for fault in faults if fault is not None]
        if lost:
            raise lost[0]

    return undo


def _let_in(names: Sequence[str], parameters: dict[str, Any]) -> Callable[[Entry], None]:
    def undo(entry: Entry) -> None:  # noqa: ARG001
        with reached(parameters) as (_, _, balancers):
            _back_in(names, balancers)

    return undo


def _back_in(names: Sequence[str], balancers: Balancers) -> None:
    """Hosts that were taken out of the load balancers, and then nothing came of it, get requests again."""
    for name in names if len(balancers) else ():
        _tell(lambda name=name: balancers.set_weight(name, STEPS_BACK[-1]))  # type: ignore[misc]
        _tell(lambda name=name: balancers.set_state(name, READY))  # type: ignore[misc]


def _settled_version(host: FleetHost, remote: Remote, job: str) -> str | None:
    """What a host runs when nobody changes it any more. Raises Unreachable, and OperationFailed where a change was left half made there."""
    jobs.wait_until_ended(remote, job, seconds=SECONDS)
    ends = time.monotonic() + SECONDS
    while True:
        row = host_row(host, remote)
        if row["status"] == UNREACHABLE:
            raise Unreachable(f"{host.name}: {row['notes'][0]}", "coollm fleet upgrade --rollback, when it is there again")
        change = row["change"]
        if change is None:
            return str(row["version"])
        if not change["alive"]:
            raise OperationFailed(f"{host.name}: `{change['command']}` was killed there", "give it again there, then coollm fleet upgrade --rollback")
        if time.monotonic() >= ends:
            raise OperationFailed(f"{host.name}: `{change['command']}` has not ended there", "coollm fleet status")
        time.sleep(2.0)


def _attempt_back(entry: Entry, name: str, remote: Remote, balancers: Balancers, parameters: dict[str, Any]) -> CoollmError | None:
    try:
        _one(name, remote, balancers, parameters, f"{_job(entry, name)}-back")
    except CoollmError as error:
        return error
    with _writing:
        entry.kept["receipts"].pop(name, None)
    return None


def _where(entry: Entry, parameters: dict[str, Any]) -> str:
    """Which hosts are changed, and which are not."""
    changed = list(entry.kept.get("receipts", {}))
    left = [name for name in parameters["hosts"] if name not in changed]
    return f"changed: {', '.join(changed) or 'none'}; not changed: {', '.join(left) or 'none'}"


def _end(entry: Entry, parameters: dict[str, Any]) -> None:
    told = _looked_at(parameters)
    failures = list(entry.kept.get("failures", {}).values())
    ill = [f"{row['host']} is {row['status']}" for row in told["hosts"] if row["status"] != OK]
    receipts = entry.kept.get("receipts", {})
    sums = {name: sum(receipt.get(name, 0) for receipt in receipts.values()) for name in SUMS}
    receipt = {
        "ok": not failures and not ill and len(told["versions"]) == 1,
        "instances": [f"{host}/{one}" for host, receipt in receipts.items() for one in receipt.get("instances", [])],
        **sums,
        "longest_stall_ms": max((receipt.get("longest_stall_ms", 0) for receipt in receipts.values()), default=0),
        "seconds": round(time.time() - entry.kept["began"], 1),
        "versions": told["versions"],
        "failures": [*failures, *ill],
    }
    entry.kept["receipt"] = receipt
    entry.kept["lines"] = [
        f"{len(receipts)} hosts in {receipt['seconds']:.0f} s: {sums['failed']} of {sums['requests']} requests failed, {sums['streams_cut']} of "
        f"{sums['streams_cut'] + sums['streams_finished']} streams cut; every host runs {', '.join(told['versions'])}",
        *receipt["failures"],
    ]


def _looked_at(parameters: dict[str, Any]) -> dict[str, Any]:
    """How every host is, asked again for a while where one is not well: a connection may be cut, and a load average has its moments."""
    inventory = find_inventory(Path(parameters["inventory"]), None)
    ends = time.monotonic() + jobs.RECONNECT_SECONDS
    while True:
        told = fleet_status(inventory, inventory.hosts(parameters["hosts"]))
        if all(row["status"] == OK for row in told["hosts"]) or time.monotonic() >= ends:
            return told
        time.sleep(2.0)
