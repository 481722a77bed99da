"""What the gateway itself tells the audit log: what administrators do over the admin API, who logs in, who is refused, and who uses the API.

A change is told of before it is made and when it is made; where it cannot be told of, it is not made. That a client used the API is told once a minute with
counts alone: never what was asked. Requests of clients go on while the log cannot be written, unless `compliance.soc2` asks for proof of them, too: then the
gateway is not ready until it can.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from gevent.event import Event

from coollm.core.audit import AuditLog
from coollm.core.errors import GatewayFault, OperationFailed
from coollm.identity.principal import Principal
from coollm.ledger.threads import in_thread

EVERY_SECONDS = 60.0
LEAST_FREE_BYTES = 16 * 1024 * 1024
MOST_COUNTED = 10_000
OTHERS = "others"

_log = logging.getLogger("coollm.audit")


class AuditTrail:
    """One in each worker. Without a log nothing is told, and nothing refused."""

    def __init__(self, log: AuditLog | None, *, is_required: bool) -> None:
        self.log = log
        self._counts: dict[tuple[str, str, str], list[int]] = {}
        self._broken = ""
        self.is_required = is_required

    def run(self, stopped: Event) -> None:
        """Tells who has used the API, once a minute, until it is stopped."""
        while not stopped.is_set():
            stopped.wait(EVERY_SECONDS)
            in_thread(self.flush)

    def count(self, client: str, address: str, refused: str = "") -> None:
        """A request of a client; `refused` is why it was not let in."""
        name = (client, address, refused)
        counts = self._counts.get(name)
        if counts is None:
            if len(self._counts) >= MOST_COUNTED:
                name = (client, OTHERS, refused)
            counts = self._counts.setdefault(name, [0])
        counts[0] += 1

    def flush(self) -> None:
        """Tells what was counted, and blocks. What cannot be told now is told later."""
        taken, self._counts = self._counts, {}
        if self.log is None or not taken:
            return
        try:
            for name in sorted(taken):
                client, address, refused = name
                told = {"refused": refused} if refused else {}
                self.log.write(client, "api-access", address=address, requests=taken[name][0], **told)
                del taken[name]
            self._broken = ""
        except OperationFailed as error:
            self._cannot(error)
            for name, (requests,) in taken.items():
                self._counts.setdefault(name, [0])[0] += requests

    def tell(self, principal: Principal | None, action: str, **details: Any) -> None:
        """A line now. Raises GatewayFault, with which the request ends, if it cannot be written."""
        if self.log is None:
            return
        log, who = self.log, {}
        if principal is not None:
            who = {"kind": principal.kind, "role": principal.role, "address": principal.address, **({"key": principal.via} if principal.via else {})}
        name = principal.name if principal is not None else "nobody"
        try:
            in_thread(lambda: log.write(name, action, **who, **{key: value for key, value in details.items() if value is not None}))
            self._broken = ""
        except OperationFailed as error:
            self._cannot(error)
            message = "the audit log cannot be written: nothing is changed that it could not tell of"
            raise GatewayFault(message, status=503, code="audit_unavailable") from error

    def trouble(self) -> str:
        """Why the log cannot be written, or soon not any more; "" if it can."""
        if self.log is None:
            return ""
        if self._broken:
            return self._broken
        try:
            directory = self.log.path.parent
            disk = os.statvfs(directory if directory.exists() else directory.parent)
        except OSError as error:
            return f"the directory of the audit log: {error.strerror}"
        if self.log.path.exists() and not (self.log.path.is_file() and os.access(self.log.path, os.W_OK)):
            return "the audit log is there, and may not be written"
        free = disk.f_bavail * disk.f_frsize
        return f"the disk of the audit log has {free // 1024 // 1024} MiB left" if free < LEAST_FREE_BYTES else ""

    def _cannot(self, error: OperationFailed) -> None:
        if not self._broken:
            _log.error("the audit log cannot be written", extra={"reason": error.message})
        self._broken = error.message
