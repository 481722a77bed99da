"""systemd, by its own command. Source: systemctl(1), systemd.unit(5)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from coollm.core.errors import OperationFailed, Unreachable

START_SECONDS = 150.0
LOG_LINES = 6


def service(instance: str) -> str:
    """The unit of an instance."""
    return f"coollm@{instance}.service"


def admin_socket(instance: str) -> str:
    """The unit of an instance's local socket."""
    return f"coollm-admin@{instance}.socket"


PUBLIC_SOCKET = "coollm.socket"
TARGET = "coollm.target"


def systemctl(*arguments: str, seconds: float = 60.0) -> str:
    """What systemctl prints. Raises OperationFailed if it does not succeed, with what it says, and Unreachable if there is no systemd."""
    done = _run(arguments, seconds)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise OperationFailed(f"systemctl {' '.join(arguments)}: {said[0] if said else f'exit {done.returncode}'}", _hint(arguments))
    return done.stdout


def attempt(*arguments: str) -> None:
    """The same where it does not matter whether it succeeds, as with a unit that may not be there."""
    _run(arguments, 60.0)


def show(unit: str, *properties: str) -> dict[str, str]:
    """Properties of a unit; those of one that is not there are empty."""
    told = _run(("show", unit, *(f"--property={name}" for name in properties)), 30.0).stdout
    return dict(line.split("=", 1) for line in told.splitlines() if "=" in line)


def is_active(unit: str) -> bool:
    """Whether a unit runs."""
    return show(unit, "ActiveState").get("ActiveState") == "active"


def is_enabled(unit: str) -> bool:
    """Whether a unit starts with the host."""
    return _run(("is-enabled", unit), 30.0).stdout.strip() == "enabled"


def last_lines(unit: str) -> str:
    """The last that a unit has said, for an error."""
    tool = shutil.which("journalctl")
    if tool is None:
        return ""
    done = subprocess.run([tool, "-u", unit, "-n", str(LOG_LINES), "-o", "cat", "--no-pager"], capture_output=True, text=True, check=False)  # noqa: S603
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("error:", "hint:"))]
    return " ".join(told[-2:] or lines[-2:])


def _run(arguments: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("systemctl")
    if tool is None:
        raise Unreachable("systemctl was not found: this host is not run by systemd", "run the gateway in the foreground: coollm serve")
    try:
        return subprocess.run([tool, "--no-pager", *arguments], capture_output=True, text=True, timeout=seconds, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise OperationFailed(f"systemctl {' '.join(arguments)} has not ended within {seconds:.0f} s", _hint(arguments)) from error


def _hint(arguments: Sequence[str]) -> str:
    units = [one for one in arguments if one.startswith("coollm")]
    if not units:
        return "journalctl -b"
    status = show(units[-1], "ExecMainStatus").get("ExecMainStatus", "0")
    said = last_lines(units[-1]) or f"journalctl -u {units[-1]}"
    return said if status in ("", "0") else f"exit status {status}: {said}"
