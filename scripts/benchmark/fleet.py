"""How long `coollm fleet status` takes for so many hosts: light ones, an sshd of this machine's at an address each, which answer what a host has once told.

What is measured is all that is between the administrator and the hosts: connections, key exchanges, one command each, and the table. What a host itself needs
to answer (`coollm status`: about a second, most of it waiting for figures) is stood for by a wait of the same length.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmark.servers import ROOT

ANSWER_SECONDS = 1.0
MOST_ADDRESSES = 15
"""One sshd listens at 16 addresses at most."""

INSTANCE = {"instance": "1", "status": "ok", "version": "0.1.0", "requests_per_second": 120.5, "streams": 12, "failed": 0}
TOLD = {"instances": [INSTANCE, INSTANCE], "configuration": {"generation": 3, "digest": "0" * 64}, "change": None, "notes": []}


def measure(home: Path, counts: tuple[int, ...], rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds of each number of hosts, the median of `rounds`."""
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if sshd is None or os.getuid() != 0:
        return {"not measured": {"value": "sshd and root are needed"}}
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True)
    (home / "told.json").write_text(json.dumps(TOLD))
    addresses = [f"127.0.2.{number}" for number in range(1, max(counts) + 1)]
    lines = [f"HostKey {home}/host", f"AuthorizedKeysFile {home}/user.pub", "StrictModes no", "UsePAM no", "PidFile none", "PermitRootLogin yes"]
    # As many as come at once; and what this machine's administrator has in .bashrc is not read.
    lines += ["SetEnv SHLVL=3", "MaxStartups 200:30:400", f"ForceCommand sleep {ANSWER_SECONDS}; cat {home}/told.json"]
    (home / "ssh_config").write_text(f"Port 2222\nUser root\nIdentityFile {home}/user\nIdentityAgent none\nUserKnownHostsFile {home}/known\nLogLevel ERROR\n")
    key = (home / "host.pub").read_text().split()[:2]
    (home / "known").write_text("".join(f"[{address}]:2222 {' '.join(key)}\n" for address in addresses))
    with contextlib.ExitStack() as stack:
        for first in range(0, len(addresses), MOST_ADDRESSES):
            config = home / f"sshd_config_{first}"
            listens = [f"ListenAddress {address}:2222" for address in addresses[first : first + MOST_ADDRESSES]]
            config.write_text("\n".join([*listens, *lines, ""]))
            server = stack.enter_context(subprocess.Popen([sshd, "-D", "-f", str(config)]))
            stack.callback(server.terminate)
        _wait(addresses)
        return {f"{count} hosts": {"value": round(_median(home, addresses[:count], rounds), 2)} for count in counts}


def _wait(addresses: list[str]) -> None:
    """Until all of them answer."""
    for address in addresses:
        ends = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection((address, 2222), 1) as connection:
                connection.recv(4)
                break
            if time.monotonic() > ends:
                raise SystemExit(f"sshd does not answer at {address}")
            time.sleep(0.1)


def _median(home: Path, addresses: list[str], rounds: int) -> float:
    hosts = [{"name": f"gw{number}", "address": address} for number, address in enumerate(addresses, 1)]
    (home / "fleet.yaml").write_text(yaml.safe_dump({"fleet": {"hosts": hosts, "ssh": {"config_file": str(home / "ssh_config")}}}))
    took = []
    for _ in range(rounds):
        began = time.monotonic()
        command = [sys.executable, "-m", "coollm_cli.main", "fleet", "status", "--inventory", str(home / "fleet.yaml"), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        took.append(time.monotonic() - began)
        told = json.loads(done.stdout or "{}")
        if [row["status"] for row in told.get("hosts", [])] != ["ok"] * len(addresses):
            raise SystemExit(f"not every host answered: {done.stdout[:500]}{done.stderr[:500]}")
    return statistics.median(took)
