"""How the instances of this host are: from what their workers tell, and from what each says of its store and its vendors."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coollm_cli import output
from coollm_cli.ops import host
from coollm_cli.ops.backup import proof
from coollm_cli.ops.lock import is_being_changed
from coollm_cli.output import Result
from coollm_cli.sparkline import sparkline

from coollm.core.config.generations import Generations
from coollm.core.errors import CoollmError
from coollm.core.instances import quantile
from coollm.core.paths import is_installed, state_directory

LATELY = "req/s lately"
COLUMNS = ("instance", "status", "version", "generation", "workers", "req/s", "p95 ms", "streams", "errors", "memory MB", "up")
SAMPLE_SECONDS = 1.1
MOST_RATES = 24
MEBIBYTE = 1024 * 1024


def host_status(config: Path, state_option: Path | None = None) -> dict[str, Any]:
    """Every instance with its figures of the last second, and what is worth knowing of the host."""
    path = config.absolute()
    first = _figures(path)
    if first:
        time.sleep(SAMPLE_SECONDS)
    return _status(path, first, SAMPLE_SECONDS, state_option)


def _status(path: Path, before: dict[str, list[int]], seconds: float, state_option: Path | None = None) -> dict[str, Any]:
    instances = [_instance(one, before, seconds) for one in host.states(path)]
    state = state_directory(path, state_option)
    return {
        "instances": instances,
        "configuration": _configuration(path, state),
        "backup": proof.told(state),
        "change": _change(path, state),
        "notes": _notes(path, state, instances),
    }


def _change(path: Path, state: Path) -> dict[str, Any] | None:
    """What is not finished: {"command", "by", "alive"}, where `alive` says whether somebody is at it."""
    try:
        ours = host.host_of(path, state)
        unfinished = ours.journal.unfinished()
    except (CoollmError, OSError):
        return None  # this user may not read it
    return {"command": unfinished.command, "by": unfinished.by, "alive": is_being_changed(ours.directory)} if unfinished is not None else None


def _configuration(path: Path, state: Path) -> dict[str, Any] | None:
    """The generation in force, by its number on this host and its hash; None where none was ever applied, or this user may not read it."""
    try:
        effective = Generations(path, state).effective()
    except (CoollmError, OSError):
        return None
    return {"generation": effective.number, "digest": effective.digest} if effective is not None else None


def _figures(path: Path) -> dict[str, list[int]]:
    """What each worker has served: requests and failed ones, then answers by how long they took."""
    return {f"{name}/{report.pid}": [report.requests, report.failed, *report.latencies] for name, report in host.live_workers(path)}


def _instance(one: host.State, before: dict[str, list[int]], seconds: float) -> dict[str, Any]:
    live = one.live
    deltas = []
    for report in live:
        now = [report.requests, report.failed, *report.latencies]
        earlier = before.get(f"{one.name}/{report.pid}", now)
        deltas.append([after - first for after, first in zip(now, earlier, strict=True)])
    sums = [sum(column) for column in zip(*deltas, strict=True)] if deltas else [0, 0]
    p95 = quantile(sums[2:], 0.95)
    found: dict[str, Any] = {
        "instance": one.name,
        "status": one.status,
        "version": _joined(report.version for report in live),
        "generation": _joined(report.generation for report in live),
        "release": one.release or None,
        "workers": len(live),
        "requests_per_second": round(sums[0] / seconds, 1),
        "p95_ms": None if p95 is None else round(p95 * 1000, 1),
        "streams": sum(report.streams for report in live),
        "oldest_stream_seconds": max((report.oldest_stream_seconds for report in live), default=0.0),
        "connections": sum(report.connections for report in live),
        "requests": sum(report.requests for report in one.reports),
        "failed": sum(report.failed for report in one.reports),
        "memory_mb": round(sum(report.memory_bytes for report in live) / MEBIBYTE),
        "uptime_seconds": round(time.time() - min(report.started for report in live)) if live else None,
        "pid": one.instance.pid if one.instance and live else None,
        "worker_pids": [report.pid for report in live],
        "config": one.instance.config if one.instance else None,
        "refused": _joined(report.refused for report in live if report.refused) or None,
    }
    if one.status == "up":
        found.update(_asked(one))
    return found


def _asked(one: host.State) -> dict[str, Any]:
    """What an instance says of itself."""
    try:
        told = host.client_of(one.name, one.directory).ask("/admin/v1/status")
    except CoollmError as error:
        return {"status": "unreachable", "detail": error.message}
    return {name: told[name] for name in ("status", "checks", "listen", "store", "greenlets") if name in told}


def _joined(values: Any) -> Any:
    """The one value that all have, or all that there are, as in the middle of an upgrade."""
    found = sorted(set(values))
    return found[0] if len(found) == 1 else ", ".join(map(str, found)) or None


def _notes(path: Path, state: Path, instances: Sequence[dict[str, Any]]) -> list[str]:
    notes = []
    versions = {one["version"] for one in instances if one["version"]}
    if len(versions) > 1:
        notes.append(f"instances run different versions: {', '.join(sorted(versions))}; coollm upgrade finishes an upgrade")
    for one in instances:
        if one["refused"]:
            notes.append(f"instance {one['instance']} does not serve {one['refused']}")
    try:
        generations = Generations(path, state)
        pointer, effective = generations.pointer(), generations.effective()
        unfinished = host.host_of(path, state).journal.unfinished()
    except (CoollmError, OSError):
        return notes  # this user may not read them
    if pointer is not None and pointer.is_unconfirmed(time.time()) and pointer.revert_at is not None:
        notes.append(f"generation {pointer.number} reverts in {pointer.revert_at - time.time():.0f} s: coollm config confirm keeps it")
    if effective is not None and is_installed(path) and path.exists() and path.read_bytes() != effective.file.read_bytes():
        notes.append(f"{path} differs from generation {effective.number}, which is in force: coollm config diff, coollm config apply {path}")
    told = proof.told(state)
    if told["drill_failed"]:
        notes.append(f"the last drill of a backup failed: {told['drill_fault']}")
    if unfinished is not None:
        notes.append(f"`{unfinished.command}` of {unfinished.by} is under way, or was killed: giving it again finishes it")
    return notes


def rows(instances: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """As a table has them."""
    return [
        (
            one["instance"],
            one["status"],
            one["version"],
            one["generation"],
            one["workers"],
            one["requests_per_second"],
            one["p95_ms"],
            one["streams"],
            one["failed"],
            one["memory_mb"],
            _age(one["uptime_seconds"]),
        )
        for one in instances
    ]


def _age(seconds: int | None) -> str | None:
    if seconds is None:
        return None
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _with_rates(instances: Sequence[dict[str, Any]], rates: dict[str, list[float]]) -> list[tuple[Any, ...]]:
    """The rows, each with what its instance has served since it is watched."""
    for one in instances:
        rates[one["instance"]] = [*rates.get(one["instance"], []), one["requests_per_second"]][-MOST_RATES:]
    return [(*row, sparkline(rates[row[0]])) for row in rows(instances)]


def watch(config: Path, every: float, times: int | None, *, as_json: bool) -> Result:
    """Shows the instances again and again: on a terminal in one place, else one after the other."""
    path = config.absolute()
    live = None
    if sys.stdout.isatty() and not as_json:
        from rich.live import Live

        live = Live(auto_refresh=False)
        live.start()
    shown = 0
    rates: dict[str, list[float]] = {}
    try:
        while times is None or shown < times:
            before, began = _figures(path), time.monotonic()
            time.sleep(every)
            found = _status(path, before, time.monotonic() - began)
            table = output.Table((*COLUMNS, LATELY), _with_rates(found["instances"], rates), "no instance runs")
            if live is not None:
                live.update(output.drawn(table), refresh=True)
            else:
                output.write_again(found, [table], as_json=as_json)
            shown += 1
    except KeyboardInterrupt:
        pass
    finally:
        if live is not None:
            live.stop()
    return Result({}, [])
