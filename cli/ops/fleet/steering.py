"""Weights of hosts in the load balancers, as changes that are journaled and can be taken back."""

from __future__ import annotations

from typing import Any

from coollm_cli.ops.fleet.balancers import DRAIN, READY
from coollm_cli.ops.fleet.changes import parameters_of, reached
from coollm_cli.ops.fleet.inventory import Inventory
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step

from coollm.core.config.fleet import FleetHost
from coollm.core.errors import OperationFailed


def plan(inventory: Inventory, host: FleetHost, *, weight: int | None = None, is_drained: bool | None = None) -> Plan:
    """Another weight (0 to 256) of a host, or whether new requests come to it. Raises Unreachable and OperationFailed."""
    if not inventory.fleet.load_balancers:
        raise OperationFailed(f"{inventory.file} names no load balancers", "fleet: {load_balancers: [{name: lb1, address: lb1.company.com}]}")
    parameters: dict[str, Any] = parameters_of(inventory, [host]) | {"weight": weight, "is_drained": is_drained}
    with reached(parameters) as (_, _, balancers):
        rows = balancers.servers([host.name])
    if len(rows) != len(inventory.fleet.load_balancers):
        raise OperationFailed(f"not every load balancer has a server '{host.name}'", "coollm lb render, and reload haproxy")
    before = {"weight": rows[0]["weight"], "is_drained": any(row["status"] == "DRAIN" for row in rows)}
    now = {"weight": weight, "is_drained": is_drained}
    if all(value is None or value == before[name] for name, value in now.items()):
        return Plan("lb-steer", {}, (), nothing=f"{host.name}: it is so already")
    back = parameters | {name: (before[name] if value is not None else None) for name, value in now.items()}
    parameters["back"] = back
    what = "takes no new requests" if is_drained else "takes requests again" if is_drained is not None else f"weight {before['weight']} -> {weight}"
    others = [] if not is_drained or len(inventory.fleet.hosts) > 1 else [f"{host.name} is the only host: nothing would be served"]
    if others:
        raise OperationFailed(others[0])
    notes = [f"{host.name}: {sum(row['sessions'] for row in rows)} requests run there; {what}"]
    return Plan("lb-steer", parameters, steps(parameters), notes, reverse=("lb-steer", back))


def steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `lb weight` and `lb drain`."""
    name = parameters["hosts"][0]

    def steer(wanted: dict[str, Any]) -> None:
        with reached(parameters) as (_, _, balancers):
            if wanted["weight"] is not None:
                balancers.set_weight(name, str(wanted["weight"]))
            if wanted["is_drained"] is not None:
                balancers.set_state(name, DRAIN if wanted["is_drained"] else READY)

    def verify(entry: Entry) -> None:
        with reached(parameters) as (_, _, balancers):
            rows = balancers.servers([name])
        wrong = [row["load_balancer"] for row in rows if parameters["weight"] is not None and row["weight"] != parameters["weight"]]
        if wrong:
            raise OperationFailed(f"{', '.join(wrong)}: {name} does not have the weight {parameters['weight']}", "coollm lb status")
        entry.kept["told"] = {"servers": rows}
        entry.kept["lines"] = [f"{row['load_balancer']}: {name} is {row['status']}, weight {row['weight']}" for row in rows]

    undo = (lambda _: steer(parameters["back"])) if "back" in parameters else None
    return [Step("steer", f"tell every load balancer of {name}", lambda _: steer(parameters), undo), Step("verify", "ask them", verify)]
