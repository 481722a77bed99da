"""Lets backups and drills be made by systemd's timers, or by cron. Sources: systemd.timer(5), systemd.time(7), crontab(5)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from coollm_cli.ops import host, systemd, tools, units
from coollm_cli.ops.backup.create import settings_in_force
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step

from coollm.core.config.backup import Schedule
from coollm.core.errors import OperationFailed, UsageError
from coollm.core.files import replace_file
from coollm.core.paths import is_installed

CRON = Path("/etc/cron.d/coollm-backup")
TIMERS = {"full": "coollm-backup.timer", "config": "coollm-backup-config.timer", "drill": "coollm-drill.timer"}
COMMANDS = {
    "full": "coollm backup create --quiet && coollm backup prune --quiet --yes",
    "config": "coollm backup create --only config --quiet",
    "drill": "coollm backup drill --quiet",
}
_CRON = {"hourly": "{minute} * * * *", "daily": "{minute} 2 * * *", "weekly": "{minute} 2 * * 1", "monthly": "{minute} 2 1 * *"}


def schedule_plan(config: Path, state: Path, scheduler: str, *, off: bool) -> Plan:
    """From what is scheduled now to what `backup.schedule` says. Raises CoollmError."""
    host.need_root()
    if not is_installed(config):
        raise OperationFailed("timers are of an installed host", "coollm install; or let your own cron call: coollm backup create --quiet")
    settings = settings_in_force(config, state)
    wanted = {} if off else _wanted(settings.backup.schedule, has_identity=settings.backup.drill_identity_file is not None)
    delay = int(settings.backup.schedule.random_delay)
    if scheduler == "systemd":
        for name, when in wanted.items():
            try:
                tools.run("systemd-analyze", "calendar", when)
            except OperationFailed as error:
                raise UsageError(f"backup.schedule.{name}: '{when}' is no calendar event of systemd", "daily, weekly, or *-*-* 03:30:00") from error
    elif any(when not in _CRON for when in wanted.values()):
        raise UsageError(f"cron knows {', '.join(_CRON)} here, and backup.schedule has {', '.join(wanted.values())}", "use systemd's timers")
    if not off and not settings.backup.recipients:
        raise OperationFailed("backup.recipients names nobody: no backup could be made", "coollm backup keygen recovery.key makes a pair")
    parameters = {"wanted": wanted, "scheduler": scheduler, "delay": delay, "minute": random.randrange(60)}
    if _is_so(parameters):
        return Plan("backup-schedule", {}, (), nothing="backups are scheduled as the configuration says" if wanted else "no backups are scheduled")
    notes = []
    if not off and settings.backup.drill_identity_file is None:
        notes.append("no drill is scheduled: backup.drill_identity_file names no private key that could open a backup")
    notes += [f"{name}: {when}" for name, when in wanted.items()]
    return Plan("backup-schedule", parameters, schedule_steps(parameters), notes)


def _wanted(schedule: Schedule, *, has_identity: bool) -> dict[str, str]:
    found = {"full": schedule.full, "config": schedule.config, "drill": schedule.drill if has_identity else None}
    return {name: when for name, when in found.items() if when}


def schedule_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `backup schedule`."""
    by_cron = parameters["scheduler"] == "cron"

    def write(_: Entry) -> None:
        for name, timer in TIMERS.items():
            path = _drop_in(timer)
            when = None if by_cron else parameters["wanted"].get(name)
            if when is None:
                path.unlink(missing_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(path, _timer(when, parameters["delay"]).encode(), mode=0o644)
        if by_cron and parameters["wanted"]:
            replace_file(CRON, _cron(parameters).encode(), mode=0o644)
        else:
            CRON.unlink(missing_ok=True)
        systemd.systemctl("daemon-reload")

    def enable(entry: Entry) -> None:
        for name, timer in TIMERS.items():
            if not by_cron and name in parameters["wanted"]:
                systemd.systemctl("enable", timer)
                systemd.systemctl("restart", timer)
            else:
                systemd.attempt("disable", "--now", timer)
        entry.kept["told"] = {"schedule": parameters["wanted"], "scheduler": parameters["scheduler"]}
        entry.kept["lines"] = [f"{name}: {when}" for name, when in parameters["wanted"].items()] or ["no backups are scheduled"]

    return [
        Step("files", f"write {CRON}" if by_cron else "write when each timer runs", write),
        Step("timers", "switch the timers off" if by_cron or not parameters["wanted"] else "switch the timers on", enable),
    ]


def forget() -> None:
    """Nothing is scheduled any more, as coollm is removed."""
    for timer in TIMERS.values():
        systemd.attempt("disable", "--now", timer)
        _drop_in(timer).unlink(missing_ok=True)
        if _drop_in(timer).parent.is_dir() and not any(_drop_in(timer).parent.iterdir()):
            _drop_in(timer).parent.rmdir()
    CRON.unlink(missing_ok=True)


def _is_so(parameters: dict[str, Any]) -> bool:
    wanted, by_cron = parameters["wanted"], parameters["scheduler"] == "cron"
    if by_cron and bool(wanted) != CRON.exists():
        return False
    if by_cron and wanted and set(_jobs(CRON.read_text("utf-8"))) != set(_jobs(_cron(parameters))):
        return False
    for name, timer in TIMERS.items():
        is_on = not by_cron and name in wanted
        if systemd.is_enabled(timer) != is_on:
            return False
        if is_on and (not _drop_in(timer).exists() or _drop_in(timer).read_text("utf-8") != _timer(wanted[name], parameters["delay"])):
            return False
    return by_cron or not CRON.exists()


def _jobs(text: str) -> list[str]:
    """The lines of jobs without their minutes, which are drawn by lot."""
    return [line.split(" ", 1)[1] for line in text.splitlines() if line[:1].isdigit()]


def _drop_in(timer: str) -> Path:
    return units.UNITS / f"{timer}.d" / units.DROP_IN


def _timer(when: str, delay: int) -> str:
    return f"# Written by coollm from the configuration: changes here are lost.\n[Timer]\nOnCalendar=\nOnCalendar={when}\nRandomizedDelaySec={delay}\n"


def _cron(parameters: dict[str, Any]) -> str:
    lines = [
        "# Backups of COO-LLM: `coollm backup schedule --scheduler cron`. cron mails what they print.",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]
    lines += [f"{_CRON[when].format(minute=parameters['minute'])} root {COMMANDS[name]}" for name, when in parameters["wanted"].items()]
    return "\n".join(lines) + "\n"
