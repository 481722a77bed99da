"""A bundle for whoever looks into an incident: how things stand, what was logged and changed around its time, and never a secret.

What is collected is redacted, and then searched for every secret that this host has: those of the configuration, of the environment file and of the secret
store, and the master key. One hit, and nothing is written.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from coollm_cli.ops import doctor, host, status
from coollm_cli.ops.gateway_client import GatewayClient
from coollm_cli.ops.logs import entries
from coollm_cli.ops.monitoring.alerts import CRITICAL, HIGH, LOW, MEDIUM
from coollm_cli.ops.releases import running_version
from coollm_cli.ops.times import moment, seconds_of

from coollm.core.config.explain import explain_all
from coollm.core.config.generations import Generations
from coollm.core.config.load import load
from coollm.core.config.references import read_environment_file
from coollm.core.config.schema import Settings
from coollm.core.errors import CoollmError, OperationFailed, Unreachable
from coollm.core.files import replace_file
from coollm.core.paths import environment_file
from coollm.core.secret_store import secret_store
from coollm.core.secrets import SHORTEST_REDACTED_LENGTH, Redactor

AROUND_SECONDS = 1800.0
MOST_LINES = 5000
PROCESS_FILES = ("status", "limits", "io", "schedstat")
SYSTEM_FILES = ("/proc/loadavg", "/proc/meminfo", "/proc/pressure/cpu", "/proc/pressure/memory", "/proc/pressure/io", "/proc/sys/fs/file-nr", "/etc/os-release")


class Bundle:
    """What was collected: text by the names of files."""

    def __init__(self, config: Path, state: Path, at: float) -> None:
        self.config, self.state, self.at = config, state, at
        self.files: dict[str, str] = {}
        self.found: dict[str, Any] = {}
        self.events: list[tuple[float, str]] = []
        effective = None
        with contextlib.suppress(CoollmError, OSError):
            effective = Generations(config, state).effective()
        self.loaded = load(config, content=effective.file if effective else None, state=state)
        self.redact = Redactor(self.loaded.settings.secrets() if self.loaded.settings else ())

    def collect(self) -> None:
        """Each part for itself: one that cannot be had says why, and the others come nevertheless."""
        parts: dict[str, Callable[[], Any]] = {
            "processes.json": self._processes,  # what is under way now, before it ends
            "status.json": lambda: status.host_status(self.config, self.state),
            "doctor.json": lambda: [finding.as_json() for finding in doctor.examine(self.config, self.state)[0]],
            "health.json": self._health,
            "metrics.txt": self._metrics,
            "config.json": self._configuration,
            "system.json": self._system,
            "changes.json": self._changes,
            "audit.jsonl": self._audit,
            "app.log": self._log,
        }
        for name, part in parts.items():
            try:
                found = self.found[name] = part()
            except (CoollmError, OSError) as error:
                found = {"unavailable": getattr(error, "message", None) or str(error)}
            text = found if isinstance(found, str) else json.dumps(found, indent=1, ensure_ascii=False, default=str) + "\n"
            self.files[name] = self.redact(text)
        self.files["timeline.md"] = self.redact(self._timeline())

    def _client(self) -> tuple[str, GatewayClient]:
        places = host.places(self.config)
        name = next((name for name, _ in host.live_workers(self.config)), None)
        if name is None:
            raise Unreachable("no instance runs")
        return name, host.client_of(name, places[name])

    def _health(self) -> Any:
        return self._client()[1].get("/health").body

    def _metrics(self) -> str:
        return "".join(line.decode("utf-8", "replace") for line in self._client()[1].lines("/metrics"))

    def _configuration(self) -> Any:
        if self.loaded.settings is None:
            return {"faults": [str(fault) for fault in self.loaded.faults]}
        return [{"path": row.path, "value": row.value, "origin": row.origin, "where": row.where} for row in explain_all(self.loaded)]

    def _processes(self) -> Any:
        found = []
        for name, report in host.live_workers(self.config):
            told: dict[str, Any] = {"instance": name, "pid": report.pid, "under_way": report.under_way, "streams": report.streams}
            told["ages_seconds"] = report.ages
            told |= {"oldest_stream_seconds": report.oldest_stream_seconds, "connections": report.connections, "memory_bytes": report.memory_bytes}
            for file in PROCESS_FILES:
                with contextlib.suppress(OSError):
                    told[file] = Path(f"/proc/{report.pid}/{file}").read_text("ascii", "replace").splitlines()
            with contextlib.suppress(OSError):
                told["descriptors"] = len(os.listdir(f"/proc/{report.pid}/fd"))
            found.append(told)
        return found

    def _system(self) -> Any:
        told: dict[str, Any] = {"host": platform.node(), "kernel": platform.release(), "coollm": running_version(), "processors": os.cpu_count()}
        for file in SYSTEM_FILES:
            with contextlib.suppress(OSError):
                told[file] = Path(file).read_text("utf-8", "replace").splitlines()
        return told

    def _changes(self) -> Any:
        found = []
        for entry in host.host_of(self.config, self.state).journal.all():
            if abs(entry.began - self.at) <= AROUND_SECONDS or entry.state == "running":
                self.events.append((entry.began, f"`{entry.command}` of {entry.by}: {entry.state}"))
                row = {"id": entry.id, "command": entry.command, "by": entry.by, "began": moment(entry.began), "state": entry.state, "done": entry.done}
                found.append({**row, "receipt": entry.kept.get("receipt")})
        for one in Generations(self.config, self.state).all():
            if abs(one.applied - self.at) <= AROUND_SECONDS:
                self.events.append((one.applied, f"generation {one.number} of {one.by}: {one.reason}"))
        return found

    def _audit(self) -> str:
        lines = []
        for _, _, entry in host.host_of(self.config, self.state).audit.entries():
            if entry is not None and abs(seconds_of(entry.get("time")) - self.at) <= AROUND_SECONDS:
                lines.append(json.dumps(entry, ensure_ascii=False))
        return "".join(f"{line}\n" for line in lines[-MOST_LINES:])

    def _log(self) -> str:
        lines = []
        for entry in entries(self.config, self.state):
            when = seconds_of(entry.get("time"))
            if abs(when - self.at) <= AROUND_SECONDS:
                lines.append(json.dumps(entry, ensure_ascii=False))
                if entry.get("level") in ("error", "warning"):
                    self.events.append((when, f"{entry['level']}: {entry.get('message')} {entry.get('reason', '')}".rstrip()))
        return "".join(f"{line}\n" for line in lines[-MOST_LINES:])

    def _timeline(self) -> str:
        level, why = self.level()
        lines = [f"# Incident on {platform.node()}, around {moment(self.at)}", "", f"Level: **{level}** ({why})", "", "## What happened", ""]
        lines += [f"- {moment(when)}: {what}" for when, what in sorted(self.events)[-200:]] or ["- nothing was logged or changed within half an hour of it"]
        lines += [
            "",
            "## Impact",
            "",
            "Who could not do what, from when to when:",
            "",
            "## Cause",
            "",
            "## What was done",
            "",
            "## What will keep it from coming back",
            "",
        ]
        return "\n".join(lines) + "\n"

    def level(self) -> tuple[str, str]:
        """By the guide's classification, and why."""
        health, findings = self.found.get("health.json"), self.found.get("doctor.json", [])
        if health is None:
            return CRITICAL, "the gateway does not answer"
        if health.get("status") == "down":
            return CRITICAL, "the gateway says that it is down"
        worst = next((severity for severity in (HIGH, MEDIUM, LOW) if any(one["severity"] == severity for one in findings)), LOW)
        if health.get("status") == "degraded":
            return (HIGH if worst == HIGH else MEDIUM), "the gateway says that it is degraded"
        return worst, self.redact(f"doctor: {findings[0]['what']}") if findings else "nothing is wrong now"

    def leaks(self) -> list[str]:
        """Which files hold which kind of secret of this host."""
        return [
            f"{name}: {kind}" for name, text in self.files.items() for kind, value in _secrets(self.loaded.settings, self.config, self.state) if value in text
        ]

    def write(self, target: Path) -> None:
        """Writes the bundle, for this user alone. Raises OperationFailed, also where a secret of this host is in it."""
        leaks = self.leaks()
        if leaks:
            raise OperationFailed(
                f"a secret of this host would be in the bundle ({leaks[0]}): nothing is written", "please report it; --preview shows which files"
            )
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            for name, text in self.files.items():
                told = tarfile.TarInfo(f"{target.name.partition('.')[0]}/{name}")
                data = text.encode()
                told.size, told.mode, told.mtime = len(data), 0o600, int(time.time())
                tar.addfile(told, io.BytesIO(data))
        try:
            replace_file(target, out.getvalue())
        except OSError as error:
            raise OperationFailed(f"{target}: cannot be written: {error.strerror}", "--output names another file") from error


def _secrets(settings: Settings | None, config: Path, state: Path) -> Iterator[tuple[str, str]]:
    """Every secret of this host, with what kind it is."""
    known: list[tuple[str, str]] = [("a secret of the configuration", one.reveal()) for one in (settings.secrets() if settings else ())]
    known += [(f"the variable {name}", value) for name, value in read_environment_file(environment_file(config))[0].items() if _is_secret(name)]
    with contextlib.suppress(CoollmError, OSError):
        store = secret_store(config, state)
        read = store.reader()
        known += [(f"the secret '{name}'", read(name)) for name in store.names()]
        known.append(("the master key", store.master.file.read_text("ascii").split()[1]))
    yield from ((kind, value) for kind, value in known if len(value) >= SHORTEST_REDACTED_LENGTH)


def _is_secret(name: str) -> bool:
    """Whether a variable is called like one: most of an environment file are switches and addresses."""
    return any(word in name.upper() for word in ("KEY", "SECRET", "TOKEN", "PASSWORD"))
