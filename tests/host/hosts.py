"""Real hosts on this machine: systemd in an overlay of its file system, a network namespace each, reached by ssh. Booted in seconds, and cleaned up by name.

They live in a network of their own, which nothing outside reaches. Source: systemd-nspawn(1), ip-netns(8).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BOOT_SECONDS = 60
PREFIX = "coollm-"
NEEDED = ("systemd-nspawn", "ip", "ssh", "ssh-keygen", "/usr/sbin/sshd")

# What this machine runs beside, and a host of ours does not need.
KEPT_SERVICES = ("ssh.service",)


def why_not() -> str:
    """Why hosts cannot be booted here; "" if they can."""
    if os.getuid() != 0:
        return "hosts need root: systemd-nspawn, mount and network namespaces"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"hosts need {', '.join(missing)}: apt-get install systemd-container openssh-server iproute2"
    return ""


def sh(*command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def sweep() -> None:
    """Removes what hosts have left whose test run was killed: its process is in their name."""
    for name in sh("ip", "-o", "netns", "list", check=False).stdout.split():
        if not name.startswith(PREFIX):
            continue
        owner = name.removeprefix(PREFIX).partition("-")[0]
        if Path(f"/proc/{int(owner, 16)}").exists():
            continue
        for line in Path("/proc/self/mounts").read_text().splitlines():
            mounted = line.split()[1]
            if f"/{name}/" in mounted:
                sh("umount", "--lazy", mounted, check=False)
        sh("ip", "netns", "del", name, check=False)


class Network:
    """A bridge in a namespace of its own, to which hosts are plugged in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        sweep()
        self.name = f"{PREFIX}{os.getpid():x}"
        self.key = directory / "key"
        self._next = 1
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        sh("ip", "netns", "add", self.name)
        sh("ip", "-n", self.name, "link", "set", "lo", "up")
        sh("ip", "-n", self.name, "link", "add", "br0", "type", "bridge")
        sh("ip", "-n", self.name, "addr", "add", "10.77.0.254/24", "dev", "br0")
        sh("ip", "-n", self.name, "link", "set", "br0", "up")

    def plug(self, host: str) -> str:
        """Gives a host's namespace an address."""
        address = f"10.77.0.{self._next}"
        short = f"c{os.getpid():x}h{self._next}"
        inside, outside = f"{short}i", f"{short}o"
        self._next += 1
        sh("ip", "-n", self.name, "link", "add", outside, "type", "veth", "peer", "name", inside)
        sh("ip", "-n", self.name, "link", "set", inside, "netns", host)
        sh("ip", "-n", self.name, "link", "set", outside, "master", "br0")
        sh("ip", "-n", self.name, "link", "set", outside, "up")
        sh("ip", "-n", host, "addr", "add", f"{address}/24", "dev", inside)
        for device in ("lo", inside):
            sh("ip", "-n", host, "link", "set", device, "up")
        return address

    def reaches(self, address: str, port: int) -> bool:
        """Whether a connection to a host comes about, from the bridge."""
        probe = f"exec 3<>/dev/tcp/{address}/{port}"
        return sh("ip", "netns", "exec", self.name, "timeout", "2", "bash", "-c", probe, check=False).returncode == 0

    def close(self) -> None:
        sh("ip", "netns", "del", self.name, check=False)


class TestHost:
    """One host. `binds` are directories of this machine that it sees, read-only, by the path they have there."""

    __test__ = False

    def __init__(self, network: Network, binds: Sequence[tuple[Path, str]] = ()) -> None:
        self.network = network
        self.name = f"{network.name}-h{network._next}"
        self.directory = network.directory / self.name
        self.root = self.directory / "root"
        self._process: subprocess.Popen[bytes] | None = None
        for folder in ("upper", "work", "root"):
            (self.directory / folder).mkdir(parents=True)
        overlay = f"lowerdir=/,upperdir={self.directory / 'upper'},workdir={self.directory / 'work'}"
        sh("mount", "-t", "overlay", "overlay", "-o", overlay, str(self.root))
        sh("ip", "netns", "add", self.name)
        self.address = network.plug(self.name)
        self._prepare()
        self._boot(binds)

    def _prepare(self) -> None:
        """Nothing starts but what a host needs."""
        units = self.root / "etc/systemd/system"
        for wants in units.glob("*.wants"):
            for link in wants.iterdir():
                if link.name not in KEPT_SERVICES:
                    link.unlink()
        (units / "multi-user.target.wants").mkdir(exist_ok=True)
        link = units / "multi-user.target.wants/ssh.service"
        if not link.is_symlink():
            link.symlink_to("/lib/systemd/system/ssh.service")
        (self.root / "etc/machine-id").write_text(secrets.token_hex(16) + "\n")
        (self.root / "etc/hostname").write_text(f"{self.name}\n")
        for name in (".bashrc", ".profile", ".bash_profile"):  # what a person's shell does here is no part of a host
            (self.root / "root" / name).write_text("")
        ssh = self.root / "root/.ssh"
        ssh.mkdir(mode=0o700, exist_ok=True)
        (ssh / "authorized_keys").write_text((self.network.directory / "key.pub").read_text())
        os.chmod(ssh / "authorized_keys", 0o600)
        for path in ("etc/coollm", "opt/coollm", "var/opt/coollm", "var/lib/coollm", "var/log/coo-llm"):
            shutil.rmtree(self.root / path, ignore_errors=True)

    def _boot(self, binds: Sequence[tuple[Path, str]]) -> None:
        # Who starts it may be killed: the host does not outlive it.
        command = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "systemd-nspawn",
            f"--directory={self.root}",
            "--boot",
            "--register=no",
            "--keep-unit",
            "--link-journal=no",
            "--console=pipe",
            "--capability=CAP_NET_ADMIN",  # its firewall is its own
        ]
        command += [f"--network-namespace-path=/run/netns/{self.name}", *(f"--bind-ro={source}:{target}" for source, target in binds)]
        with (self.directory / "console").open("wb") as console:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True)
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            done = self.run("systemctl is-system-running", check=False, timeout=10)
            if done.stdout.strip() in ("running", "degraded"):
                return
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.close()
                raise AssertionError(f"the host has not booted: {done.stdout} {done.stderr} {(self.directory / 'console').read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)

    def ssh(self, command: str) -> list[str]:
        """The command line that runs `command` there."""
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=3"]
        return ["ip", "netns", "exec", self.network.name, "ssh", "-i", str(self.network.key), *options, f"root@{self.address}", command]

    def run(self, command: str, *, check: bool = True, timeout: float = 400, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a shell command there, and waits for it."""
        done = subprocess.run(self.ssh(command), capture_output=True, text=True, timeout=timeout, **options)
        if check and done.returncode != 0:
            raise AssertionError(f"on the host: {command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def start(self, command: str, **options: Any) -> subprocess.Popen[str]:
        """Runs a shell command there, and does not wait."""
        return subprocess.Popen(self.ssh(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)

    def beside(self, *command: str) -> list[str]:
        """The command line that runs a program of this machine in the host's network."""
        return ["ip", "netns", "exec", self.name, *command]

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Writes a file there."""
        self.run(f"umask 077; cat >{path}; chmod {mode:o} {path}", input=text)

    def close(self) -> None:
        """Ends the host and removes all that was made for it."""
        process = self._process
        if process is not None and process.poll() is None:
            self._end(process)
        for _ in range(50):
            if sh("umount", str(self.root), check=False).returncode == 0:
                break
            time.sleep(0.1)
        else:
            sh("umount", "--lazy", str(self.root), check=False)
        sh("ip", "netns", "del", self.name, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        """Its init is the child of nspawn: killed, it takes all of the host's processes with it."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        with contextlib.suppress(OSError):
            for pid in children.read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
