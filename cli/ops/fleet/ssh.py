"""Commands on other hosts, by the system's ssh with the user's own configuration, agent and jump hosts. One connection to each host serves all its commands.

Host keys are verified as that configuration says; nothing is ever asked for. Sources: ssh(1), ssh_config(5).
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from coollm_cli.ops.fleet.inventory import destination

from coollm.core.config.fleet import Fleet, FleetHost, Ssh
from coollm.core.errors import OperationFailed, Unreachable

PERSIST_SECONDS = 60
SECONDS = 60.0
LOST = 255
"""What ssh itself exits with; a command of the host may do so, too."""

MOST_QUESTIONS = 5

COMMAND = "/usr/local/bin/coollm"
NOT_FOUND = 127

T = TypeVar("T")


class ConnectionLost(Unreachable):
    """A connection that stood was cut: what went on there may go on."""


# What ssh says when it has not come to a connection at all.
NOT_CONNECTED = ("ssh: ", "verification failed", "Permission denied", "kex_exchange", "Connection timed out", "Connection closed by", "Connection reset")


@dataclass(frozen=True)
class Done:
    """What came of a command."""

    exit_code: int
    output: str
    errors: str

    def as_json(self) -> Any:
        """Its output. Raises OperationFailed where that is no JSON document."""
        try:
            return json.loads(self.output)
        except ValueError:
            said = (self.errors.strip() or self.output.strip() or "nothing").splitlines()[-1][:300]
            raise OperationFailed(f"exit {self.exit_code}: {said}") from None

    @property
    def reason(self) -> str:
        """Why it failed: what it calls errors, else its last word."""
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        errors = [line.removeprefix("error:").strip() for line in lines if line.startswith("error:")]
        return "; ".join(errors or lines[-1:] or [f"exit {self.exit_code}"])[:400]


class Remote:
    """One host."""

    def __init__(self, where: str, ssh: Ssh, sockets: Path | None) -> None:
        """Without `sockets` each command has a connection of its own."""
        self.where = where
        self._ssh = ssh
        self._sockets = sockets

    def command(self, words: str, *options: str) -> list[str]:
        """The command line that runs a shell command there."""
        wanted, made = self._ssh, [_program()]
        shared = ("ControlMaster=auto", f"ControlPath={self._sockets}/%C", f"ControlPersist={PERSIST_SECONDS}")
        for one in (
            "BatchMode=yes",
            f"ConnectTimeout={max(1, round(wanted.connect_timeout))}",
            *(shared if self._sockets is not None else ()),  # one that the user shares is used
            "ServerAliveInterval=5",
            "ServerAliveCountMax=3",
        ):
            made += ["-o", one]
        if wanted.config_file:
            made += ["-F", wanted.config_file]
        for one in wanted.options:
            made += ["-o", one]
        if wanted.user:
            made += ["-l", wanted.user]
        return [*made, *options, "--", self.where, words]

    def run(self, *words: str, data: bytes | None = None, seconds: float = SECONDS) -> Done:
        """Runs a program there, with its arguments as they are. Raises Unreachable."""
        line = shlex.join(words)
        return self.shell(f"sudo -n {line}" if self._ssh.sudo else line, data=data, seconds=seconds)

    def shell(self, line: str, *, data: bytes | None = None, seconds: float = SECONDS) -> Done:
        """Runs a line of the shell there. Raises Unreachable."""
        try:
            done = subprocess.run(self.command(line), input=data or b"", capture_output=True, timeout=seconds, check=False)  # noqa: S603
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"{self.where}: `{line[:80]}` has not ended within {seconds:.0f} s", "coollm fleet status") from error
        errors = done.stderr.decode("utf-8", "replace")
        if done.returncode < 0 or (done.returncode == LOST and not any(word in errors for word in NOT_CONNECTED)):
            raise ConnectionLost(f"{self.where}: {_reason(errors)}", "give the same command again: it goes on")
        if done.returncode == LOST:
            raise Unreachable(f"{self.where}: {_reason(errors)}", f"ssh {self.where} has to work without a question: keys, agent, known_hosts")
        return Done(done.returncode, done.stdout.decode("utf-8", "replace"), errors)

    def coollm(self, *arguments: str, data: bytes | None = None, seconds: float = SECONDS) -> Done:
        """Runs its coollm. Raises Unreachable, and OperationFailed where it is not installed."""
        done = self.run(COMMAND, *arguments, data=data, seconds=seconds)
        if done.exit_code == NOT_FOUND or (done.exit_code == 1 and "command not found" in done.errors):
            raise OperationFailed(f"{self.where}: coollm is not installed there", "coollm fleet install")
        return done

    def asked(self, *arguments: str, seconds: float = SECONDS) -> Done:
        """What its coollm answers to a question, which changes nothing: asked again where the connection is cut meanwhile. Raises as `coollm`."""
        return ask_again(lambda: self.coollm(*arguments, seconds=seconds))

    def put(self, path: str, data: bytes, mode: str = "600") -> None:
        """Writes a file there, whole or not at all. Raises Unreachable and OperationFailed."""
        beside = shlex.quote(f"{path}.new")
        line = f"umask 077 && mkdir -p {shlex.quote(os.path.dirname(path))} && cat >{beside} && chmod {mode} {beside} && mv {beside} {shlex.quote(path)}"
        done = self.run("sh", "-c", line, data=data)
        if done.exit_code != 0:
            raise OperationFailed(f"{self.where}: {path}: {done.errors.strip() or 'cannot be written'}")

    def close(self) -> None:
        """Ends the connection."""
        if self._sockets is None:
            return
        subprocess.run(self.command("", "-O", "exit"), capture_output=True, check=False)  # noqa: S603


def ask_again(ask: Callable[[], T]) -> T:
    """What may be said twice, said again where the connection is cut meanwhile. Raises what `ask` raises."""
    for _ in range(MOST_QUESTIONS - 1):
        with contextlib.suppress(ConnectionLost):
            return ask()
    return ask()


@contextlib.contextmanager
def remotes(fleet: Fleet, hosts: Sequence[FleetHost], *, once: bool = False) -> Iterator[dict[str, Remote]]:
    """Every host by its name, for as long as the block runs. Who asks each of them `once` needs no connection that stays: that saves a third of the time."""
    if once:
        yield {one.name: Remote(destination(one), fleet.ssh, None) for one in hosts}
        return
    with _connected(fleet, {one.name: destination(one) for one in hosts}) as made:
        yield made


@contextlib.contextmanager
def balancer_remotes(fleet: Fleet) -> Iterator[dict[str, Remote]]:
    """The load balancers of other machines by their names."""
    with _connected(fleet, {one.name: one.address for one in fleet.load_balancers if one.address is not None}) as made:
        yield made


@contextlib.contextmanager
def _connected(fleet: Fleet, places: dict[str, str]) -> Iterator[dict[str, Remote]]:
    # A socket's path has at most 104 characters, and ssh's hash is 40 of them.
    sockets = Path(tempfile.mkdtemp(prefix="coollm-ssh-", dir="/tmp"))
    made = {name: Remote(where, fleet.ssh, sockets) for name, where in places.items()}
    try:
        yield made
    finally:
        if any(sockets.iterdir()):
            in_parallel(fleet, list(made.values()), lambda one: one.close())
        shutil.rmtree(sockets, ignore_errors=True)


def in_parallel(fleet: Fleet, things: Sequence[T], do: Callable[[T], Any]) -> list[Any]:
    """What `do` returns of each, in their order. Raises what it raises."""
    if not things:
        return []
    with ThreadPoolExecutor(max_workers=min(fleet.parallel, len(things))) as pool:
        return list(pool.map(do, things))


def _program() -> str:
    found = shutil.which("ssh")
    if found is None:
        raise OperationFailed("ssh was not found on this host", "apt-get install openssh-client")
    return found


def _reason(errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip() and not line.startswith("Warning:")]
    return lines[-1][:300] if lines else "the connection was lost"
