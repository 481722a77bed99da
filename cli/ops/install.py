"""Installs the gateway on this host, and removes it. Every step is one that may be done again: a second run finds nothing to do, one that broke off goes on."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coollm_cli import output
from coollm_cli.ops import firewall, host, releases, systemd, tools, units
from coollm_cli.ops.backup import schedule
from coollm_cli.ops.backup.target import SYSTEM_TARGET
from coollm_cli.ops.init import plan_init, write_init
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step
from coollm_cli.ops.rollout import settings_in_force
from coollm_cli.ops.watch import wait_until_healthy
from typer.completion import get_completion_script  # type: ignore[attr-defined]

from coollm.core.config.generations import Generations
from coollm.core.config.load import has_secret
from coollm.core.errors import OperationFailed, UsageError
from coollm.core.files import replace_file
from coollm.core.master_key import master_key_file
from coollm.core.paths import (
    CURRENT_RELEASE,
    HASH_KEY,
    INSTANCES,
    RELEASES,
    SYSTEM_ADMIN,
    SYSTEM_CONFIG,
    SYSTEM_ENVIRONMENT,
    SYSTEM_LOGS,
    SYSTEM_RUN,
    SYSTEM_STATE,
)
from coollm.core.secret_store import make_hash_key

USER = "coollm"
MASTER_KEY = master_key_file(SYSTEM_CONFIG, SYSTEM_STATE)
COMMAND = Path("/usr/local/bin/coollm")
DIRECTORIES_MADE = SYSTEM_ADMIN / "directories-made"
SCHEDULERS = ("systemd", "cron")
COMPLETIONS = {
    "bash": Path("/etc/bash_completion.d/coollm"),
    "zsh": Path("/usr/local/share/zsh/site-functions/_coollm"),
    "fish": Path("/etc/fish/completions/coollm.fish"),
}


def install_plan(source: dict[str, Any], instances: int, scheduler: str) -> Plan:
    """What is not yet as it should be. Raises UsageError, and OperationFailed where coollm of another version runs: that is an upgrade."""
    if scheduler not in SCHEDULERS:
        raise UsageError(f"--scheduler {scheduler}: expected systemd or cron")
    if not 1 <= instances <= host.MOST_INSTANCES:
        raise UsageError(f"--instances {instances}: expected 1 to {host.MOST_INSTANCES}")
    host.need_root()
    now = releases.current()
    if now and now != source["version"]:
        raise OperationFailed(f"coollm {now} is installed, and this is {source['version']}", f"coollm upgrade {source['version']}")
    names = host.numbers() or [str(number) for number in range(1, instances + 1)]
    parameters = {"source": source, "instances": names, "scheduler": scheduler}
    wanted = [step.name for step in install_steps(parameters) if not _is_right(step.name, parameters)]
    parameters["steps"] = wanted
    return Plan("install", parameters, install_steps(parameters), nothing=f"coollm {source['version']} is installed: nothing to do")


def install_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `install`."""
    source, names = parameters["source"], parameters["instances"]
    wanted = parameters.get("steps")
    steps = [
        Step("user", f"user {USER}", lambda _: _make_user()),
        Step("directories", f"directories {SYSTEM_CONFIG.parent}, {SYSTEM_STATE}, {SYSTEM_LOGS}, {RELEASES}", lambda _: _make_directories()),
        Step("release", f"release {source['version']} in {RELEASES / source['version']}", lambda _: releases.build(source)),
        Step("command", f"the command {COMMAND}", lambda _: _link_command(source["version"])),
        Step("configuration", f"a first configuration, {SYSTEM_CONFIG} and {SYSTEM_ENVIRONMENT}", lambda _: _write_configuration()),
        Step("secrets", f"the master key {MASTER_KEY}, under which secrets are kept", lambda _: _make_master_key()),
        Step("units", f"units in {units.UNITS}, log rotation, completion", lambda _: _write_files(parameters)),
        Step("instances", f"{host.count(len(names), 'instance')}, started with the host", lambda _: _enable(names, source["version"])),
        Step("start", "start them, and wait until each is healthy", lambda entry: _start(entry, names)),
    ]
    return [step for step in steps if wanted is None or step.name in wanted]


def _is_right(step: str, parameters: dict[str, Any]) -> bool:
    checks: dict[str, Callable[[], bool]] = {
        "user": lambda: _user() is not None,
        "directories": lambda: all(_has(directory, mode, owner) for directory, mode, owner in _directories()),
        "release": lambda: releases.is_complete(parameters["source"]["version"]),
        "command": lambda: releases.current() == parameters["source"]["version"] and COMMAND.is_symlink(),
        "configuration": lambda: SYSTEM_CONFIG.exists() and SYSTEM_ENVIRONMENT.exists() and _owner(SYSTEM_ENVIRONMENT) == USER,
        "secrets": lambda: MASTER_KEY.exists() and has_secret(SYSTEM_STATE, HASH_KEY),
        "units": lambda: SYSTEM_CONFIG.exists() and all(_reads(path, text) for path, text in _files(parameters).items()) and not _stray(parameters),
        "instances": lambda: all((INSTANCES / name).is_symlink() and systemd.is_enabled(systemd.service(name)) for name in parameters["instances"]),
        "start": lambda: (
            all(systemd.is_active(systemd.service(name)) for name in parameters["instances"]) and _has_timers(by_systemd=parameters["scheduler"] != "cron")
        ),
    }
    return checks[step]()


def _has_timers(*, by_systemd: bool) -> bool:
    return all(systemd.is_enabled(timer) == is_wanted for timer, is_wanted in units.switched(settings_in_force(), by_systemd=by_systemd).items())


def _user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        return None


def _make_user() -> None:
    path = Path("/etc/sysusers.d/coollm.conf")
    _write(path, units.shipped()[path])
    tools.run("systemd-sysusers", str(path))


def _directories() -> list[tuple[Path, int, str]]:
    return [
        (SYSTEM_CONFIG.parent, 0o755, "root"),
        (SYSTEM_STATE, 0o700, USER),
        (SYSTEM_LOGS, 0o750, USER),
        (RELEASES, 0o755, "root"),
        (INSTANCES, 0o755, "root"),
        (SYSTEM_ADMIN, 0o700, "root"),
    ]


def _make_directories() -> None:
    for directory, mode, owner in _directories():
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(mode)
        shutil.chown(directory, owner, owner)
    for file in SYSTEM_LOGS.iterdir():
        shutil.chown(file, USER, USER)


def _has(directory: Path, mode: int, owner: str) -> bool:
    return directory.is_dir() and directory.stat().st_mode & 0o777 == mode and _owner(directory) == owner


def _owner(path: Path) -> str:
    try:
        return pwd.getpwuid(path.stat().st_uid).pw_name
    except KeyError:
        return ""


def _link_command(version: str) -> None:
    host.link_to(CURRENT_RELEASE, Path("releases") / version)
    host.link_to(COMMAND, CURRENT_RELEASE / "bin" / "coollm")


def _write_configuration() -> None:
    """A configuration that is there stays as it is."""
    if not SYSTEM_CONFIG.exists():
        if SYSTEM_ENVIRONMENT.exists():
            # Of an installation that was killed between the two, or of an administrator: nothing is lost.
            SYSTEM_ENVIRONMENT.rename(SYSTEM_ENVIRONMENT.with_name(f"environment.before-{int(time.time())}"))
        write_init(plan_init(SYSTEM_CONFIG))
    if not SYSTEM_ENVIRONMENT.exists():
        replace_file(SYSTEM_ENVIRONMENT, b"# NAME=value lines, for ${NAME} in config.yaml\n")
    SYSTEM_CONFIG.chmod(0o640)
    os.chown(SYSTEM_CONFIG, 0, grp.getgrnam(USER).gr_gid)
    SYSTEM_ENVIRONMENT.chmod(0o600)
    shutil.chown(SYSTEM_ENVIRONMENT, USER, USER)
    generations = Generations(SYSTEM_CONFIG, SYSTEM_STATE)
    if generations.pointer() is None:
        generations.start_with("install", follow_file=False)


def _make_master_key() -> None:
    """The gateway reads it, and nobody else but root."""
    make_hash_key(SYSTEM_CONFIG, SYSTEM_STATE)


def _files(parameters: dict[str, Any]) -> dict[Path, str]:
    files = units.shipped() | units.drop_ins(settings_in_force())
    if parameters["scheduler"] == "cron":
        files |= units.cron()
    scripts = {path: get_completion_script(prog_name="coollm", complete_var="_COOLLM_COMPLETE", shell=shell) for shell, path in COMPLETIONS.items()}
    return files | {path: f"{script}\n" for path, script in scripts.items()}


def _stray(parameters: dict[str, Any]) -> list[Path]:
    """Files of the other scheduler."""
    return [path for path in units.cron() if parameters["scheduler"] != "cron" and path.exists()]


def _write_files(parameters: dict[str, Any]) -> None:
    for path, text in _files(parameters).items():
        _write(path, text)
    for path in _stray(parameters):
        path.unlink()
    systemd.systemctl("daemon-reload")
    tools.run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/coollm.conf")


def write_drop_ins() -> None:
    """Writes what the configuration in force changes of the units, if it is not so already."""
    changed = False
    for path, text in units.drop_ins(settings_in_force()).items():
        if not _reads(path, text):
            _write(path, text)
            changed = True
    if changed:
        systemd.systemctl("daemon-reload")
    switch_timers()


def write_units() -> None:
    """Writes the units of this release, if they are not so already."""
    changed = False
    for path, text in units.shipped().items():
        if not _reads(path, text):
            _write(path, text)
            changed = True
    if changed:
        systemd.systemctl("daemon-reload")
    switch_timers()


def switch_timers() -> None:
    """Switches the timers of regular jobs on and off, and what waits for orders, as the configuration in force and the scheduler want them."""
    for timer, is_wanted in units.switched(settings_in_force(), by_systemd=not units.has_cron()).items():
        if systemd.is_enabled(timer) != is_wanted and (units.UNITS / timer).exists():
            systemd.systemctl("enable" if is_wanted else "disable", "--now", timer)


def _reads(path: Path, text: str) -> bool:
    try:
        return path.read_text("utf-8") == text
    except OSError:
        return False


def _write(path: Path, text: str) -> None:
    new = [directory for directory in path.parents if not directory.exists()]
    if new:
        # Noted before they are made, so that uninstall removes them and no others.
        SYSTEM_ADMIN.mkdir(parents=True, exist_ok=True, mode=0o700)
        with DIRECTORIES_MADE.open("a", encoding="utf-8") as file:
            file.writelines(f"{directory}\n" for directory in new)
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.encode(), mode=0o644)


def _enable(names: list[str], version: str) -> None:
    for name in names:
        if not (INSTANCES / name).is_symlink():
            host.point(name, version)
        systemd.systemctl("enable", systemd.admin_socket(name), systemd.service(name))
    systemd.systemctl("enable", systemd.TARGET, systemd.PUBLIC_SOCKET)


def _start(entry: Entry, names: list[str]) -> None:
    systemd.systemctl("start", systemd.TARGET, systemd.PUBLIC_SOCKET)
    for name in names:
        host.start(name)
        wait_until_healthy(name, SYSTEM_RUN / name, None)
    switch_timers()
    settings = settings_in_force()
    listen = settings.server.listen
    entry.kept["told"] = {"instances": names, "listen": str(listen), "configuration": str(SYSTEM_CONFIG)}
    entry.kept["lines"] = [
        f"coollm runs in {host.count(len(names), 'instance')} on {listen}",
        f"configuration: {SYSTEM_CONFIG} and {SYSTEM_ENVIRONMENT}; change it with `coollm config apply FILE`",
        "a first request: coollm chat hello",
    ]


# uninstall


def uninstall_plan(*, purge: bool) -> Plan:
    """Removes what was installed; with `purge` the configuration, the state and the logs too."""
    host.need_root()
    names = host.numbers()
    if not names and not COMMAND.is_symlink() and not (purge and any(path.exists() for path in _kept_paths())):
        return Plan("uninstall", {}, (), nothing="coollm is not installed: nothing to do")
    parameters = {"instances": names, "purge": purge}
    kept = "" if purge else f"{SYSTEM_CONFIG.parent}, {SYSTEM_STATE} and {SYSTEM_LOGS} stay; --purge removes them too"
    gone = f"{SYSTEM_CONFIG.parent}, {SYSTEM_STATE} and {SYSTEM_LOGS} are lost: configuration, usage, budgets, audit log" if purge else kept
    notes = [gone, *([f"backups in {SYSTEM_TARGET} stay in any case"] if SYSTEM_TARGET.exists() else [])]
    return Plan("uninstall", parameters, uninstall_steps(parameters), notes=notes, asks=True)


def uninstall_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `uninstall`."""
    steps = [
        Step("stop", "stop the instances, when their requests have ended", lambda _: _stop_all(parameters["instances"])),
        Step("units", "remove units, log rotation, cron file, completion", lambda _: _remove_files()),
        Step("releases", f"remove {COMMAND} and {RELEASES.parent}", lambda _: _remove_releases()),
    ]
    if parameters["purge"]:
        steps.append(Step("purge", "remove configuration, state, logs and the user", _purge))
    return steps


def _stop_all(names: list[str]) -> None:
    sockets = [systemd.PUBLIC_SOCKET, *(systemd.admin_socket(name) for name in names)]
    services = [systemd.service(name) for name in names]
    systemd.attempt("disable", "--now", *units.TIMERS, units.AUTOSCALE_TIMER, units.ORDERS_PATH)
    systemd.attempt("stop", *sockets)
    if services:
        systemd.systemctl("stop", *services, seconds=host.stop_seconds(names))
    systemd.attempt("stop", systemd.TARGET)
    systemd.attempt("disable", systemd.TARGET, *sockets, *services)


def _remove_files() -> None:
    schedule.forget()
    for path in (*units.shipped(), *units.cron(), *COMPLETIONS.values()):
        path.unlink(missing_ok=True)
    firewall.forget()
    for name in ("coollm.socket.d", "coollm@.service.d"):
        shutil.rmtree(units.UNITS / name, ignore_errors=True)
    if DIRECTORIES_MADE.exists():
        for line in sorted(set(DIRECTORIES_MADE.read_text("utf-8").splitlines()), key=len, reverse=True):
            with contextlib.suppress(OSError):  # somebody else uses it, or it is gone
                Path(line).rmdir()
        DIRECTORIES_MADE.unlink()
    systemd.systemctl("daemon-reload")
    systemd.attempt("reset-failed")


def _remove_releases() -> None:
    COMMAND.unlink(missing_ok=True)
    # What runs now is one of them, and has read all that it still needs.
    shutil.rmtree(RELEASES.parent, ignore_errors=True)
    if RELEASES.parent.exists():
        raise OperationFailed(f"{RELEASES.parent} could not be removed whole")


def _kept_paths() -> tuple[Path, ...]:
    return (SYSTEM_CONFIG.parent, SYSTEM_STATE, SYSTEM_LOGS, SYSTEM_RUN, SYSTEM_ADMIN)


def _purge(entry: Entry) -> None:
    for path in _kept_paths():
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            raise OperationFailed(f"{path} could not be removed whole")
    if _user() is not None:
        tools.run("userdel", USER)
    entry.kept["purged"] = True
    output.progress("  nothing of coollm is left on this host")
