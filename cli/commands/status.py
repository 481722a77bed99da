"""`coollm status`."""

from __future__ import annotations

from typing import Any

from coollm_cli import options
from coollm_cli.ops.gateway_client import GatewayClient, running_instances
from coollm_cli.output import Result, Table

from coollm.core.errors import CoollmError

COLUMNS = ("instance", "status", "version", "listen", "workers", "store", "pid", "up", "configuration")


def status(config: options.Config = None, json: options.Json = False) -> Result:
    """Show the gateways that run on this host. Exit 4 if one is not ok, 5 if none runs.

    Example: coollm status --json | jq '.instances[].status'
    """
    instances = []
    for instance in running_instances(config):
        found: dict[str, Any] = {"instance": instance.name, "pid": instance.pid, "config": instance.config, "status": "unreachable"}
        try:
            found.update(GatewayClient(instance=instance).ask("/admin/v1/status"), pid=instance.pid)
        except CoollmError as error:
            found["detail"] = error.message
        instances.append(found)
    exit_code = 5 if not instances else 0 if all(one["status"] == "ok" for one in instances) else 4
    rows = [
        (
            one["instance"],
            one["status"],
            one.get("version"),
            one.get("listen"),
            one.get("workers"),
            one.get("store"),
            one["pid"],
            _age(one.get("uptime_seconds")),
            one["config"],
        )
        for one in instances
    ]
    return Result({"instances": instances}, [Table(COLUMNS, rows, "no gateway of this user runs on this host")], as_json=json, exit_code=exit_code)


def _age(seconds: int | None) -> str | None:
    if seconds is None:
        return None
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
