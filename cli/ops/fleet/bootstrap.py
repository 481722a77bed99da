"""Makes hosts of bare machines, which need ssh and Python with venv: the wheels are brought there, and coollm installs itself from a virtual environment."""

from __future__ import annotations

import functools
import io
import shlex
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coollm_cli import output
from coollm_cli.ops.fleet.inventory import Inventory
from coollm_cli.ops.fleet.secrets import share
from coollm_cli.ops.fleet.ssh import Remote, in_parallel, remotes

from coollm.core.config.fleet import FleetHost
from coollm.core.errors import CoollmError, OperationFailed, UsageError

PLACE = "/var/tmp/coollm-bootstrap"  # noqa: S108  root's alone, and removed at the end
SECONDS = 900.0
INSTALLED = "installed"
CONFIGURATION, ENVIRONMENT = "/etc/coollm/config.yaml", "/etc/coollm/environment"


@functools.cache
def pack(wheelhouse: Path) -> bytes:
    """The wheels of a directory, as a tar file, read once for all hosts. Raises UsageError."""
    wheels = sorted(wheelhouse.glob("*.whl")) if wheelhouse.is_dir() else []
    if not any(wheel.name.startswith("coollm-") for wheel in wheels):
        raise UsageError(f"--wheelhouse {wheelhouse}: there is no wheel of coollm in it", "scripts/release makes one")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for wheel in wheels:
            tar.add(wheel, arcname=wheel.name)
    return out.getvalue()


def install(inventory: Inventory, hosts: Sequence[FleetHost], wheels: bytes, files: dict[str, bytes], instances: int) -> list[dict[str, Any]]:
    """What came of it on each host: {"host", "ok", "what"}. A configuration that is there already stays as it is."""

    def one(host: FleetHost) -> dict[str, Any]:
        try:
            what = _install(found[host.name], wheels, files, instances)
        except CoollmError as error:
            output.progress(f"{host.name}: failed: {error.message}")
            return {"host": host.name, "ok": False, "what": error.message}
        output.progress(f"{host.name}: {what}")
        return {"host": host.name, "ok": True, "what": what}

    with remotes(inventory.fleet, hosts) as found:
        rows = in_parallel(inventory.fleet, list(hosts), one)
    return _share(inventory, hosts, rows)


def _share(inventory: Inventory, hosts: Sequence[FleetHost], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hosts that are new get the secrets that the others have in common, before any client has a key there."""
    new = {row["host"] for row in rows if row["ok"] and row["what"] == INSTALLED}
    failed = {row["host"] for row in rows if not row["ok"]}
    old = [one for one in inventory.fleet.hosts if one.name not in new | failed]
    source = old[0] if old else next((one for one in hosts if one.name in new), None)
    targets = [one for one in hosts if one.name in new and one is not source]
    if source is None or not targets:
        return rows
    try:
        told = {row["host"]: row for row in share(inventory, source, targets)}
    except CoollmError as error:
        told = {one.name: {"ok": False, "what": error.message} for one in targets}
    faults = {name: row["what"] for name, row in told.items() if not row["ok"]}
    return [{**row, "ok": False, "what": f"secrets of {source.name}: {faults[row['host']]}"} if row["host"] in faults else row for row in rows]


def _install(remote: Remote, wheels: bytes, files: dict[str, bytes], instances: int) -> str:
    _need(remote, f"rm -rf {PLACE} && install -d -m 700 {PLACE}/wheels && tar -x --no-same-owner -C {PLACE}/wheels", wheels)
    try:
        for path, data in files.items():
            done = remote.run("test", "-e", path)
            if done.exit_code != 0:
                remote.put(path, data)
        # It installs coollm once, and is not worth compiling.
        pip = f"{PLACE}/venv/bin/pip install --quiet --disable-pip-version-check --no-compile --no-index --find-links {PLACE}/wheels coollm"
        # The system's own, where there is one: a person's Python cannot be read by the units.
        _need(remote, f'"$(command -v /usr/bin/python3 || command -v python3)" -m venv {PLACE}/venv && {pip}')
        words = ["install", "--wheelhouse", f"{PLACE}/wheels", "--instances", str(instances), "--yes", "--json"]
        done = remote.run(f"{PLACE}/venv/bin/coollm", *words, seconds=SECONDS)
        told = done.as_json() if done.exit_code == 0 else None
        if told is None:
            raise OperationFailed(f"{remote.where}: coollm install: {done.reason}", "the same command goes on where it stopped")
        return INSTALLED if told.get("changed") else "is as it has to be"
    finally:
        remote.run("rm", "-rf", PLACE)


def _need(remote: Remote, line: str, data: bytes | None = None) -> None:
    done = remote.run("sh", "-c", line, data=data, seconds=SECONDS)
    if done.exit_code != 0:
        raise OperationFailed(f"{remote.where}: {done.reason}", f"tried: {shlex.quote(line)[:200]}")
