"""Takes in limits that are set while the gateway runs: in every worker, within a second, without a restart."""

from __future__ import annotations

import logging

from gevent.event import Event
from sqlalchemy.exc import SQLAlchemyError

from coollm.core.config.schema import Settings
from coollm.core.errors import OperationFailed
from coollm.ledger.override_book import OverrideBook
from coollm.ledger.threads import in_thread
from coollm.limits.limiter import Limiter
from coollm.limits.scopes import Scopes

LOOK_SECONDS = 0.4

_log = logging.getLogger("coollm.limits")


class LimitWatcher:
    """One in each worker."""

    def __init__(self, book: OverrideBook, limiter: Limiter, settings: Settings) -> None:
        self._book = book
        self._limiter = limiter
        self._settings = settings
        self._is_blind = False

    def run(self, stopped: Event) -> None:
        """Until it is stopped. While the database does not answer, what was set before holds."""
        while not stopped.is_set():
            try:
                self.look()
            except (SQLAlchemyError, OperationFailed, OSError) as error:
                if not self._is_blind:
                    _log.warning("limits that are set now do not reach this worker", extra={"reason": type(error).__name__})
                self._is_blind = True
            else:
                self._is_blind = False
            stopped.wait(LOOK_SECONDS)

    def look(self) -> None:
        """Takes in what is new. Raises as the book does."""
        revision = self._limiter.scopes.overrides.revision
        found = in_thread(lambda: self._book.newer(revision))
        if found is not None:
            self._limiter.scopes = Scopes(self._settings, found)
            _log.info("limits were set", extra={"revision": found.revision})
