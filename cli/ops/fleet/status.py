"""How every host of the fleet is, asked all at once: those that do not answer are named, and the others are told of nevertheless."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coollm_cli.ops.fleet.inventory import Inventory, destination
from coollm_cli.ops.fleet.ssh import Remote, in_parallel, remotes

from coollm.core.config.fleet import FleetHost
from coollm.core.errors import CoollmError, Unreachable

COLUMNS = ("host", "status", "version", "configuration", "instances", "req/s", "streams", "errors", "note")
OK, DEGRADED, DOWN, UNREACHABLE, FAILED = "ok", "degraded", "down", "unreachable", "failed"
SECONDS = 30.0


def fleet_status(inventory: Inventory, hosts: Sequence[FleetHost]) -> dict[str, Any]:
    """{"hosts": [...], "drift": {digest: [names]}, "ok": ...}; the digests are those of configurations, and there is no drift where all have the same."""
    with remotes(inventory.fleet, hosts, once=True) as found:
        rows = in_parallel(inventory.fleet, list(hosts), lambda one: host_row(one, found[one.name]))
    digests: dict[str, list[str]] = {}
    for row in rows:
        if row["digest"]:
            digests.setdefault(row["digest"], []).append(row["host"])
    versions = {row["version"] for row in rows if row["version"]}
    drift = digests if len(digests) > 1 else {}
    well = all(row["status"] == OK for row in rows) and not drift and len(versions) <= 1
    return {"ok": well, "hosts": rows, "drift": drift, "versions": sorted(versions)}


def host_row(host: FleetHost, remote: Remote) -> dict[str, Any]:
    """What a host says of itself. Nothing is raised."""
    row: dict[str, Any] = {"host": host.name, "address": destination(host), "status": FAILED, "version": None, "generation": None, "digest": None}
    row |= {"instances": 0, "serving": 0, "requests_per_second": 0.0, "streams": 0, "failed": 0, "change": None, "notes": []}
    try:
        told = remote.asked("status", "--json", seconds=SECONDS).as_json()
    except Unreachable as error:
        return {**row, "status": UNREACHABLE, "notes": [error.message]}
    except CoollmError as error:
        return {**row, "notes": [error.message]}
    instances = told.get("instances", [])
    serving = [one for one in instances if one["status"] not in ("down", "unreachable", "starting")]
    row |= {
        "instances": len(instances),
        "serving": len(serving),
        "requests_per_second": round(sum(one["requests_per_second"] for one in instances), 1),
        "streams": sum(one["streams"] for one in instances),
        "failed": sum(one["failed"] for one in instances),
        "version": _joined(one["version"] for one in serving),
        "change": told.get("change"),
        "notes": told.get("notes", []),
    }
    configuration = told.get("configuration") or {}
    row |= {"generation": configuration.get("generation"), "digest": configuration.get("digest")}
    row["status"] = DOWN if not serving else OK if all(one["status"] == "ok" for one in instances) else DEGRADED
    return row


def _joined(values: Any) -> str | None:
    return ", ".join(sorted({str(value) for value in values if value})) or None


def rows(told: dict[str, Any]) -> list[Sequence[Any]]:
    """As a table has them."""
    return [
        (
            one["host"],
            one["status"],
            one["version"],
            f"{one['generation']} ({one['digest'][:8]})" if one["digest"] else None,
            f"{one['serving']}/{one['instances']}" if one["instances"] else None,
            one["requests_per_second"] if one["instances"] else None,
            one["streams"] if one["instances"] else None,
            one["failed"] if one["instances"] else None,
            "; ".join(one["notes"])[:160],
        )
        for one in told["hosts"]
    ]


def drift_lines(told: dict[str, Any]) -> list[str]:
    """Which hosts have which configuration, where they differ."""
    lines = [f"configuration {digest[:8]}: {', '.join(names)}" for digest, names in sorted(told["drift"].items(), key=lambda item: -len(item[1]))]
    versions = [f"versions differ: {', '.join(told['versions'])}"] if len(told["versions"]) > 1 else []
    return [*(["the configurations of the hosts differ:", *lines] if lines else []), *versions]
