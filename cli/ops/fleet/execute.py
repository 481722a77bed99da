"""One command on many hosts at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coollm_cli.ops.fleet.inventory import Inventory
from coollm_cli.ops.fleet.ssh import Remote, in_parallel, remotes

from coollm.core.config.fleet import FleetHost
from coollm.core.errors import Unreachable


def execute(inventory: Inventory, hosts: Sequence[FleetHost], words: Sequence[str], data: bytes | None, seconds: float) -> list[dict[str, Any]]:
    """What came of it on each: {"host", "exit_code", "stdout", "stderr"}; of a host that cannot be reached {"host", "unreachable"}."""

    def one(host: FleetHost, remote: Remote) -> dict[str, Any]:
        try:
            done = remote.run(*words, data=data, seconds=seconds)
        except Unreachable as error:
            return {"host": host.name, "exit_code": None, "unreachable": error.message}
        return {"host": host.name, "exit_code": done.exit_code, "stdout": done.output, "stderr": done.errors}

    with remotes(inventory.fleet, hosts, once=True) as found:
        return in_parallel(inventory.fleet, list(hosts), lambda host: one(host, found[host.name]))


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Every line behind the name of its host."""
    told = []
    for row in rows:
        if "unreachable" in row:
            told.append(f"{row['host']}: unreachable: {row['unreachable']}")
            continue
        told += [f"{row['host']}: {line}" for line in (*row["stdout"].splitlines(), *row["stderr"].splitlines())]
        if row["exit_code"]:
            told.append(f"{row['host']}: exit {row['exit_code']}")
    return told
