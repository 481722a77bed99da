"""One generation of the configuration after the other, in a worker that goes on serving: new requests have the new one, those under way end with their own.

The same where secrets or vendor keys have changed, with the generation as it is.
"""

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
from coollm.core.config.inputs import input_files, stamp
from coollm.core.errors import ConfigurationError, CoollmError
from coollm.services import Part, Services

LOOK_SECONDS = 0.2

CHANGEOVER = "coollm.changeover"
"""Where the application has its own."""

_log = logging.getLogger("coollm.config")

Build = Callable[[int, Services], Services]
"""Makes the services of a generation, by its number, after those that are in force. Raises CoollmError."""


class Changeover:
    """Looks what is in force, and changes over to it. `refused` is what could not be built: its generation and stamp, and why."""

    def __init__(self, app: GatewayApp, generations: Generations, state: Path, build: Build) -> None:
        self._app = app
        self._generations = generations
        self._state = state
        self._build = build
        self._seen: tuple[tuple[int, int], ...] = ()
        self._pointer: Pointer | None = None
        self._stamp = app.services.stamp
        self._stamped = app.services.generation
        self._users: dict[int, tuple[Part, int]] = {}
        self.refused: tuple[int, str, str] | None = None
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
        """Changes over if something else is in force than what is served."""
        seen = tuple(_signature(path) for path in (self._generations.pointer_file, *input_files(self._state)))
        has_changed = seen != self._seen
        if has_changed:
            self._pointer = self._generations.pointer()
        wanted = self._pointer.effective(time.time()) if self._pointer is not None else 0
        if has_changed or wanted != self._stamped:
            self._stamp, self._stamped = stamp(wanted, self._state), wanted
            self._seen = seen
        if self._stamp == self._app.services.stamp or (self.refused is not None and self.refused[1] == self._stamp):
            return
        self._change_over(wanted)

    def _change_over(self, number: int) -> None:
        before = self._app.services
        try:
            services = self._build(number, before)
        except CoollmError as error:
            reason = str(error.faults[0]) if isinstance(error, ConfigurationError) else error.message
            self.refused = (number, self._stamp, reason)
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


def _signature(path: Path) -> tuple[int, int]:
    """Another one when a file has been replaced."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def work_beside_requests(services: Services, before: Services | None = None) -> None:
    """Starts what runs beside the requests of a generation, but for what was started with the one before."""
    services.metrics.generation.set(services.generation)
    gevent.spawn(services.keeper.run, services.stopped)
    gevent.spawn(services.watcher.run, services.stopped)
    gevent.spawn(services.audit.run, services.stopped)
    gevent.spawn(services.anomalies.run, services.stopped)
    if services.retention is not None:
        gevent.spawn(services.retention.run, services.stopped)
    if before is None:
        gevent.spawn(services.usage_log.run)
        gevent.spawn(services.metrics.run)
    if before is None or services.shipping is not before.shipping:
        gevent.spawn(services.shipping.run)
    gevent.spawn(services.budgets.recount_at_start, services.store)
