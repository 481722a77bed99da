"""Changes of a fleet, kept in the journal of whoever makes them: planned, locked, told to the audit log, and gone on with or taken back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coollm_cli.ops.fleet.balancers import Balancers
from coollm_cli.ops.fleet.inventory import Inventory, find_inventory
from coollm_cli.ops.fleet.ssh import Remote, balancer_remotes, remotes
from coollm_cli.ops.operation import Host

from coollm.core.config.fleet import FleetHost
from coollm.core.paths import admin_directory, state_directory


def host_of(inventory: Inventory) -> Host:
    """Where changes of this fleet are kept on this machine."""
    file = inventory.file.absolute()
    state = state_directory(file)
    return Host(admin_directory(file, state), file, state)


def parameters_of(inventory: Inventory, hosts: Sequence[FleetHost]) -> dict[str, Any]:
    """What a change has to know to find its hosts again."""
    return {"inventory": str(inventory.file.absolute()), "hosts": [one.name for one in hosts]}


@contextmanager
def reached(parameters: dict[str, Any]) -> Iterator[tuple[Inventory, dict[str, Remote], Balancers]]:
    """The fleet of a change, its hosts by their names, and its load balancers."""
    inventory = find_inventory(Path(parameters["inventory"]), None)
    with remotes(inventory.fleet, inventory.hosts(parameters["hosts"])) as found, balancer_remotes(inventory.fleet) as before:
        yield inventory, found, Balancers(inventory, before)
