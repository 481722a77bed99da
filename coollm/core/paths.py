"""Where things lie: on an installed host, and in a checkout or for a plain user."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from coollm.core.errors import OperationFailed

SYSTEM_CONFIG = Path("/etc/coollm/config.yaml")
SYSTEM_ENVIRONMENT = Path("/etc/coollm/environment")
SYSTEM_STATE = Path("/var/lib/coollm")
SYSTEM_LOGS = Path("/var/log/coo-llm")
SYSTEM_RUN = Path("/run/coollm")
SYSTEM_ADMIN = Path("/var/opt/coollm")
"""What the command itself keeps: lock, journal, copies made before an upgrade. Root's own, since the gateway's user must not tell root what to do."""

RESTORES = "restores"
"""Under the command's own directory: what was there before backups were restored."""

RELEASES = Path("/opt/coollm/releases")
INSTANCES = Path("/opt/coollm/instances")
CURRENT_RELEASE = Path("/opt/coollm/current")
LOCAL_CONFIG = Path("coollm.yaml")

SECRETS = "secrets.json"
"""The secrets, under the state directory."""

HASH_KEY = "client-keys"
"""The name of the secret under which keys of clients and administrators are hashed."""


def find_config(option: Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """The configuration in force: `--config` beats `$COOLLM_CONFIG` beats `./coollm.yaml` beats `/etc/coollm/config.yaml`.

    The path need not exist: loading it then says so, and names the way out.
    """
    environ = os.environ if environ is None else environ
    if option is not None:
        return option
    if environ.get("COOLLM_CONFIG"):
        return Path(environ["COOLLM_CONFIG"])
    if LOCAL_CONFIG.exists() or not SYSTEM_CONFIG.exists():
        return LOCAL_CONFIG
    return SYSTEM_CONFIG


def is_installed(config: Path) -> bool:
    """Whether `config` is the installed host's own, so that the system directories apply."""
    return config.absolute() == SYSTEM_CONFIG


def environment_file(config: Path) -> Path:
    """The file of `NAME=value` lines beside a configuration, whose variables `${NAME}` may use."""
    return SYSTEM_ENVIRONMENT if is_installed(config) else config.parent / ".env"


def state_directory(config: Path, option: Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """The directory of store, ledger and generations; not created here."""
    environ = os.environ if environ is None else environ
    if option is not None:
        return option
    if environ.get("COOLLM_STATE_DIR"):
        return Path(environ["COOLLM_STATE_DIR"])
    if is_installed(config):
        return SYSTEM_STATE
    base = environ.get("XDG_STATE_HOME") or os.path.join(environ.get("HOME") or tempfile.gettempdir(), ".local", "state")
    return Path(base) / "coollm"


def admin_directory(config: Path, state: Path) -> Path:
    """The directory of the command's own lock and journal; not created here."""
    return SYSTEM_ADMIN if is_installed(config) else state / "admin"


def log_directory(config: Path, state: Path) -> Path:
    """The directory of app.log: `/var/log/coo-llm` on an installed host, else under the state directory."""
    return SYSTEM_LOGS if is_installed(config) else state / "logs"


def audit_log(logs: Path, path: str | None) -> Path:
    """The audit log: at `path` if the configuration gives one (`logging.audit.path`), else in the directory of logs."""
    return Path(path) if path else logs / "audit.log"


def run_directory(config: Path, environ: Mapping[str, str] | None = None) -> Path:
    """The directory of sockets and metrics of running gateways; not created here."""
    environ = os.environ if environ is None else environ
    if environ.get("COOLLM_RUN_DIR"):
        return Path(environ["COOLLM_RUN_DIR"])
    if is_installed(config):
        return SYSTEM_RUN
    if environ.get("XDG_RUNTIME_DIR"):
        return Path(environ["XDG_RUNTIME_DIR"]) / "coollm"
    return Path(tempfile.gettempdir()) / f"coollm-{os.getuid()}"


def make_private(directory: Path) -> Path:
    """Creates `directory` for this user alone (mode 0700) and returns it.

    Raises OperationFailed if it belongs to somebody else: in a shared temporary directory another user may have made it first.
    """
    try:
        is_new = not directory.exists()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if is_new and os.getuid() == 0:
            # What root makes among the files of the gateway's user is that user's.
            owner = directory.parent.stat()
            os.chown(directory, owner.st_uid, owner.st_gid)
        found = directory.stat()
    except OSError as error:
        raise OperationFailed(
            f"{directory}: cannot be created: {error.strerror}", "set COOLLM_STATE_DIR or COOLLM_RUN_DIR to a directory that you own"
        ) from error
    if found.st_uid != os.getuid() and os.getuid() != 0:
        raise OperationFailed(f"{directory}: belongs to another user", "set COOLLM_RUN_DIR to a directory that you own")
    return directory
