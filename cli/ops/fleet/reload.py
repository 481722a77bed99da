"""A configuration of haproxy on every load balancer, or on none: each checks it first, and a reload loses no connection (old processes serve what they have).

Source: the management guide of haproxy 2.6 (Stopping and restarting HAProxy), and Debian's haproxy.service, whose reload checks the file once more.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coollm_cli.ops.fleet.changes import parameters_of
from coollm_cli.ops.fleet.inventory import Inventory, find_inventory
from coollm_cli.ops.fleet.ssh import Done, Remote, ask_again, balancer_remotes
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step

from coollm.core.config.fleet import LoadBalancer
from coollm.core.errors import OperationFailed

SECONDS = 60.0


def plan(inventory: Inventory, file: Path, target: str) -> Plan:
    """`target` is where the load balancers have it. Raises OperationFailed where one refuses it."""
    data = _read(file)
    if not inventory.fleet.load_balancers:
        raise OperationFailed(f"{inventory.file} names no load balancers", "fleet: {load_balancers: [{name: lb1, address: lb1.company.com}]}")
    new, at = shlex.quote(f"{target}.new"), shlex.quote(target)
    changed = []
    for one, sh in _each(inventory):
        checked = sh(f"cat >{new} && haproxy -c -f {new} && {{ cmp -s {new} {at} || echo changed; }}", data)
        if checked.exit_code != 0:
            raise OperationFailed(f"{one.name}: {_said(checked)}", "nothing was changed")
        if "changed" in checked.output.split():
            changed.append(one.name)
    if not changed:
        return Plan("lb-reload", {}, (), nothing="every load balancer has this file: nothing to do")
    parameters = parameters_of(inventory, ()) | {"file": str(file.absolute()), "sha256": hashlib.sha256(data).hexdigest(), "target": target, "names": changed}
    return Plan("lb-reload", parameters, steps(parameters), reverse=("lb-reload-back", parameters))


def steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `lb reload`."""
    target = parameters["target"]
    new, at, before = (shlex.quote(f"{target}{end}") for end in (".new", "", ".before"))

    def put(name: str) -> Callable[[Entry], None]:
        def do(_: Entry) -> None:
            data = _read(Path(parameters["file"]))
            if hashlib.sha256(data).hexdigest() != parameters["sha256"]:
                raise OperationFailed(f"{parameters['file']} was edited since it was checked", "give the command again")
            # Given again after a cut it must not take the new file for the old one.
            line = f"cat >{new} && {{ cmp -s {new} {at} || {{ cp -p {at} {before} && mv {new} {at}; }}; }} && systemctl reload haproxy"
            _do(parameters, name, line, data)

        return do

    def back(name: str) -> Callable[[Entry], None]:
        return lambda _: _do(parameters, name, f"{{ [ ! -e {before} ] || mv {before} {at}; }} && systemctl reload haproxy")

    made = [Step(name, f"{name}: exchange {target}, and reload", put(name), back(name)) for name in parameters["names"]]
    return [*made, Step("verify", "ask every load balancer whether it runs", lambda entry: _verify(entry, parameters))]


def back_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of its undo."""
    found = {step.name: step for step in steps(parameters)}
    made = [Step(name, f"{name}: the file of before, and reload", found[name].undo or found[name].do) for name in parameters["names"]]
    return [*made, found["verify"]]


def _verify(entry: Entry, parameters: dict[str, Any]) -> None:
    for name in parameters["names"]:
        _do(parameters, name, "systemctl is-active haproxy")
    entry.kept["lines"] = [f"{name}: reloaded" for name in parameters["names"]]


def _do(parameters: dict[str, Any], name: str, line: str, data: bytes = b"") -> None:
    for one, sh in _each(find_inventory(Path(parameters["inventory"]), None), name):
        done = sh(line, data)
        if done.exit_code != 0:
            raise OperationFailed(f"{one.name}: {_said(done)}", f"ssh {one.address or one.name} systemctl status haproxy")


def _each(inventory: Inventory, name: str | None = None) -> list[tuple[LoadBalancer, Callable[[str, bytes], Done]]]:
    """Load balancers, each with what runs a line of the shell there."""
    chosen = [one for one in inventory.fleet.load_balancers if name in (None, one.name)]
    return [(one, _there(inventory, one) if one.address is not None else _here) for one in chosen]


def _there(inventory: Inventory, one: LoadBalancer) -> Callable[[str, bytes], Done]:
    def sh(line: str, data: bytes) -> Done:
        with balancer_remotes(inventory.fleet) as found:
            remote: Remote = found[one.name]
            return ask_again(lambda: remote.run("sh", "-c", line, data=data, seconds=SECONDS))

    return sh


def _here(line: str, data: bytes) -> Done:
    done = subprocess.run(["/bin/sh", "-c", line], input=data, capture_output=True, timeout=SECONDS, check=False)  # noqa: S603
    return Done(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise OperationFailed(f"{file}: cannot be read: {error.strerror}") from error


def _said(done: Done) -> str:
    """What haproxy is alarmed about, where that is why."""
    return "; ".join(line.strip() for line in done.errors.splitlines() if "[ALERT]" in line)[:400] or done.reason
