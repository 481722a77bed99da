"""The instances of this host: which there are, how each is, and the changes that concern one of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coollm_cli import output
from coollm_cli.ops import systemd
from coollm_cli.ops.gateway_client import GatewayClient
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Host, Options, Plan, Step, change
from coollm_cli.output import Result

from coollm.core.errors import OperationFailed, Unreachable, UsageError
from coollm.core.instances import (
    ADMIN_SOCKET,
    DRAINING,
    SHARE,
    Instance,
    WorkerReport,
    find_instances,
    is_alive,
    read_reports,
)
from coollm.core.paths import CURRENT_RELEASE, INSTANCES, SYSTEM_CONFIG, admin_directory, find_config, run_directory, state_directory

MOST_INSTANCES = 64
DRAIN_LOOK_SECONDS = 0.2
TAKE_IN_SECONDS = 5.0


@dataclass(frozen=True)
class State:
    """How an instance is, from what its workers tell. `release` is "" for one that was started by hand; `is_wanted` says whether it starts with the host."""

    name: str
    directory: Path
    release: str
    is_wanted: bool
    unit: str
    reports: Sequence[WorkerReport]
    instance: Instance | None

    @property
    def live(self) -> list[WorkerReport]:
        """Its workers that are there."""
        return [report for report in self.reports if report.is_live]

    @property
    def status(self) -> str:
        """One word."""
        if not self.live:
            return "starting" if self.unit == "activating" else "down"
        return "draining" if all(report.is_draining for report in self.live) else "up"


def host_of(config: Path, state_option: Path | None = None) -> Host:
    """Where the commands of the host with this configuration keep their own."""
    state = state_directory(config, state_option)
    return Host(admin_directory(config, state), config, state)


def change_host(config: Path | None, state_option: Path | None, make_plan: Callable[[Path, Path], Plan], options: Options) -> Result:
    """Plans and makes a change of the host with this configuration: `make_plan` is given the configuration and the directory of its state."""
    path = find_config(config).absolute()
    state = state_directory(path, state_option)
    return change(host_of(path, state), lambda: make_plan(path, state), options)


def numbers() -> list[str]:
    """The numbers of the instances that are installed, in their order."""
    if not INSTANCES.is_dir():
        return []
    return sorted((link.name for link in INSTANCES.iterdir() if link.is_symlink() and link.name.isdigit()), key=int)


def need_instances() -> list[str]:
    """As `numbers`. Raises OperationFailed where nothing is installed."""
    found = numbers()
    if not found:
        raise OperationFailed("coollm is not installed on this host", "coollm install --dry-run shows what that would do")
    return found


def need_root() -> None:
    """Raises OperationFailed for everybody else."""
    if os.getuid() != 0:
        raise OperationFailed("only root can change the units of this host", "use sudo")


def release_of(name: str) -> str:
    """The version that an instance runs."""
    link = INSTANCES / name
    return os.path.basename(os.readlink(link)) if link.is_symlink() else ""


def places(config: Path) -> dict[str, Path]:
    """The run directory of every instance of the host by its name: those that are installed, then those that somebody started by hand.

    Raises Unreachable where they are another user's.
    """
    run = run_directory(config.absolute())
    found = {name: run / name for name in (numbers() if config.absolute() == SYSTEM_CONFIG else ())}
    for directory in found.values():
        if directory.exists() and not os.access(directory, os.R_OK | os.X_OK):
            raise Unreachable(f"{directory}: permission denied", "the gateway belongs to another user: use sudo")
    for instance in find_instances(run):
        if is_alive(instance.pid):
            found.setdefault(instance.name, run / instance.name)
    return found


def live_workers(config: Path) -> list[tuple[str, WorkerReport]]:
    """Every worker that is there, with the name of its instance. Systemd is not asked."""
    return [(name, report) for name, directory in places(config).items() for report in read_reports(directory) if report.is_live]


def states(config: Path) -> list[State]:
    """How every instance of the host is, also by what systemd says."""
    started = {instance.name: instance for instance in find_instances(run_directory(config.absolute()))}
    installed = set(numbers()) if config.absolute() == SYSTEM_CONFIG else set()
    found = []
    for name, directory in places(config).items():
        told = systemd.show(systemd.service(name), "ActiveState", "UnitFileState") if name in installed else {}
        is_wanted = told.get("UnitFileState") == "enabled"
        release = release_of(name) if name in installed else ""
        found.append(State(name, directory, release, is_wanted, told.get("ActiveState", ""), read_reports(directory), started.get(name)))
    return found


def client_of(name: str, directory: Path) -> GatewayClient:
    """Talks to one instance."""
    return GatewayClient(instance=Instance(name, directory / ADMIN_SOCKET, 0, "", 0.0, ""))


def check_number(text: str) -> str:
    """The number of an instance that is installed. Raises UsageError."""
    if text not in need_instances():
        raise UsageError(f"there is no instance '{text}'", f"instances: {', '.join(numbers())}")
    return text


# drain and undrain


def drain_plan(name: str, *, is_on: bool) -> Plan:
    """Closes an instance to new connections, or opens it again."""
    need_root()
    check_number(name)
    directory = run_directory(SYSTEM_CONFIG) / name
    if (directory / DRAINING).exists() == is_on:
        return Plan("drain", {}, (), nothing=f"instance {name} is {'drained' if is_on else 'not drained'} already")
    kind, reverse = ("drain", "undrain") if is_on else ("undrain", "drain")
    parameters = {"instance": name}
    steps = drain_steps(parameters) if is_on else undrain_steps(parameters)
    notes = []
    if is_on:
        others = [one for one in states(SYSTEM_CONFIG) if one.name != name and one.status == "up"]
        if not others:
            raise OperationFailed(f"instance {name} is the only one that serves", "coollm scale 2, then drain it")
        live = next(one for one in states(SYSTEM_CONFIG) if one.name == name).live
        notes.append(f"{sum(report.streams for report in live)} streams and {sum(report.connections for report in live)} connections are on instance {name}")
    return Plan(kind, parameters, steps, notes, reverse=(reverse, parameters))


def drain_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `drain`."""
    name = parameters["instance"]
    return [Step("drain", f"close instance {name} to new connections", lambda _: set_draining(name, is_on=True), lambda _: set_draining(name, is_on=False))]


def undrain_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `undrain`."""
    name = parameters["instance"]
    return [Step("undrain", f"open instance {name} to new connections", lambda _: set_draining(name, is_on=False), lambda _: set_draining(name, is_on=True))]


def share_with(newcomer: str, names: Sequence[str]) -> None:
    """Lets the others give a fair part of their kept connections up, so that clients open new ones, some of them to the newcomer."""
    others = [name for name in names if name != newcomer]
    for name in others:
        directory = run_directory(SYSTEM_CONFIG) / name
        if directory.is_dir():
            beside = directory / f".{SHARE}"
            beside.write_text(f"{1 / (len(others) + 1):.3f}", "ascii")
            beside.chmod(0o644)
            beside.replace(directory / SHARE)


def is_drained(name: str) -> bool:
    """Whether an instance is to take no new connections."""
    return (run_directory(SYSTEM_CONFIG) / name / DRAINING).exists()


def hold(name: str) -> None:
    """An instance that is not there yet will take no new connections when it comes."""
    directory = run_directory(SYSTEM_CONFIG) / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / DRAINING).touch()


def set_draining(name: str, *, is_on: bool) -> None:
    """Tells the workers of an instance, and waits until all have heard."""
    directory = run_directory(SYSTEM_CONFIG) / name
    if is_on:
        (directory / DRAINING).touch()
    else:
        (directory / DRAINING).unlink(missing_ok=True)
    ends = time.monotonic() + TAKE_IN_SECONDS
    while time.monotonic() < ends:
        if all(report.is_draining == is_on for report in read_reports(directory) if report.is_live):
            return
        time.sleep(DRAIN_LOOK_SECONDS)
    raise OperationFailed(f"the workers of instance {name} have not heard of it within {TAKE_IN_SECONDS:.0f} s", "coollm status")


# start, stop and scale


def start_plan() -> Plan:
    """Starts every instance."""
    need_root()
    names = need_instances()
    down = [name for name in names if not systemd.is_active(systemd.service(name))]
    is_open = systemd.is_active(systemd.PUBLIC_SOCKET)
    if not down and is_open:
        return Plan("start", {}, (), nothing="every instance runs already")
    closed = [] if is_open else [name for name in names if name not in down]
    parameters = {"instances": [name for name in names if name in down or name in closed], "closed": closed}
    notes = [f"{count(len(closed), 'instance')} without the public address: systemd opens it for those alone that start with it"] if closed else []
    return Plan("start", parameters, start_steps(parameters), notes, reverse=("stop", {"instances": down}))


def start_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `start`. Instances that run while the address is closed serve nobody, and would keep it from being opened."""
    names, closed = parameters["instances"], parameters.get("closed", [])
    return [
        *([Step("stop", f"stop {count(len(closed), 'instance')} that nobody can reach", lambda _: stop_services(closed))] if closed else []),
        Step("sockets", "open the public address", lambda _: open_sockets(names)),
        *(Step(f"start-{name}", f"start instance {name}", lambda _, name=name: start(name)) for name in names),  # type: ignore[misc]
    ]


def open_sockets(names: Sequence[str]) -> None:
    """Opens the public address and the local sockets."""
    systemd.systemctl("start", systemd.TARGET, systemd.PUBLIC_SOCKET, *(systemd.admin_socket(name) for name in names))


def stop_plan() -> Plan:
    """Stops every instance, after its requests have ended."""
    need_root()
    names = need_instances()
    running = [name for name in names if systemd.is_active(systemd.service(name)) or systemd.is_active(systemd.admin_socket(name))]
    if not running and not systemd.is_active(systemd.PUBLIC_SOCKET):
        return Plan("stop", {}, (), nothing="no instance runs")
    parameters = {"instances": running}
    live = [report for one in states(SYSTEM_CONFIG) for report in one.live]
    notes = [f"{sum(report.streams for report in live)} streams are live; nothing is served until `coollm start`"]
    return Plan("stop", parameters, stop_steps(parameters), notes, reverse=("start", parameters), asks=True)


def stop_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `stop`: the sockets first, or a connection that comes would start an instance again."""
    names = parameters["instances"]
    return [
        Step("sockets", "close the public address", lambda _: close_sockets(names)),
        Step("services", f"stop {count(len(names), 'instance')}, when their requests have ended", lambda _: stop_services(names)),
    ]


def close_sockets(names: Sequence[str]) -> None:
    """Closes the public address and the local sockets: what is under way goes on."""
    systemd.systemctl("stop", systemd.PUBLIC_SOCKET, *(systemd.admin_socket(name) for name in names), seconds=systemd.START_SECONDS)


def stop_services(names: Sequence[str]) -> None:
    """Stops instances, when their requests have ended."""
    systemd.systemctl("stop", *(systemd.service(name) for name in names), systemd.TARGET, seconds=stop_seconds(names))


def stop_seconds(names: Sequence[str]) -> float:
    """How long systemd waits for instances to stop."""
    told = [systemd.show(systemd.service(name), "TimeoutStopUSec").get("TimeoutStopUSec", "") for name in names]
    return max((_seconds(one) for one in told), default=120.0) + 30.0


def _seconds(text: str) -> float:
    """A time as systemctl prints it: `1min 50s`."""
    units = {"h": 3600.0, "min": 60.0, "s": 1.0, "ms": 0.001}
    total = 0.0
    for word in text.split():
        number = word.rstrip("abcdefghijklmnopqrstuvwxyz")
        total += float(number or 0) * units.get(word[len(number) :], 0.0)
    return total or 120.0


def scale_plan(wanted: int, reason: str = "") -> Plan:
    """Runs so many instances from now on. The audit log has the reason, where there is one."""
    need_root()
    names = need_instances()
    if not 1 <= wanted <= MOST_INSTANCES:
        raise UsageError(f"scale {wanted}: there are 1 to {MOST_INSTANCES} instances on a host", "coollm stop stops all")
    running = {name for name in names if systemd.is_enabled(systemd.service(name)) and systemd.is_active(systemd.service(name))}
    wanted_names = [str(number) for number in range(1, wanted + 1)]
    new = [name for name in wanted_names if name not in names or name not in running]
    old = [name for name in names if name not in wanted_names]
    if not new and not old:
        return Plan("scale", {}, (), nothing=f"{count(wanted, 'instance')} already")
    parameters = {"new": new, "old": old, "release": os.path.basename(os.readlink(CURRENT_RELEASE)), "reason": reason}
    notes = [reason] if reason else []
    reverse = parameters | {"new": old, "old": new, "reason": ""}
    return Plan("scale", parameters, scale_steps(parameters), notes, reverse=("scale", reverse))


def scale_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `scale`: first those that come, then those that go."""

    def tell(entry: Entry) -> None:
        entry.kept["audit"] = {"reason": parameters["reason"]}

    steps = [Step("reason", f"because: {parameters['reason']}", tell)] if parameters["reason"] else []
    for name in parameters["new"]:
        steps.append(
            Step(
                f"start-{name}",
                f"start instance {name}",
                lambda _, name=name: add(name, parameters["release"]),  # type: ignore[misc]
                lambda _, name=name: remove(name),  # type: ignore[misc]
            )
        )
    for name in parameters["old"]:
        steps.append(
            Step(
                f"stop-{name}",
                f"stop instance {name}, when its requests have ended",
                lambda _, name=name: remove(name),  # type: ignore[misc]
                lambda _, name=name: add(name, parameters["release"]),  # type: ignore[misc]
            )
        )
    return steps


def point(name: str, release: str) -> None:
    """Says which release an instance runs, from its next start on."""
    link_to(INSTANCES / name, Path("..") / "releases" / release)


def link_to(link: Path, target: Path) -> None:
    """Makes a link, or turns it to another target in one step."""
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(link)


def start(name: str) -> None:
    """Starts an instance; it has answered when this returns. One that does not come is tried once more, as systemd itself would. Raises OperationFailed."""
    units = (systemd.admin_socket(name), systemd.service(name))
    try:
        systemd.systemctl("start", *units, seconds=systemd.START_SECONDS)
    except OperationFailed as error:
        output.progress(f"    {error.message} ({error.hint}): once more")
        systemd.attempt("stop", systemd.service(name))
        systemd.attempt("reset-failed", *units)
        systemd.systemctl("start", *units, seconds=systemd.START_SECONDS)


def restart(name: str) -> None:
    """Restarts an instance when its requests have ended; it has answered when this returns. Raises OperationFailed."""
    systemd.systemctl("restart", systemd.service(name), seconds=stop_seconds([name]) + systemd.START_SECONDS)


def add(name: str, release: str, *, for_good: bool = True) -> None:
    """Adds an instance and starts it. Raises OperationFailed."""
    point(name, release)
    if for_good:
        systemd.systemctl("enable", systemd.admin_socket(name), systemd.service(name))
    start(name)


def remove(name: str) -> None:
    """Stops an instance, when its requests have ended, and removes it. Its socket goes first, or a probe would start it again."""
    systemd.attempt("disable", systemd.admin_socket(name), systemd.service(name))
    systemd.systemctl("stop", systemd.admin_socket(name))
    systemd.systemctl("stop", systemd.service(name), seconds=stop_seconds([name]))
    systemd.attempt("reset-failed", systemd.service(name), systemd.admin_socket(name))
    (INSTANCES / name).unlink(missing_ok=True)
    (run_directory(SYSTEM_CONFIG) / name / DRAINING).unlink(missing_ok=True)


def count(number: int, thing: str) -> str:
    """`1 instance`, `2 instances`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
