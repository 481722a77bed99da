"""One configuration on every host, or on none. Every host checks it before any changes; then each puts it in force for a while, and keeps it only when all of
them have it, by its hash. Hosts on which that is not said in time, since who gave the command is gone, go back by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from coollm_cli import output
from coollm_cli.ops.fleet.inventory import Inventory
from coollm_cli.ops.fleet.ssh import Remote, in_parallel, remotes

from coollm.core.config.fleet import FleetHost
from coollm.core.errors import CoollmError, OperationFailed, Undone

PLACE = "/var/opt/coollm/fleet-config.yaml"
CONFIRM_WITHIN = "5m"
SECONDS = 120.0


def apply(inventory: Inventory, hosts: Sequence[FleetHost], file: Path, message: str | None, *, dry_run: bool) -> dict[str, Any]:
    """{"ok", "hosts": [{"host", "generation", "changed"}], "digest"}. Raises OperationFailed where nothing was changed, and Undone where it was taken back."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise OperationFailed(f"{file}: cannot be read: {error.strerror}") from error
    with remotes(inventory.fleet, hosts) as found:
        own = [(host, found[host.name]) for host in hosts]
        output.progress(f"[1/3] {len(hosts)} hosts check it")
        checked = _all(inventory, own, lambda remote: _check(remote, data))
        _stop_if(checked, "nothing was changed")
        if dry_run:
            return {"ok": True, "done": False, "hosts": [{"host": name, **told} for name, told in checked.items()]}
        waiting = [(host, remote) for host, remote in own if checked[host.name]["changes"]]
        if not waiting:
            return {"ok": True, "done": True, "changed": False, "hosts": [{"host": name, **told} for name, told in checked.items()]}
        output.progress(f"[2/3] {len(waiting)} hosts put it in force for {CONFIRM_WITHIN}")
        applied = _all(inventory, waiting, lambda remote: _apply(remote, message))
        faults = {name: told for name, told in applied.items() if isinstance(told, CoollmError)}
        if faults:
            _take_back(inventory, waiting, applied)
            name, fault = next(iter(faults.items()))
            raise Undone(f"{name}: {fault.message}: it was taken back on every host", fault.hint)
        output.progress("[3/3] they keep it")
        kept = _all(inventory, waiting, _confirm)
        _stop_if(kept, f"hosts that did not hear it go back by themselves within {CONFIRM_WITHIN}: give the command again")
        digests = _all(inventory, own, _digest)
    _stop_if(digests, "coollm fleet status shows which host has what")
    if len(set(digests.values())) != 1:
        raise OperationFailed("the hosts do not have the same configuration", "coollm fleet status; then give the command again")
    rows = [{"host": host.name, "changed": checked[host.name]["changes"], **applied.get(host.name, {})} for host in hosts]
    return {"ok": True, "done": True, "changed": True, "digest": next(iter(digests.values())), "hosts": rows}


def _all(inventory: Inventory, own: Sequence[tuple[FleetHost, Remote]], do: Callable[[Remote], Any]) -> dict[str, Any]:
    """What came of it on each host, an error in its place where it failed."""

    def one(pair: tuple[FleetHost, Remote]) -> Any:
        try:
            return do(pair[1])
        except CoollmError as error:
            return error

    return dict(zip((host.name for host, _ in own), in_parallel(inventory.fleet, list(own), one), strict=True))


def _stop_if(told: dict[str, Any], hint: str) -> None:
    faults = [f"{name}: {error.message}" for name, error in told.items() if isinstance(error, CoollmError)]
    if faults:
        raise OperationFailed("; ".join(faults), hint)


def _check(remote: Remote, data: bytes) -> dict[str, Any]:
    remote.put(PLACE, data)
    done = remote.coollm("config", "apply", PLACE, "--dry-run", "--json", seconds=SECONDS)
    if done.exit_code != 0:
        raise OperationFailed(_last(done.errors))
    return {"changes": bool(done.as_json()["plan"])}


def _apply(remote: Remote, message: str | None) -> dict[str, Any]:
    words = ["--message", message] if message else []
    done = remote.coollm("config", "apply", PLACE, "--confirm-within", CONFIRM_WITHIN, "--yes", "--json", *words, seconds=SECONDS)
    if done.exit_code != 0:
        raise OperationFailed(_last(done.errors))
    return {"generation": done.as_json().get("generation")}


def _confirm(remote: Remote) -> None:
    done = remote.coollm("config", "confirm", "--yes", "--json", seconds=SECONDS)
    if done.exit_code != 0:
        raise OperationFailed(_last(done.errors))


def _digest(remote: Remote) -> str:
    told = remote.coollm("status", "--json", seconds=SECONDS).as_json()
    return str((told.get("configuration") or {}).get("digest"))


def _take_back(inventory: Inventory, own: Sequence[tuple[FleetHost, Remote]], applied: dict[str, Any]) -> None:
    """Where it is in force it goes; a host that does not hear it goes back by itself."""
    changed = [(host, remote) for host, remote in own if not isinstance(applied[host.name], CoollmError)]
    output.progress(f"  taking it back on {len(changed)} hosts")
    _all(inventory, changed, lambda remote: remote.coollm("undo", "--yes", "--json", seconds=SECONDS))


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("error:").strip() for line in lines if line.startswith("error:")]
    return (errors or lines or ["it failed"])[0][:400]
