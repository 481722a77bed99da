"""Tells the store that this worker lives, and settles what dead ones have left behind: at its estimate, flagged, within half a minute."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
from gevent.event import Event

from coollm.core.money import nano_usd
from coollm.core.types import Target, Usage
from coollm.limits.settlement import Ending
from coollm.news import Exchange
from coollm.stores.base import Correction, Orphan, Settlement, Store, StoreError
from coollm.telemetry.record import RequestRecord

BEAT_SECONDS = 1.0
BEATS_OF_A_REAP = 5
DEAD_AFTER_SECONDS = 16.0

_encode = msgspec.json.Encoder().encode

_log = logging.getLogger("coollm.keeper")


class Note(msgspec.Struct, frozen=True):
    """What is known of a request when it is admitted, for the line in the log if its worker dies. `charged` is the time by which budgets have their periods."""

    request_id: str
    client: str
    team: str
    route: str
    model: str
    input_tokens: int
    output_tokens: int
    charged: float = 0.0

    def write(self) -> str:
        """As text."""
        return _encode(self).decode()


class Keeper:
    """Runs in each worker, beside its requests.

    `find` gives the target of a vendor key and a model's name; `cost_in_ledger` what a request has cost, in billionths of a dollar, if its line was written
    before its worker died, else None.
    """

    def __init__(
        self,
        store: Store,
        owner: str,
        exchange: Exchange,
        find: Callable[[str, str], Target | None],
        cost_in_ledger: Callable[[str], int | None],
        tell: Callable[[RequestRecord], None],
    ) -> None:
        self._store = store
        self._owner = owner
        self._exchange = exchange
        self._find = find
        self._cost_in_ledger = cost_in_ledger
        self._tell = tell

    def run(self, stopped: Event) -> None:
        """Until it is stopped. A store that does not answer is asked again with the next beat."""
        beats = 0
        while not stopped.is_set():
            try:
                self.beat(may_reap=beats % BEATS_OF_A_REAP == 0)
            except StoreError as error:
                if beats % BEATS_OF_A_REAP == 0:
                    _log.warning("the store does not hear this worker", extra={"reason": str(error)})
            beats += 1
            stopped.wait(BEAT_SECONDS)

    def beat(self, *, may_reap: bool = True) -> None:
        """One beat. Raises StoreError."""
        self._exchange.hear(self._store.beat(self._owner, self._exchange.write()))
        if not may_reap:
            return
        orphans = self._store.orphans(DEAD_AFTER_SECONDS)
        if not orphans or self._store.claim("orphans", self._owner, DEAD_AFTER_SECONDS) != self._owner:
            return
        told: dict[str, int] = {}
        # The hold of an attempt, whose id is longer, tells which vendor key was at work when the worker died.
        for orphan in sorted(orphans, key=lambda orphan: orphan.id, reverse=True):
            request_id = orphan.id.partition("/")[0]
            if request_id not in told:
                told[request_id] = self._cost_of(orphan)
            spent = (Correction(counter=one.counter, bucket=one.bucket, difference=told[request_id] - one.amount) for one in orphan.periods)
            self._store.settle([Settlement(hold=orphan.id, corrections=tuple(spent))])
        self._store.release("orphans", self._owner)

    def _cost_of(self, orphan: Orphan) -> int:
        """What its request has cost, by its line; by the one that is written here where there is none. Its rates stand at their estimates."""
        note = msgspec.json.decode(orphan.note, type=Note)
        cost = self._cost_in_ledger(note.request_id)
        if cost is not None:
            return cost
        record = RequestRecord(note.request_id, note.client, note.route)
        record.team = note.team
        record.requested_model = note.model
        record.target = self._find(orphan.key, note.model)
        record.charged = note.charged
        record.end(Ending.WORKER_DIED, Usage(input_tokens=note.input_tokens, output_tokens=note.output_tokens, estimated=True))
        self._tell(record)
        return nano_usd(record.cost_usd or 0.0)
