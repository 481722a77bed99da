"""A rolling restart: one instance more than before comes first, so that capacity never drops; then each is restarted when its streams have ended, and has to be
healthy before the next; the additional one goes last. The receipt says what was served meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from coollm_cli import output
from coollm_cli.ops import host, systemd
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step
from coollm_cli.ops.watch import TOLD_SECONDS, PublicProbe, StreamProbe, find_probe_model, since, totals, wait_until_healthy

from coollm.core.config.load import load_in_force
from coollm.core.config.schema import Settings
from coollm.core.errors import OperationFailed
from coollm.core.instances import quantile, read_reports
from coollm.core.paths import SYSTEM_CONFIG, SYSTEM_RUN, SYSTEM_STATE

TELL_EVERY_SECONDS = 5.0


def settings_in_force() -> Settings:
    """The configuration that this host's instances serve. Raises ConfigurationError and OperationFailed."""
    return load_in_force(SYSTEM_CONFIG, SYSTEM_STATE).settings


def restart_plan(*, rolling: bool, max_failures: int) -> Plan:
    """Restarts every instance of this host."""
    host.need_root()
    names = host.need_instances()
    live = [name for name in names if systemd.is_active(systemd.service(name))]
    parameters = common_parameters(names, live, max_failures) | {"rolling": rolling and bool(live)}
    notes = blast_radius(names, rolling=rolling)
    return Plan("restart", parameters, restart_steps(parameters), notes, asks=not rolling and bool(live))


def common_parameters(names: Sequence[str], live: Sequence[str], max_failures: int) -> dict[str, Any]:
    """What a roll has to know: the instances, the number of the additional one, and a model to ask for."""
    surge = str(max(int(name) for name in names) + 1)
    settings = settings_in_force()
    probe = None
    for name in live:
        probe = find_probe_model(host.client_of(name, SYSTEM_RUN / name), settings)
        if probe is not None:
            break
    return {
        "instances": list(names),
        "surge": surge,
        "release": host.release_of(names[0]),
        "probe_model": probe,
        "max_failures": max_failures,
        "drained": [name for name in names if host.is_drained(name)],
    }


def blast_radius(names: Sequence[str], *, rolling: bool) -> list[str]:
    """What is at stake: live streams, the oldest, how long requests take, connections, and how long it may last."""
    reports = [report for _, report in host.live_workers(SYSTEM_CONFIG)]
    streams = sum(report.streams for report in reports)
    oldest = max((report.oldest_stream_seconds for report in reports), default=0.0)
    counts = [sum(column) for column in zip(*(report.latencies for report in reports), strict=True)] if reports else []
    slow = quantile(counts, 0.99) or 0.0
    drain = float(settings_in_force().server.drain_seconds)
    expected = min(drain, max(slow, oldest)) + 2
    lines = [
        f"{host.count(streams, 'live stream')}, the oldest {oldest:.0f} s; {host.count(sum(one.connections for one in reports), 'connection')}; "
        f"99 % of requests take at most {slow:.1f} s",
    ]
    if rolling:
        lines.append(
            f"about {expected:.0f} s for each of {host.count(len(names) + 1, 'instance')}, at most {drain + 10:.0f} s; "
            f"streams may go on for {drain:.0f} s (server.drain_seconds)"
        )
    else:
        lines.append("without --rolling nothing is served for some seconds")
    return lines


def restart_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `restart`."""
    names = parameters["instances"]
    if not parameters["rolling"]:
        return [
            Step("stop", f"close the public address, and stop {host.count(len(names), 'instance')} when their requests have ended", lambda _: _stop(names)),
            Step("start", "start them again", lambda _: _start(names)),
        ]
    surge, release = parameters["surge"], parameters["release"]

    def roll(name: str) -> Callable[[Entry], None]:
        return lambda entry: roll_one(entry, name, parameters)

    def settle(name: str) -> Callable[[Entry], None]:
        return lambda _: bring_back(name, parameters)

    return [
        Step(
            "surge",
            f"start instance {surge} beside them",
            lambda entry: add_surge(entry, surge, release, parameters),
            lambda _: host.remove(surge),
        ),
        *(Step(f"restart-{name}", f"restart instance {name}", roll(name), settle(name)) for name in names),
        Step("end", f"stop instance {surge}, when its requests have ended", lambda entry: end_roll(entry, surge, parameters)),
    ]


def _stop(names: Sequence[str]) -> None:
    host.close_sockets(names)
    host.stop_services(names)


def _start(names: Sequence[str]) -> None:
    """The address that they listen on may be another one now."""
    host.open_sockets(names)
    for name in names:
        host.start(name)


def all_names(parameters: dict[str, Any]) -> list[str]:
    """The instances of a roll, with the additional one."""
    return [*parameters["instances"], parameters["surge"]]


def add_surge(entry: Entry, surge: str, release: str, parameters: dict[str, Any]) -> None:
    """Starts the additional instance, and notes what was served until then. Raises OperationFailed if it is not healthy."""
    entry.kept.setdefault("baseline", totals(SYSTEM_RUN, all_names(parameters)))
    entry.kept.setdefault("started", time.time())
    with watched(entry):
        add_held(surge, release, parameters)


def add_held(surge: str, release: str, parameters: dict[str, Any]) -> None:
    """Starts an instance, which takes connections of clients only when it is known to be healthy. Raises OperationFailed."""
    host.hold(surge)
    host.add(surge, release, for_good=False)
    wait_until_healthy(surge, SYSTEM_RUN / surge, parameters["probe_model"])
    host.set_draining(surge, is_on=False)
    host.share_with(surge, all_names(parameters))


def roll_one(entry: Entry, name: str, parameters: dict[str, Any]) -> None:
    """Restarts an instance, once its requests have ended. Raises OperationFailed if it is not healthy then, and more have failed than may."""
    with watched(entry):
        was_active = systemd.is_active(systemd.service(name))
        stream = StreamProbe(name, SYSTEM_RUN / name) if was_active else None
        if stream is not None:
            time.sleep(0.2)  # it is under way when the instance is told to stop
        began = time.monotonic()
        try:
            host.hold(name)
            with progress_of_drain(name):
                host.restart(name)
            wait_until_healthy(name, SYSTEM_RUN / name, parameters["probe_model"])
            if name not in parameters["drained"]:
                host.set_draining(name, is_on=False)
                host.share_with(name, all_names(parameters))
        except OperationFailed as error:
            failures = entry.kept["failures"] = [
                *entry.kept.get("failures", []),
                f"instance {name}: {error.message}; it stays drained until `coollm undrain {name}`",
            ]
            if len(failures) > parameters["max_failures"]:
                raise
            output.progress(f"    {error.message}: going on, {len(failures)} of {parameters['max_failures']} failures are allowed")
            return
        if stream is not None and not stream.end():
            entry.kept["probe_streams_cut"] = entry.kept.get("probe_streams_cut", 0) + 1
        output.progress(f"    healthy after {time.monotonic() - began:.1f} s")


def bring_back(name: str, parameters: dict[str, Any]) -> None:
    """After a failed roll: an instance that is not healthy is started once more. Raises OperationFailed if it stays so; the additional one then stays, too."""
    try:
        wait_until_healthy(name, SYSTEM_RUN / name, parameters["probe_model"])
    except OperationFailed:
        try:
            host.restart(name)
            wait_until_healthy(name, SYSTEM_RUN / name, parameters["probe_model"])
        except OperationFailed as error:
            what = f"it stays drained until `coollm undrain {name}`, and instance {parameters['surge']} serves in its place until `coollm scale` removes it"
            raise OperationFailed(f"{error.message}; {what}", error.hint) from error
    if name not in parameters["drained"]:
        host.set_draining(name, is_on=False)


def end_roll(entry: Entry, surge: str, parameters: dict[str, Any]) -> None:
    """Removes the additional instance, and makes the receipt."""
    with watched(entry):
        host.remove(surge)
    make_receipt(entry, parameters)


@contextmanager
def watched(entry: Entry) -> Iterator[None]:
    """Watches the public address during a step, and keeps what it saw."""
    probe = PublicProbe(settings_in_force())
    try:
        with probe:
            yield
    finally:
        kept = entry.kept
        kept["longest_stall_ms"] = max(kept.get("longest_stall_ms", 0), round(probe.longest_seconds * 1000))
        kept["probes_failed"] = kept.get("probes_failed", 0) + probe.failed


@contextmanager
def progress_of_drain(name: str) -> Iterator[None]:
    """Says every few seconds how many streams an instance that stops still has."""
    stopped = threading.Event()

    def tell() -> None:
        while not stopped.wait(TELL_EVERY_SECONDS):
            leaving = [report for report in read_reports(SYSTEM_RUN / name) if report.is_live and report.is_draining]
            streams = sum(report.streams for report in leaving)
            if streams:
                oldest = max(report.oldest_stream_seconds for report in leaving)
                output.progress(f"    instance {name}: {host.count(streams, 'stream')} left, the oldest {oldest:.0f} s")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        stopped.set()
        teller.join()


def make_receipt(entry: Entry, parameters: dict[str, Any]) -> None:
    """What was served since the roll began."""
    time.sleep(TOLD_SECONDS)
    served = since(entry.kept["baseline"], totals(SYSTEM_RUN, all_names(parameters)))
    failures = entry.kept.get("failures", [])
    receipt = {
        "ok": not failures and not entry.kept.get("probes_failed") and not entry.kept.get("probe_streams_cut"),
        "instances": parameters["instances"],
        **served,
        "longest_stall_ms": entry.kept.get("longest_stall_ms", 0),
        "probes_failed": entry.kept.get("probes_failed", 0),
        "probe_streams_cut": entry.kept.get("probe_streams_cut", 0),
        "failures": failures,
        "seconds": round(time.time() - entry.kept["started"], 1),
    }
    entry.kept["receipt"] = receipt
    entry.kept["lines"] = [
        f"{host.count(len(parameters['instances']), 'instance')} in {receipt['seconds']:.0f} s: {served['failed']} of {served['requests']} requests failed, "
        f"{served['streams_cut']} of {served['streams_cut'] + served['streams_finished']} streams cut, longest stall {receipt['longest_stall_ms']} ms",
        *failures,
    ]
