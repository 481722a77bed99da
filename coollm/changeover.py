"""One generation of the configuration after the other, in a worker that goes on serving: new requests have the new one, those under way end with their own."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import gevent

from coollm.app import GatewayApp
from coollm.core.config.generations import Generations, Pointer
from coollm.core.errors import ConfigurationError, CoollmError
from coollm.services import Part, Services

LOOK_SECONDS = 0.2

CHANGEOVER = "coollm.changeover"
"""Where the application has its own."""

_log = logging.getLogger("coollm.config")

Build = Callable[[int, Path, Services], Services]
"""Makes the services of a generation, by its number and file, after those that are in force. Raises CoollmError."""


class Changeover:
    """Looks which generation is in force, and changes over to it. `refused` is the number of one that could not be built, and why."""

    def __init__(self, app: GatewayApp, generations: Generations, build: Build) -> None:
        self._app = app
        self._generations = generations
        self._build = build
        self._seen: tuple[int, int] | None = None
        self._pointer: Pointer | None = None
        self._users: dict[int, tuple[Part, int]] = {}
        self.refused: tuple[int, str] | None = None
        self._hold(app.services)

    def run(self) -> None:
        """Until the worker ends."""
        while True:
            gevent.sleep(LOOK_SECONDS)
            try:
                self.look()
            except Exception:  # noqa: BLE001  what is in force stays in force
                _log.exception("the configuration could not be changed over")

    def look(self) -> None:
        """Changes over if another generation is in force than the one that is served."""
        try:
            found = os.stat(self._generations.pointer_file)
        except FileNotFoundError:
            return
        if (found.st_ino, found.st_mtime_ns) != self._seen:
            self._pointer = self._generations.pointer()
            self._seen = (found.st_ino, found.st_mtime_ns)
        if self._pointer is None:
            return
        wanted = self._pointer.effective(time.time())
        if wanted == self._app.services.generation or (self.refused is not None and self.refused[0] == wanted):
            return
        self._change_over(wanted)

    def _change_over(self, number: int) -> None:
        before = self._app.services
        try:
            services = self._build(number, self._generations.get(number).file, before)
        except CoollmError as error:
            reason = str(error.faults[0]) if isinstance(error, ConfigurationError) else error.message
            self.refused = (number, reason)
            _log.error("a generation of the configuration cannot be served", extra={"generation": number, "reason": reason})
            return
        self.refused = None
        self._hold(services)
        self._app.services = services
        work_beside_requests(services, before)
        before.stopped.set()  # who holds reservations is the same, and is heard of from now on by the new one
        self._release_when_unused(before)
        _log.info("configuration changed over", extra={"generation": number, "before": before.generation})

    def _hold(self, services: Services) -> None:
        for part in services.parts():
            self._users[id(part)] = (part, self._users.get(id(part), (part, 0))[1] + 1)

    def _release_when_unused(self, services: Services) -> None:
        """Its requests hold the gateway: when the last of them has ended, nobody does."""
        parts = services.parts()
        loop = gevent.get_hub().loop

        def release() -> None:
            for part in parts:
                count = self._users[id(part)][1] - 1
                if count:
                    self._users[id(part)] = (part, count)
                else:
                    del self._users[id(part)]
                    with contextlib.suppress(OSError):
                        part.close()
            # Settings and pools hold each other in cycles: 32 generations came to 25 MB before Python looked for them by itself.
            gc.collect()

        weakref.finalize(services.gateway, lambda: loop.run_callback(gevent.spawn, release)).atexit = False


def work_beside_requests(services: Services, before: Services | None = None) -> None:
    """Starts what runs beside the requests of a generation, but for what was started with the one before."""
    services.metrics.generation.set(services.generation)
    gevent.spawn(services.keeper.run, services.stopped)
    gevent.spawn(services.watcher.run, services.stopped)
    if services.retention is not None:
        gevent.spawn(services.retention.run, services.stopped)
    if before is None:
        gevent.spawn(services.usage_log.run)
        gevent.spawn(services.metrics.run)
    if before is None or services.shipping is not before.shipping:
        gevent.spawn(services.shipping.run)
    gevent.spawn(services.budgets.recount_at_start, services.store)
