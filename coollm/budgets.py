"""Budgets: what the counters have, what the ledger has, and whether the two agree, while requests come and go.

At one moment a counter is what requests that have ended cost, and what those that run have reserved. So it is compared with what the ledger has of the requests
that had ended by then, without those that were still held, and with what these held. The ledger gets its lines a moment later, and is asked again.

That moment lies between when the store was asked and when it had answered, and requests begin and end meanwhile: the two agree if the counter is between what
the ledger has by the one time and by the other.
"""

from __future__ import annotations

import logging
import time

import gevent
import msgspec
from sqlalchemy.exc import SQLAlchemyError

from coollm.core.clock import now_ms
from coollm.core.errors import OperationFailed
from coollm.core.types import Value
from coollm.ledger.book import Ledger
from coollm.ledger.shipper import Shipper
from coollm.ledger.threads import in_thread
from coollm.limits.charges import budget_charge
from coollm.limits.limiter import Limiter
from coollm.limits.scopes import Scope
from coollm.stores.base import Charge, Standing, Store, StoreError

# All hosts ship their lines within a second or two.
PATIENCE_SECONDS = 4.0
ASK_AGAIN_SECONDS = 0.4
RECOUNT_SECONDS = 60.0
FOREVER = 2**43

_log = logging.getLogger("coollm.budgets")


class BudgetState(Value, frozen=True):
    """One budget in its present period. `held` is the part of `used` that requests which run have reserved; money is in billionths of a dollar. It is not exact
    where single requests of the period were pruned: their sums by the hour are by when they ended, and not by when they were charged.
    """

    scope: Scope
    charge: Charge
    used: int
    held: int
    spent: int
    is_exact: bool = True

    @property
    def difference(self) -> int:
        """What the counter has above the ledger and what runs: 0 if all is well."""
        return self.used - self.held - self.spent

    @property
    def agrees(self) -> bool:
        """Whether nothing is wrong, as far as can be told."""
        return self.difference == 0 or not self.is_exact


class Budgets:
    """Compares, and counts again where a store has forgotten. Its work with the ledger is done in threads."""

    def __init__(self, limiter: Limiter, ledger: Ledger, shipper: Shipper, owner: str) -> None:
        self._limiter = limiter
        self._ledger = ledger
        self._shipper = shipper
        self._owner = owner

    def counted(self, store: Store) -> list[tuple[Scope, Charge, Standing]]:
        """Every budget as the counters have it; the ledger is not asked. Raises StoreError."""
        now = time.time()
        found = [(scope, charge) for scope in self._limiter.scopes.budgeted() if (charge := budget_charge(scope, 0, now)) is not None]
        standing = store.standing([charge for _, charge in found]) if found else {}
        return [(scope, charge, standing[charge.counter]) for scope, charge in found]

    def states(self, store: Store, *, patience: float = 0.0) -> list[BudgetState]:
        """Every budget; with `patience` the ledger is asked again until all agree, so many seconds. Raises StoreError, and as the ledger does."""
        asked_ms = now_ms()
        counted = self.counted(store)
        answered_ms = now_ms()
        deadline = time.monotonic() + patience
        while True:
            in_thread(self._shipper.ship)
            found = [self._state(*one, asked_ms, answered_ms) for one in counted]
            if time.monotonic() >= deadline or all(one.agrees for one in found):
                return found
            gevent.sleep(ASK_AGAIN_SECONDS)

    def _state(self, scope: Scope, charge: Charge, standing: Standing, asked_ms: int, answered_ms: int) -> BudgetState:
        running = sorted({hold.partition("/")[0] for hold in standing.held})
        starts, ends = charge.span.starts * 1000, (charge.span.ends or FOREVER) * 1000
        whose = self._limiter.scopes.members(scope)

        def spent_by(until_ms: int) -> int:
            return self._ledger.spent(scope.kind, whose, starts, ends, until_ms, [*running, *standing.held])

        most, least, pruned = in_thread(lambda: (spent_by(answered_ms), spent_by(asked_ms), self._ledger.pruned_before()))
        held = sum(standing.held.values())
        spent = min(max(standing.used - held, least), most)
        return BudgetState(scope=scope, charge=charge, used=standing.used, held=held, spent=spent, is_exact=pruned <= starts)

    def recount(self, store: Store) -> None:
        """Adds to the counters what the ledger has and they have not: after a store has forgotten, and where a budget is new, or has begun anew.

        Only ever more: a ledger that lags behind must not make room. One worker at a time; raises StoreError if it cannot be done now.
        """
        if not self._limiter.scopes.budgeted():
            return
        if store.claim("recount", self._owner, RECOUNT_SECONDS) != self._owner:
            raise StoreError("another worker counts the budgets again")
        try:
            missing = [one for one in self.states(store, patience=PATIENCE_SECONDS) if one.difference < 0]
            store.charge([msgspec.structs.replace(one.charge, amount=-one.difference) for one in missing])
        except (SQLAlchemyError, OperationFailed, OSError) as error:
            raise StoreError(f"its budgets cannot be counted again: the ledger does not answer ({type(error).__name__})") from error
        finally:
            store.release("recount", self._owner)
        if missing:
            _log.warning("budgets were counted again from the ledger", extra={"budgets": [f"{one.scope.kind}:{one.scope.id}" for one in missing]})

    def recount_at_start(self, store: Store) -> None:
        """What was spent before a budget was configured counts in its period too."""
        try:
            self.recount(store)
        except StoreError as error:
            _log.info("the budgets were not counted again", extra={"reason": str(error)})
