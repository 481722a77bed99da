"""The load balancers of a fleet, by haproxy's runtime socket: what each of them thinks of the hosts, and changes of weights that no reload is needed for.

Source: the management guide of haproxy 2.6 (show stat, set server, set weight).
"""

from __future__ import annotations

import csv
import io
import socket
from collections.abc import Sequence
from typing import Any

from coollm_cli.ops.fleet.inventory import Inventory
from coollm_cli.ops.fleet.ssh import Remote, ask_again

from coollm.core.config.fleet import LoadBalancer
from coollm.core.errors import OperationFailed, Unreachable

SECONDS = 5.0
READY, DRAIN = "ready", "drain"

# Python is what every host of ours has: socat and nc may be missing.
TALK = """
import socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1]); s.sendall(sys.stdin.buffer.read())
while True:
    piece = s.recv(65536)
    if not piece:
        break
    sys.stdout.buffer.write(piece)
"""

FIGURES = {"status": "status", "weight": "weight", "sessions": "scur", "queued": "qcur", "per_second": "rate", "check": "check_status", "refused": "econ"}
NUMBERS = ("weight", "sessions", "queued", "per_second", "refused")


class Balancers:
    """All of them."""

    def __init__(self, inventory: Inventory, remotes: dict[str, Remote]) -> None:
        self._all = inventory.fleet.load_balancers
        self._remotes = remotes

    def __len__(self) -> int:
        return len(self._all)

    def servers(self, names: Sequence[str] = ()) -> list[dict[str, Any]]:
        """What each says of every host: {"load_balancer", "host", "status", "weight", "sessions", …}. Raises Unreachable and OperationFailed."""
        found = []
        for one in self._all:
            for row in csv.DictReader(io.StringIO(self._say(one, f"show stat {one.backend} 4 -1").lstrip("# "))):
                if not names or row["svname"] in names:
                    figures = {name: row.get(column) or None for name, column in FIGURES.items()}
                    figures |= {name: int(figures[name] or 0) for name in NUMBERS}
                    found.append({"load_balancer": one.name, "host": row["svname"], **figures})
        return found

    def set_state(self, host: str, state: str) -> None:
        """Lets no new request come to a host (`drain`), or lets them come again (`ready`). Raises Unreachable and OperationFailed."""
        for one in self._all:
            self._change(one, f"set server {one.backend}/{host} state {state}")

    def set_weight(self, host: str, weight: str) -> None:
        """A share such as `50%` of the weight that the configuration says, or a number. Raises Unreachable and OperationFailed."""
        for one in self._all:
            self._change(one, f"set weight {one.backend}/{host} {weight}")

    def add(self, host: str, address: str, weight: int) -> None:
        """A host of which haproxy's file knows nothing yet, until its next reload. Raises Unreachable and OperationFailed."""
        for one in self._all:
            place = f"{one.backend}/{host}"
            said = self._say(one, f"add server {place} {address} check inter 1s fall 2 rise 2 slowstart 5s weight {weight}").strip()
            if said and not any(word in said for word in ("New server registered", "Already exists")):
                raise OperationFailed(
                    f"{one.name}: add server {place}: {said.splitlines()[0][:200]}", "haproxy 2.6 or newer; coollm lb render, coollm lb reload"
                )
            self._change(one, f"enable health {place}")
            self._change(one, f"enable server {place}")

    def remove(self, host: str) -> None:
        """A host to which nothing goes any more: out of the list, where it is not in haproxy's file, and else out of service. Raises as `add`."""
        for one in self._all:
            place = f"{one.backend}/{host}"
            self._change(one, f"set server {place} state maint")
            self._say(one, f"del server {place}")

    def _change(self, one: LoadBalancer, command: str) -> None:
        said = self._say(one, command).strip()
        if said:
            raise OperationFailed(f"{one.name}: {command}: {said.splitlines()[0][:200]}", "coollm lb status shows the servers that it has")

    def _say(self, one: LoadBalancer, command: str) -> str:
        if one.address is not None:
            remote, data = self._remotes[one.name], f"{command}\n".encode()
            done = ask_again(lambda: remote.run("python3", "-c", TALK, one.socket, data=data, seconds=30.0))
            if done.exit_code != 0:
                reason = (done.errors.strip().splitlines() or ["it does not answer"])[-1]
                raise Unreachable(f"{one.name}: {one.socket}: {reason[:200]}", "stats socket … level admin, in haproxy's configuration")
            return done.output
        try:
            with socket.socket(socket.AF_UNIX) as talk:
                talk.settimeout(SECONDS)
                talk.connect(one.socket)
                talk.sendall(f"{command}\n".encode())
                pieces = []
                while piece := talk.recv(65536):
                    pieces.append(piece)
        except OSError as error:
            raise Unreachable(f"{one.name}: {one.socket}: {error.strerror or error}", "stats socket … level admin, in haproxy's configuration") from error
        return b"".join(pieces).decode("utf-8", "replace")
