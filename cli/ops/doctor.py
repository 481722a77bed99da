"""Every precondition of a healthy production host. Each check is a function that yields findings; `codes.py` has what they mean."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coollm_cli.ops import host, systemd, units
from coollm_cli.ops.backup import proof
from coollm_cli.ops.codes import ALL

from coollm.core.audit_status import read_audit_status
from coollm.core.backup_status import read_backup_status
from coollm.core.certificates import WARN_DAYS, read_certificate, read_file
from coollm.core.config.generations import Generations
from coollm.core.config.load import load, secrets_in_clear
from coollm.core.config.schema import Settings
from coollm.core.errors import CoollmError, OperationFailed
from coollm.core.master_key import master_key_file
from coollm.core.paths import SECRETS, environment_file, is_installed, log_directory, run_directory, state_directory

HIGH, MEDIUM, LOW = "high", "medium", "low"

LEAST_DESCRIPTORS = 8192
LEAST_BACKLOG = 1024
LEAST_PORTS = 20_000
LEAST_FREE_SHARE, LEAST_FREE_BYTES = 0.05, 512 * 1024 * 1024
LEAST_INODE_SHARE = 0.02
SLOW_STORE_SECONDS = 0.05
ASKED = 5
DAY_SECONDS = 86400
LATE_BACKUP_DAYS, LATE_DRILL_DAYS = 2, 15

SYSTEMD = Path("/run/systemd/system")
"""Is there where systemd is the init (sd_booted(3))."""


@dataclass(frozen=True)
class Finding:
    """`code` is one of codes.py."""

    code: str
    severity: str
    what: str

    def as_json(self) -> dict[str, Any]:
        """With the remedy of its code."""
        return {"code": self.code, "severity": self.severity, "what": self.what, "remedy": ALL[self.code].remedy}


@dataclass(frozen=True)
class Patient:
    """The host that is looked at. `settings` are those in force, or of the file; None if neither is valid."""

    config: Path
    state: Path
    settings: Settings | None

    @property
    def is_installed(self) -> bool:
        """Whether systemd runs the gateway here."""
        return is_installed(self.config) and bool(host.numbers())


Check = Callable[[Patient], Iterator[Finding]]


def examine(config: Path, state_option: Path | None) -> tuple[list[Finding], int]:
    """All findings, the worst first, and how many checks there were."""
    path = config.absolute()
    state = state_directory(path, state_option)
    settings = None
    with contextlib.suppress(CoollmError):
        effective = Generations(path, state).effective()
        settings = load(path, content=effective.file).settings if effective else None
    patient = Patient(path, state, settings or load(path).settings)
    found = [finding for check in CHECKS for finding in check(patient)]
    return sorted(found, key=lambda one: (HIGH, MEDIUM, LOW).index(one.severity)), len(CHECKS)


def _configuration(patient: Patient) -> Iterator[Finding]:
    loaded = load(patient.config)
    if loaded.faults:
        yield Finding("config", MEDIUM if patient.settings else HIGH, f"{loaded.faults[0]}")
    try:
        generations = Generations(patient.config, patient.state)
        pointer, effective = generations.pointer(), generations.effective()
        unfinished = host.host_of(patient.config, patient.state).journal.unfinished()
    except (CoollmError, OSError):
        return  # of another user
    if pointer is not None and pointer.is_unconfirmed(time.time()):
        yield Finding("unconfirmed", LOW, f"generation {pointer.number} was applied and not confirmed")
    elif patient.is_installed and effective is not None and not loaded.faults and patient.config.read_bytes() != effective.file.read_bytes():
        yield Finding("config-drift", MEDIUM, f"{patient.config} differs from generation {effective.number}, which is in force")
    if unfinished is not None:
        yield Finding("unfinished", MEDIUM, f"`{unfinished.command}` of {unfinished.by}")


def _instances(patient: Patient) -> Iterator[Finding]:
    if not patient.is_installed:
        return
    states = host.states(patient.config)
    for one in states:
        if one.status not in ("up", "draining"):
            yield Finding("instance", HIGH, f"instance {one.name} is {one.status}")
    if not systemd.is_active(systemd.PUBLIC_SOCKET):
        yield Finding("socket", HIGH, f"{systemd.PUBLIC_SOCKET} is not active: clients cannot connect")
    if journal_is_idle(patient):
        for one in states:
            if one.status == "draining" and host.is_drained(one.name):
                yield Finding("drained", LOW, f"instance {one.name} takes no new connections")
    versions = {report.version for one in states for report in one.live} | {one.release for one in states}
    if len(versions) > 1:
        yield Finding("mixed-releases", MEDIUM, f"instances run {', '.join(sorted(versions))}")


def journal_is_idle(patient: Patient) -> bool:
    """Whether no change is under way, or was left unfinished."""
    try:
        return host.host_of(patient.config, patient.state).journal.unfinished() is None
    except (CoollmError, OSError):
        return False


def _timers(patient: Patient) -> Iterator[Finding]:
    if not patient.is_installed or patient.settings is None:
        return
    for timer, is_wanted in units.switched(patient.settings, by_systemd=not units.has_cron()).items():
        if is_wanted and not (systemd.is_enabled(timer) and systemd.is_active(timer)):
            yield Finding("timers", MEDIUM, f"{timer} is off")


def _units(patient: Patient) -> Iterator[Finding]:
    if not patient.is_installed or patient.settings is None:
        return
    for path, text in (units.shipped() | units.drop_ins(patient.settings)).items():
        try:
            is_right = path.read_text("utf-8") == text
        except OSError:
            is_right = False
        if not is_right:
            yield Finding("unit-drift", MEDIUM, f"{path} is not as coollm ships it")
    if shutil.which("logrotate", path="/usr/sbin:/sbin:/usr/bin") is None:
        yield Finding("log-rotation", MEDIUM, "logrotate is not installed")


def _descriptors(patient: Patient) -> Iterator[Finding]:
    found = [(f"process {report.pid}", _limit_of(report.pid)) for _, report in host.live_workers(patient.config)]
    for who, limit in found or [("this shell", resource.getrlimit(resource.RLIMIT_NOFILE)[0])]:
        if limit is not None and limit < LEAST_DESCRIPTORS:
            yield Finding("descriptors", MEDIUM, f"{who} may open {limit} files, of {LEAST_DESCRIPTORS} that are wanted")
            return


def _limit_of(pid: int) -> int | None:
    try:
        return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    except (OSError, ValueError):
        return None


def _kernel(patient: Patient) -> Iterator[Finding]:
    backlog = _number("/proc/sys/net/core/somaxconn")
    if backlog is not None and backlog < LEAST_BACKLOG:
        yield Finding("backlog", MEDIUM, f"net.core.somaxconn is {backlog}, of {LEAST_BACKLOG} that are wanted")
    try:
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split())
        if high - low < LEAST_PORTS:
            yield Finding("local-ports", LOW, f"net.ipv4.ip_local_port_range has {high - low} ports")
    except (OSError, ValueError):
        pass
    runtime = patient.settings.storage.runtime if patient.settings else None
    if runtime is not None and runtime.type == "redis" and _is_here(runtime.addr) and _number("/proc/sys/vm/overcommit_memory") == 0:
        yield Finding("overcommit", LOW, "vm.overcommit_memory is 0, and Redis runs on this host")


def _is_here(address: str | None) -> bool:
    return bool(address) and str(address).startswith(("127.", "localhost", "unix:", "/", "[::1]"))


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text("ascii"))
    except (OSError, ValueError):
        return None


def _clock(_: Patient) -> Iterator[Finding]:
    tool = shutil.which("timedatectl")
    if tool is None or not SYSTEMD.is_dir():
        return
    try:
        told = subprocess.run([tool, "show", "-P", "NTPSynchronized"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return
    if told.stdout.strip() == "no":
        yield Finding("clock", MEDIUM, "systemd says that the clock is not synchronised")


def _disks(patient: Patient) -> Iterator[Finding]:
    seen = set()
    for what, wanted in (
        ("state", patient.state),
        ("logs and audit log", log_directory(patient.config, patient.state)),
        ("run time files", run_directory(patient.config)),
    ):
        directory = next(one for one in (wanted, *wanted.absolute().parents) if one.exists())
        device = directory.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        disk = os.statvfs(directory)
        free, share = disk.f_bavail * disk.f_frsize, disk.f_bavail / max(1, disk.f_blocks)
        if share < LEAST_FREE_SHARE or (free < LEAST_FREE_BYTES and what != "run time files"):
            yield Finding("disk-space", HIGH, f"{directory} ({what}): {free // 1024 // 1024} MiB are free, {share:.0%}")
        if disk.f_files and disk.f_favail / disk.f_files < LEAST_INODE_SHARE:
            yield Finding("inodes", HIGH, f"{directory} ({what}): {disk.f_favail} inodes are free")


def _permissions(patient: Patient) -> Iterator[Finding]:
    files = [(environment_file(patient.config), 0o600), (patient.state, 0o700)]
    tls = patient.settings.server.tls if patient.settings else None
    if tls is not None:
        files.append((Path(tls.key_file), 0o640))
    for path, wanted in files:
        with contextlib.suppress(OSError):
            mode = path.stat().st_mode & 0o777
            if mode & ~wanted:
                yield Finding("permissions", HIGH, f"{path} has mode {mode:04o}: chmod {wanted:04o} {path}")


def _certificate(patient: Patient) -> Iterator[Finding]:
    tls = patient.settings.server.tls if patient.settings else None
    if tls is None:
        return
    try:
        found = read_certificate(read_file(Path(tls.cert_file)), tls.cert_file)
    except OperationFailed as error:
        yield Finding("certificate", HIGH, error.message)
        return
    days = (found.ends - time.time()) / DAY_SECONDS
    if days < WARN_DAYS:
        yield Finding("certificate", HIGH, f"{tls.cert_file} {'expires in' if days > 0 else 'has expired for'} {abs(days):.0f} days")


def _secrets(patient: Patient) -> Iterator[Finding]:
    loaded = load(patient.config, state=patient.state)
    in_clear = secrets_in_clear(loaded)
    if in_clear:
        yield Finding("secrets-in-clear", MEDIUM, f"{patient.config}: {', '.join(fault.path for fault in in_clear)}")
    master = master_key_file(patient.config, patient.state)
    if not master.exists() and (patient.state / SECRETS).exists():
        yield Finding("master-key", HIGH, f"{master} is not there, and secrets are kept under it")
    for path in (master, patient.state / SECRETS):
        with contextlib.suppress(OSError):
            if path.stat().st_mode & 0o077:
                yield Finding("permissions", HIGH, f"{path} has mode {path.stat().st_mode & 0o777:04o}: chmod 0600 {path}")


def _vendor_keys(patient: Patient) -> Iterator[Finding]:
    up = next((one for one in host.states(patient.config) if one.status == "up"), None)
    if up is None or patient.settings is None:
        return
    try:
        found = host.client_of(up.name, up.directory).ask("/admin/v1/keys")
    except CoollmError:
        return  # said by another check
    oldest = {provider.id: provider.max_key_age_days for provider in patient.settings.llm_providers}
    for row in found["keys"]:
        name, most = f"{row['provider']}/{row['key']}", oldest.get(row["provider"])
        if row["cause"] in ("key_rejected", "quota_exhausted"):
            yield Finding("vendor-key", HIGH, f"{name}: {row['cause']}; it is out of use for {row['usable_in_seconds']:.0f} s more, and then tried again")
        if most is not None and row["since"] and time.time() - row["since"] > most * DAY_SECONDS:
            yield Finding("key-age", MEDIUM, f"{name} was set {(time.time() - row['since']) / DAY_SECONDS:.0f} days ago, of {most} (max_key_age_days)")
        if row["state"] in ("added", "canary", "held"):
            yield Finding("key-unfinished", MEDIUM, f"{name} is {row['state']}: a rotation was not finished")
    for row in found["retired"]:
        configured = {key.fingerprint() for provider in patient.settings.llm_providers if provider.id == row["provider"] for key in provider.api_keys}
        if row["key"] in configured:
            yield Finding("key-retired", LOW, f"{row['provider']}/{row['key']} is retired, and the configuration still has it")


HEALTH = {"store": "store", "providers": "providers", "ledger": "ledger", "audit": "audit-log"}
"""Codes of what a gateway says of itself."""


def _health(patient: Patient) -> Iterator[Finding]:
    up = next((one for one in host.states(patient.config) if one.status == "up"), None)
    if up is None:
        return
    try:
        body = host.client_of(up.name, up.directory).get("/health").body
    except CoollmError:
        return  # said by another check
    for check in body.get("checks", ()):
        if check["status"] != "ok" and check["name"] in HEALTH:
            # A key that cools down is no fault of the host.
            severity = HIGH if check["status"] == "down" else LOW if check["name"] == "providers" else MEDIUM
            yield Finding(HEALTH[check["name"]], severity, check["detail"])


def _audit(patient: Patient) -> Iterator[Finding]:
    known = read_audit_status(patient.state)
    if known.faults:
        yield Finding("audit-fault", HIGH, f"{known.faults} faults in the audit log, as it was verified {proof.ago(known.verified)} ago")


def _store(patient: Patient) -> Iterator[Finding]:
    up = next((one for one in host.states(patient.config) if one.status == "up"), None)
    if up is None:
        return
    client = host.client_of(up.name, up.directory)
    try:
        times = []
        for _ in range(ASKED):
            began = time.monotonic()
            client.ask("/admin/v1/health")
            times.append(time.monotonic() - began)
        orphans = client.ask("/admin/v1/status").get("orphaned_holds", 0)
    except CoollmError as error:
        yield Finding("instance", HIGH, f"instance {up.name} does not answer: {error.message}")
        return
    if statistics.median(times) > SLOW_STORE_SECONDS:
        yield Finding("store-latency", MEDIUM, f"an answer with a look at the store takes {statistics.median(times) * 1000:.0f} ms")
    if orphans:
        yield Finding("reservations", MEDIUM, f"{orphans} reservations belong to no worker that lives")


def _port(patient: Patient) -> Iterator[Finding]:
    if patient.settings is None or host.live_workers(patient.config):
        return
    if patient.is_installed and systemd.is_active(systemd.PUBLIC_SOCKET):
        return
    address = patient.settings.server.listen
    with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            yield Finding("port", HIGH, f"{address}: {error.strerror}")


def _timeouts(patient: Patient) -> Iterator[Finding]:
    if patient.settings is None:
        return
    timeouts, retry, drain = patient.settings.policy.timeouts, patient.settings.policy.retry, patient.settings.server.drain_seconds
    if timeouts.first_byte > timeouts.total:
        yield Finding("timeouts", MEDIUM, f"policy.timeouts.first_byte ({timeouts.first_byte}) is above policy.timeouts.total ({timeouts.total})")
    if retry.timeout > timeouts.total:
        yield Finding("timeouts", LOW, f"policy.retry.timeout ({retry.timeout}) is above policy.timeouts.total ({timeouts.total})")
    if retry.interval > retry.timeout:
        yield Finding("timeouts", MEDIUM, f"policy.retry.interval ({retry.interval}) is above policy.retry.timeout ({retry.timeout}): nothing is tried again")
    if patient.is_installed:
        stop = host.stop_seconds(host.numbers()) - 30
        if stop < drain + 10:
            yield Finding("timeouts", HIGH, f"systemd kills an instance after {stop:.0f} s, and server.drain_seconds is {drain}")


def _backups(patient: Patient) -> Iterator[Finding]:
    """Where backups are asked for: whether they are made, and hold."""
    if patient.settings is None or not patient.settings.backup.recipients:
        return  # `maintenance weekly` says that none was ever made
    known, now = read_backup_status(patient.state), time.time()
    if now - known.success > LATE_BACKUP_DAYS * DAY_SECONDS:
        yield Finding("backup", HIGH, f"the last backup was made {proof.ago(known.success)} ago" if known.success else "no backup was ever made")
    if known.drill_failed > known.drill:
        yield Finding("drill", HIGH, f"the last drill failed: {known.drill_fault}")
    elif known.success and now - known.drill > LATE_DRILL_DAYS * DAY_SECONDS:
        yield Finding("drill", MEDIUM, f"the last restore was proven {proof.ago(known.drill)} ago" if known.drill else "no restore was ever proven")


CHECKS: tuple[Check, ...] = (
    _configuration,
    _instances,
    _units,
    _timers,
    _descriptors,
    _kernel,
    _clock,
    _disks,
    _permissions,
    _certificate,
    _secrets,
    _vendor_keys,
    _health,
    _audit,
    _store,
    _port,
    _timeouts,
    _backups,
)
