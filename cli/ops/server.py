"""Starting the gateway and the simulator. Both become the process itself: the control plane imports neither Flask nor gevent."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from coollm.core.config.faults import Fault
from coollm.core.config.generations import Generations
from coollm.core.config.load import load
from coollm.core.config.schema import Settings
from coollm.core.config.values import Address
from coollm.core.errors import ConfigurationError, OperationFailed, UsageError
from coollm.core.instances import ADMIN_SOCKET, instance_directory
from coollm.core.logs import log_file
from coollm.core.paths import find_config, make_private, run_directory, state_directory

LONGEST_SOCKET_PATH = 107
SERVER_MODULE = "python:coollm.server.gunicorn_config"


@dataclass(frozen=True)
class ServerPlan:
    """What will be started."""

    config: Path
    settings: Settings
    listen: Address
    workers: int
    log: Path | None
    warnings: tuple[Fault, ...]
    environment: dict[str, str]

    @property
    def url(self) -> str:
        """The gateway's address as this host reaches it."""
        scheme = "https" if self.settings.server.tls else "http"
        return f"{scheme}://{Address(self.listen.reachable_host, self.listen.port)}"


def plan_server(config: Path | None, state_dir: Path | None, listen: str | None, workers: int | None) -> ServerPlan:
    """Checks everything that can be checked before the server starts. Raises ConfigurationError, UsageError and OperationFailed."""
    path = find_config(config).absolute()
    state = make_private(state_directory(path, state_dir).absolute())
    instance = os.environ.get("COOLLM_INSTANCE")
    generation = Generations(path, state).effective() if instance else None
    loaded = load(path, content=generation.file if generation else None)
    if loaded.settings is None:
        raise ConfigurationError(loaded.faults)
    settings = loaded.settings
    _check_tls(settings, path)
    address = _address(listen, settings)
    environment = {
        "COOLLM_CONFIG": str(path),
        "COOLLM_STATE_DIR": str(state),
        "COOLLM_RUN_DIR": str(run_directory(path).absolute()),
        "COOLLM_LISTEN": str(address),
        "COOLLM_WORKERS": str(workers or settings.server.workers),
    }
    if instance is None:  # else systemd listens for it
        _check_port(address)
        _check_socket(instance_directory(Path(environment["COOLLM_RUN_DIR"]), address.port) / ADMIN_SOCKET)
    log = log_file(settings, path, state)
    _check_log(log)
    _check_packages(settings)
    return ServerPlan(path, settings, address, workers or settings.server.workers, log, loaded.warnings, environment)


def server_command() -> list[str]:
    """The command line of the gateway."""
    return [sys.executable, "-m", "gunicorn", "-c", SERVER_MODULE]


def become_server(plan: ServerPlan) -> NoReturn:
    """Replaces this process by the gateway."""
    command = server_command()
    os.execve(command[0], command, {**os.environ, **plan.environment})  # noqa: S606


def become_simulator(listen: str, directives: list[str]) -> NoReturn:
    """Replaces this process by the simulator."""
    try:
        Address.parse(listen)
    except ValueError as error:
        raise UsageError(f"--listen {listen}: {error}") from error
    command = [sys.executable, "-m", "coollm.simulator", listen, *directives]
    os.execve(command[0], command, dict(os.environ))  # noqa: S606


def _address(listen: str | None, settings: Settings) -> Address:
    if listen is None:
        return settings.server.listen
    try:
        return Address.parse(listen)
    except ValueError as error:
        raise UsageError(f"--listen {listen}: {error}") from error


def _check_tls(settings: Settings, path: Path) -> None:
    tls = settings.server.tls
    for name, file in (("cert_file", tls.cert_file), ("key_file", tls.key_file)) if tls else ():
        if not os.access(file, os.R_OK):
            raise ConfigurationError((Fault(None, f"{path}: server.tls.{name}", f"the file {file} cannot be read"),))


def _check_log(log: Path | None) -> None:
    if log is None:
        return
    if not log.parent.exists():
        make_private(log.parent)
    try:
        with log.open("ab"):
            pass
    except OSError as error:
        raise OperationFailed(f"{log}: the log cannot be written: {error.strerror}", "give logging.file another path") from error


def _check_packages(settings: Settings) -> None:
    if settings.storage.runtime.type == "redis" and find_spec("redis") is None:
        raise OperationFailed("storage.runtime.type is redis, but the redis package is not installed", "pip install 'coollm[redis]'")


def _check_socket(path: Path) -> None:
    """The kernel takes no longer path for a Unix socket (unix(7))."""
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise OperationFailed(f"the path of the local socket is too long: {path}", "set COOLLM_RUN_DIR to a directory with a shorter path")


def _check_port(address: Address) -> None:
    """Says at once what gunicorn would only say after its retries."""
    import socket

    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise OperationFailed(f"cannot listen on {address}: {error.strerror}", "choose another address with --listen or server.listen") from error
