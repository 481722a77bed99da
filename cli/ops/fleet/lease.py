"""One administrator at a time changes a fleet: a claim in the store of every host's gateway, which is one and the same where hosts share Redis. It is prolonged
while the change goes on, and ends by itself when whoever has it is gone.
"""

from __future__ import annotations

import contextlib
import platform
from typing import Any

from coollm_cli import output
from coollm_cli.ops.fleet.inventory import Inventory
from coollm_cli.ops.fleet.ssh import Remote, in_parallel, remotes
from coollm_cli.ops.heartbeat import Heartbeat
from coollm_cli.ops.lock import actor

from coollm.core.errors import CoollmError, LockHeld

CLAIM = "fleet"
LEASE_SECONDS = 60
BEAT_SECONDS = 15.0
SECONDS = 20.0


class FleetLease:
    """The claim of this person on this machine. Hosts whose gateway does not answer cannot keep it."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._owner = f"{actor()}@{platform.node()}"
        self._heartbeat = Heartbeat(lambda: in_parallel(self._inventory.fleet, self._remotes, self._claim), BEAT_SECONDS)
        self._connections = contextlib.ExitStack()
        self._remotes: list[Remote] = []

    def __enter__(self) -> FleetLease:
        """Raises LockHeld."""
        fleet = self._inventory.fleet
        self._remotes = list(self._connections.enter_context(remotes(fleet, fleet.hosts)).values())
        try:
            told = [one for one in in_parallel(fleet, self._remotes, self._claim) if one is not None]
            others = sorted({one["owner"] for one in told if one["owner"] != self._owner})
            if others:
                in_parallel(fleet, self._remotes, self._release)
                raise LockHeld(f"{', '.join(others)} changes this fleet", f"wait until it is done; of one who is gone it ends in {LEASE_SECONDS} s")
        except BaseException:
            self._connections.close()
            raise
        if not told:
            output.warn("no gateway of the fleet can keep the lock: see to it that nobody else changes the fleet now")
        self._heartbeat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._heartbeat.stop()
        in_parallel(self._inventory.fleet, self._remotes, self._release)
        self._connections.close()

    def _claim(self, remote: Remote) -> dict[str, Any] | None:
        """Who has it there now; None where nobody can say."""
        return self._say(remote, "--seconds", str(LEASE_SECONDS))

    def _release(self, remote: Remote) -> None:
        self._say(remote, "--release")

    def _say(self, remote: Remote, *words: str) -> dict[str, Any] | None:
        try:
            done = remote.coollm("fleet", "claim", CLAIM, "--owner", self._owner, *words, "--json", seconds=SECONDS)
            told = done.as_json() if done.exit_code in (0, LockHeld.exit_code) else None
        except CoollmError:
            return None
        return told if isinstance(told, dict) else None
