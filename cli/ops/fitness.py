"""How a host's gateway is as a whole: what one instance says of what all share, and whether the others are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coollm.core.paths import INSTANCES, SYSTEM_CONFIG


def add_instances(body: dict[str, Any], config: Path) -> None:
    """Adds a check for each instance that systemd runs here to what one of them answered."""
    if config.absolute() != SYSTEM_CONFIG or not INSTANCES.is_dir():
        return
    from coollm_cli.ops.host import states  # `coollm health` of a gateway that was started by hand does without

    for one in states(config):
        if one.release and one.is_wanted:
            is_there = one.status in ("up", "draining")
            body["checks"].append({"name": f"instance {one.name}", "status": "ok" if is_there else "down", "detail": one.status})
            if not is_there and body["status"] == "ok":
                body["status"] = "degraded"
