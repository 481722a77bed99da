"""How every change of a host is made: plan, lock, journal, steps, verdict, receipt, audit; and how one that broke off is finished or taken back.

A step is safe to be done twice: one that was begun when its command was killed is done again, or taken back.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from coollm_cli import output
from coollm_cli.ops.journal import DONE, FAILED, RUNNING, UNDONE, Entry, Journal
from coollm_cli.ops.lock import Lease, actor
from coollm_cli.ops.who import where_from
from coollm_cli.output import Result

from coollm.core.audit import AuditLog
from coollm.core.config.generations import Generations
from coollm.core.config.load import load
from coollm.core.errors import CoollmError, OperationFailed, Paused, Undone
from coollm.core.paths import audit_log, log_directory
from coollm.core.secrets import Redactor

FOR_EVER = float("inf")

KINDS = {
    "install": "install:install_steps",
    "uninstall": "install:uninstall_steps",
    "restart": "rollout:restart_steps",
    "upgrade": "upgrade:steps",
    "scale": "host:scale_steps",
    "start": "host:start_steps",
    "stop": "host:stop_steps",
    "drain": "host:drain_steps",
    "undrain": "host:undrain_steps",
    "config-apply": "apply:apply_steps",
    "config-confirm": "apply:confirm_steps",
    "limits": "limits:set_steps",
    "identity": "identities:steps",
    "vendor-key": "vendor_keys:steps",
    "tls": "tls:steps",
    "firewall": "firewall:steps",
    "firewall-confirm": "firewall:confirm_steps",
    "firewall-off": "firewall:off_steps",
    "erase": "compliance:erase_steps",
    "secret-set": "secrets:set_steps",
    "secrets-accept": "secrets:accept_steps",
    "secrets-import": "secrets:import_steps",
    "master-key": "secrets:rotate_steps",
    "backup-create": "backup.create:create_steps",
    "backup-restore": "backup.in_place:restore_steps",
    "backup-prune": "backup.prune:prune_steps",
    "backup-schedule": "backup.schedule:schedule_steps",
    "fleet-config": "fleet.configuration:steps",
    "fleet-config-back": "fleet.configuration:back_steps",
    "fleet-scale": "fleet.scale:steps",
    "fleet-rollout": "fleet.rollout:steps",
    "lb-reload": "fleet.reload:steps",
    "lb-reload-back": "fleet.reload:back_steps",
    "lb-steer": "fleet.steering:steps",
}
"""Which function makes the steps of a kind from its parameters."""


@dataclass(frozen=True)
class Step:
    """One part of a change. `text` is what the plan says of it; `do` and `undo` may keep what they find in the entry. With `cleans`, `undo` removes only what
    the step has made for itself, and the host is as it was in any case.
    """

    name: str
    text: str
    do: Callable[[Entry], None]
    undo: Callable[[Entry], None] | None = None
    cleans: bool = False


@dataclass(frozen=True)
class Plan:
    """A change that can be made. Without steps there is nothing to do. `notes` are what the administrator should know before, `told` what --json has of it."""

    kind: str
    parameters: dict[str, Any]
    steps: Sequence[Step]
    notes: Sequence[str] = ()
    nothing: str = "nothing to do"
    reverse: tuple[str, dict[str, Any]] | None = None
    asks: bool = False
    told: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What the administrator said of how."""

    dry_run: bool = False
    yes: bool = False
    as_json: bool = False
    quiet: bool = False


@dataclass
class Host:
    """Where the commands of a host keep their own: lock, journal, audit log."""

    directory: Path
    config: Path
    state: Path
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        self.journal = Journal(self.directory)

    @cached_property
    def audit(self) -> AuditLog:
        """The audit log, where the configuration in force has it."""
        effective = Generations(self.config, self.state).effective() if os.access(self.state, os.R_OK) else None
        settings = load(self.config, content=effective.file if effective else None, state=self.state).settings
        path = audit_log(log_directory(self.config, self.state), settings.logging.audit.path if settings else None)
        return AuditLog(path, self.directory, self.state)


def change(host: Host, make_plan: Callable[[], Plan], options: Options) -> Result:
    """Plans and makes a change. Raises LockHeld, OperationFailed and Undone, which say what was changed."""
    command = Redactor()(shlex.join(["coollm", *sys.argv[1:]]))
    if options.dry_run:
        plan = make_plan()
        return Result(_shown(plan, done=False), _lines(plan), as_json=options.as_json)
    with Lease(host.directory, command):
        resumed = _settle_unfinished(host, command, options)
        if resumed is not None:
            return _result(resumed, resumed.kept, options)
        plan = make_plan()
        if not plan.steps:
            return Result(_shown(plan, done=True), [] if options.quiet else [plan.nothing], as_json=options.as_json)
        _tell_and_ask(plan, options)
        # From here on a session that dies does not leave the change half made.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        entry = host.journal.begin(plan.kind, command, actor(), plan.parameters)
        entry.reverse = plan.reverse
        _make(host, entry, plan.steps, options)
        return _result(entry, entry.kept, options)


def take_back(host: Host, options: Options) -> Result:
    """Takes the last change back that can be. Raises OperationFailed if there is none."""
    last = next((entry for entry in host.journal.all() if entry.state == DONE and entry.reverse is not None), None)
    if last is None or last.reverse is None:
        raise OperationFailed("no change of this host can be taken back", "coollm config history, coollm status: what there is")
    kind, parameters = last.reverse

    def plan() -> Plan:
        steps = _steps(kind, parameters)
        return Plan(kind, parameters, steps, notes=(f"takes back `{last.command}` of {last.by}",))

    result = change(host, plan, options)
    if not options.dry_run:
        last.state = UNDONE
        host.journal.write(last)
    return result


def go_on(host: Host, kind: str, options: Options, *, abort: bool) -> Result:
    """Finishes the change of a kind that was not finished, or takes it back. Raises OperationFailed if there is none."""
    command = shlex.join(["coollm", *sys.argv[1:]])
    with Lease(host.directory, command):
        entry = host.journal.unfinished()
        if entry is None or entry.kind != kind:
            raise OperationFailed("no such change is unfinished", "coollm status says what is")
        steps = _steps(entry.kind, entry.parameters)
        if options.dry_run:
            lines = [f"`{entry.command}` of {entry.by}: {len(entry.done)} of {len(steps)} steps are done", *(f"  {step.text}" for step in steps)]
            return Result({"ok": True, "done": False, "steps_done": entry.done}, lines, as_json=options.as_json)
        if abort:
            _undo(host, entry, steps)
            _end(host, entry, UNDONE, "taken back")
            return Result({"ok": True, "done": True, "changed": True, "aborted": entry.id}, [f"`{entry.command}` is taken back"], as_json=options.as_json)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _make(host, entry, steps, options)
        return _result(entry, entry.kept, options)


def _settle_unfinished(host: Host, command: str, options: Options) -> Entry | None:
    """What a killed command left: finished if the same command is given again, else taken back. Returns the entry if it was finished."""
    entry = host.journal.unfinished()
    if entry is None:
        return None
    steps = _steps(entry.kind, entry.parameters)
    if entry.command == command and time.time() - entry.began < entry.parameters.get("go_on_seconds", FOR_EVER):
        output.progress(f"going on with `{entry.command}`, which was not finished: {len(entry.done)} of {len(steps)} steps are done")
        _make(host, entry, steps, options)
        return entry
    output.progress(f"`{entry.command}` of {entry.by} was not finished: taking it back")
    _undo(host, entry, steps)
    _end(host, entry, UNDONE, "taken back, since it was not finished")
    return None


def _steps(kind: str, parameters: dict[str, Any]) -> Sequence[Step]:
    module, _, name = KINDS[kind].partition(":")
    made: Sequence[Step] = getattr(import_module(f"coollm_cli.ops.{module}"), name)(parameters)
    return made


def _make(host: Host, entry: Entry, steps: Sequence[Step], options: Options) -> None:
    """Does the steps that are not done. Raises Undone if one fails and what was done could be taken back, OperationFailed if not."""
    try:
        host_audit(host, entry, "begins")
        for number, step in enumerate(steps, 1):
            if step.name in entry.done:
                continue
            if step.name not in entry.begun:
                entry.begun.append(step.name)
            host.journal.write(entry)
            if not options.quiet:
                output.progress(f"[{number}/{len(steps)}] {step.text}")
            step.do(entry)
            if entry.kept.get("purged"):
                return  # with everything else the journal is gone
            entry.done.append(step.name)
            host.journal.write(entry)
    except Paused as error:
        host.journal.write(entry)
        host_audit(host, entry, "waits", reason=error.message)
        raise
    except CoollmError as error:
        _failed(host, entry, steps, error)
    except OSError as error:
        _failed(host, entry, steps, OperationFailed(f"{error.filename or 'a file'}: {error.strerror or error}", "coollm status shows how things stand"))
    except KeyboardInterrupt:
        output.progress("interrupted: taking back what was done")
        _undo(host, entry, steps)
        _end(host, entry, UNDONE, "interrupted and taken back")
        raise
    entry.state, entry.ended = DONE, time.time()
    host_audit(host, entry, "done", receipt=entry.kept.get("receipt"))
    host.journal.write(entry)


def _failed(host: Host, entry: Entry, steps: Sequence[Step], error: CoollmError) -> None:
    output.progress(f"  failed: {error.message}")
    changed = any(step.undo is not None and not step.cleans for step in steps if step.name in entry.begun)
    if not any(step.undo is not None for step in steps if step.name in entry.begun):
        _end(host, entry, FAILED, "failed", reason=error.message)
        raise error
    try:
        _undo(host, entry, steps)
    except (CoollmError, OSError) as second:
        _end(host, entry, FAILED, "failed, and could not be taken back", reason=error.message, second=str(second))
        message = f"{error.message}; and it could not all be taken back: {second}"
        raise OperationFailed(message, "coollm status shows how things stand") from error
    if not changed:
        _end(host, entry, FAILED, "failed", reason=error.message)
        raise error
    _end(host, entry, UNDONE, "taken back", reason=error.message)
    raise Undone(f"{error.message}: what was changed has been taken back", error.hint) from error


def _undo(host: Host, entry: Entry, steps: Sequence[Step]) -> None:
    for step in reversed(steps):
        if step.name in entry.begun:
            if step.undo is not None:
                output.progress(f"  taking back: {step.text}")
                step.undo(entry)
            entry.begun.remove(step.name)
            if step.name in entry.done:
                entry.done.remove(step.name)
            with contextlib.suppress(OperationFailed):  # a disk that is full must not keep it from being taken back
                host.journal.write(entry)


def _end(host: Host, entry: Entry, state: str, what: str, **details: Any) -> None:
    """Notes how a change ended that was not made. Where no disk takes it, it is gone on with or taken back the next time."""
    entry.state, entry.ended = state, time.time()
    with contextlib.suppress(OperationFailed):
        host.journal.write(entry)
    with contextlib.suppress(OperationFailed):
        host_audit(host, entry, what, **details)


def host_audit(host: Host, entry: Entry, what: str, **details: Any) -> None:
    """Tells the audit log of a change."""
    told = {name: value for name, value in {**entry.kept.get("audit", {}), **details}.items() if value is not None}
    host.audit.write(entry.by, entry.kind, **where_from(), command=entry.command, change=entry.id, state=what, **told)


def _tell_and_ask(plan: Plan, options: Options) -> None:
    if not options.quiet:
        for line in _lines(plan):
            output.progress(line)
    if plan.asks and not options.yes and not output.ask("go on?"):
        raise OperationFailed("nothing was changed", "say --yes where nobody can be asked")


def _lines(plan: Plan) -> list[str]:
    if not plan.steps:
        return [plan.nothing]
    return [*(f"note: {note}" for note in plan.notes), "plan:", *(f"  {step.text}" for step in plan.steps)]


def _shown(plan: Plan, *, done: bool) -> dict[str, Any]:
    return {"ok": True, "done": done, "changed": False, "plan": [step.text for step in plan.steps], "notes": list(plan.notes), **plan.told}


def _result(entry: Entry, kept: dict[str, Any], options: Options) -> Result:
    data = {"ok": True, "done": True, "changed": True, "change": entry.id, **kept.get("receipt", {}), **kept.get("told", {}), **entry.once}
    lines = [] if options.quiet and entry.state != RUNNING and not kept.get("lines") else [*kept.get("lines", ["done"]), *entry.once.values()]
    return Result(data, lines, as_json=options.as_json, exit_code=0 if data["ok"] else 1)
