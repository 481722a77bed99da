"""Takes in limits, clients and administrators that are set while the gateway runs: in every worker, within a second, without a restart."""

from __future__ import annotations

import logging

from gevent.event import Event
from sqlalchemy.exc import SQLAlchemyError

from coollm.core.config.schema import Settings
from coollm.core.errors import OperationFailed
from coollm.identity.roster import Roster, Uses
from coollm.identity.stored import Stored
from coollm.ledger.access_book import NAME as ACCESS
from coollm.ledger.access_book import AccessBook
from coollm.ledger.book import Ledger
from coollm.ledger.override_book import NAME as LIMITS
from coollm.ledger.override_book import OverrideBook
from coollm.ledger.threads import in_thread
from coollm.limits.limiter import Limiter
from coollm.limits.overrides import Overrides
from coollm.limits.scopes import Scopes

LOOK_SECONDS = 0.4

# Uses of keys are written every so many looks.
WRITE_EVERY = 5

_log = logging.getLogger("coollm.limits")


class Watcher:
    """One in each worker. `roster` is who is known now."""

    def __init__(
        self,
        ledger: Ledger,
        overrides: OverrideBook,
        access: AccessBook,
        limiter: Limiter,
        settings: Settings,
        hash_key: bytes | None,
        stored: Stored,
        uses: Uses,
    ) -> None:
        self._ledger = ledger
        self._overrides = overrides
        self._access = access
        self._limiter = limiter
        self._settings = settings
        self._hash_key = hash_key
        self._uses = uses
        self._is_blind = False
        self._turn = 0
        self.roster = Roster(settings, hash_key, stored)
        self._put(limiter.scopes.overrides)

    def run(self, stopped: Event) -> None:
        """Until it is stopped. While the database does not answer, what was set before holds."""
        while not stopped.is_set():
            try:
                self.look()
                self._turn += 1
                if self._turn % WRITE_EVERY == 0:
                    self.write_uses()
            except (SQLAlchemyError, OperationFailed, OSError) as error:
                if not self._is_blind:
                    _log.warning("limits and clients that are set now do not reach this worker", extra={"reason": type(error).__name__})
                self._is_blind = True
            else:
                self._is_blind = False
            stopped.wait(LOOK_SECONDS)

    def look(self) -> None:
        """Takes in what is new. Raises as the books do."""
        limits, access = self._limiter.scopes.overrides.revision, self.roster.stored.revision
        known = {LIMITS: limits, ACCESS: access}

        def newer() -> tuple[Overrides | None, Stored | None]:
            now = self._ledger.revisions()
            changed = {name for name, revision in known.items() if now.get(name, 0) != revision}
            return self._overrides.newer(limits) if LIMITS in changed else None, self._access.newer(access) if ACCESS in changed else None

        set_now, stored = in_thread(newer)
        if stored is not None:
            self.roster = Roster(self._settings, self._hash_key, stored)
            _log.info("clients and administrators were set", extra={"revision": stored.revision})
        if set_now is not None:
            _log.info("limits were set", extra={"revision": set_now.revision})
        if stored is not None or set_now is not None:
            self._put(set_now or self._limiter.scopes.overrides)

    def _put(self, overrides: Overrides) -> None:
        self._limiter.scopes = Scopes(self._settings, overrides, self.roster.clients())

    def write_uses(self) -> None:
        """Writes which keys were used. Raises as the book does."""
        taken = self._uses.take()
        if taken:
            try:
                in_thread(lambda: self._access.note_uses(taken))
            except (SQLAlchemyError, OperationFailed, OSError):
                self._uses.put_back(taken)
                raise
