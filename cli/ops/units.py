"""The units as they are installed, and what the configuration changes of them: drop-ins. Source: systemd.unit(5), systemd.socket(5), systemd.exec(5)."""

from __future__ import annotations

from pathlib import Path

from coollm.core.config.schema import Settings
from coollm.core.resources import resource

UNITS = Path("/etc/systemd/system")
NAMES = (
    "coollm.socket",
    "coollm-admin@.socket",
    "coollm@.service",
    "coollm.target",
    "coollm.slice",
    "coollm-alert@.service",
    "coollm-health.service",
    "coollm-health.timer",
    "coollm-maintenance@.service",
    "coollm-maintenance-daily.timer",
    "coollm-maintenance-weekly.timer",
    "coollm-maintenance-monthly.timer",
    "coollm-autoscale.service",
    "coollm-autoscale.timer",
    "coollm-orders.path",
    "coollm-orders.service",
    "coollm-backup.service",
    "coollm-backup.timer",
    "coollm-backup-config.service",
    "coollm-backup-config.timer",
    "coollm-drill.service",
    "coollm-drill.timer",
)
TIMERS = ("coollm-health.timer", "coollm-maintenance-daily.timer", "coollm-maintenance-weekly.timer", "coollm-maintenance-monthly.timer")
"""Those that are on where systemd runs the regular jobs."""

AUTOSCALE_TIMER = "coollm-autoscale.timer"
ORDERS_PATH = "coollm-orders.path"
DROP_IN = "50-coollm.conf"
CREDENTIALS = Path("/etc/coollm/credentials")
ENCRYPTED = ".cred"

SETTLE_SECONDS = 10
SPARE_SECONDS = 30


def shipped() -> dict[Path, str]:
    """Files of the host that are installed as they are shipped, with their contents; timers among them, which only systemd's scheduler needs."""
    files = {UNITS / name: _text("systemd", name) for name in NAMES}
    files[Path("/etc/sysusers.d/coollm.conf")] = _text("systemd", "coollm.sysusers.conf")
    files[Path("/etc/tmpfiles.d/coollm.conf")] = _text("systemd", "coollm.tmpfiles.conf")
    files[Path("/etc/logrotate.d/coollm")] = _text("etc", "logrotate.conf")
    return files


def cron() -> dict[Path, str]:
    """The file of jobs, where cron runs them."""
    return {Path("/etc/cron.d/coollm"): _text("etc", "cron")}


def has_cron() -> bool:
    """Whether cron runs the regular jobs of this host."""
    return any(path.exists() for path in cron())


def switched(settings: Settings, *, by_systemd: bool) -> dict[str, bool]:
    """Which units beside the gateway are to be on, and which off; no timers where cron runs the jobs."""
    timers = dict.fromkeys(TIMERS, by_systemd) | {AUTOSCALE_TIMER: by_systemd and settings.server.autoscale.enabled}
    return timers | {ORDERS_PATH: settings.server.webui.enabled}


def drop_ins(settings: Settings) -> dict[Path, str]:
    """What the configuration changes of the units."""
    listen = settings.server.listen
    address = str(listen.port) if listen.host in ("", "0.0.0.0", "::") else str(listen)  # noqa: S104  it is asked for
    stop = 2 * (int(settings.server.drain_seconds) + SETTLE_SECONDS) + SPARE_SECONDS
    made = "# Written by coollm from the configuration: changes here are lost.\n"
    return {
        UNITS / "coollm.socket.d" / DROP_IN: f"{made}[Socket]\nListenStream=\nListenStream={address}\n",
        UNITS / "coollm@.service.d" / DROP_IN: f"{made}[Service]\nTimeoutStopSec={stop}\n" + _credentials(),
    }


def _credentials() -> str:
    """Systemd gives the gateway the files of /etc/coollm/credentials, which are root's; those that end in .cred it decrypts first (systemd-creds(1))."""
    if not CREDENTIALS.is_dir():
        return ""
    lines = []
    for file in sorted(CREDENTIALS.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            kind = "LoadCredentialEncrypted" if file.suffix == ENCRYPTED else "LoadCredential"
            lines.append(f"{kind}={file.name.removesuffix(ENCRYPTED)}:{file}\n")
    return "".join(lines)


def _text(folder: str, name: str) -> str:
    return resource(folder, name).read_text("utf-8")
