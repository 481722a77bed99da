"""What hosts that share a ledger have to have in common: the secret under which keys of clients are hashed, and those that the configuration refers to.

They go from one host to the others over ssh alone, from one standard output to another standard input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coollm_cli.ops.fleet.inventory import Inventory
from coollm_cli.ops.fleet.ssh import Remote, in_parallel, remotes

from coollm.core.config.fleet import FleetHost
from coollm.core.errors import CoollmError, OperationFailed

SECONDS = 120.0


def share(inventory: Inventory, source: FleetHost, targets: Sequence[FleetHost], *, dry_run: bool = False) -> list[dict[str, Any]]:
    """What came of it on each: {"host", "ok", "names"} of the secrets that are set, or "what" failed. Raises Unreachable and OperationFailed of the source."""
    with remotes(inventory.fleet, [source, *targets]) as found:
        given = found[source.name].coollm("secrets", "share")
        if given.exit_code != 0:
            raise OperationFailed(f"{source.name}: {given.reason}", f"ssh {found[source.name].where} coollm secrets list")
        data = given.output.encode()
        return in_parallel(inventory.fleet, list(targets), lambda host: _accept(host, found[host.name], data, dry_run=dry_run))


def _accept(host: FleetHost, remote: Remote, data: bytes, *, dry_run: bool) -> dict[str, Any]:
    try:
        done = remote.coollm("secrets", "accept", "--dry-run" if dry_run else "--yes", "--json", data=data, seconds=SECONDS)
        if done.exit_code != 0:
            raise OperationFailed(f"{host.name}: {done.reason}")
        return {"host": host.name, "ok": True, "names": done.as_json().get("names", [])}
    except CoollmError as error:
        return {"host": host.name, "ok": False, "what": error.message}
