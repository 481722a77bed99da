"""Tells the store that this worker lives, and settles what dead ones have left behind: at its estimate, flagged, within half a minute."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent
import msgspec
import orjson

from coollm.core.money import nano_usd
from coollm.core.types import Target, Usage
from coollm.limits.limiter import BUDGETED_OUTPUT_TOKENS, Limiter
from coollm.limits.settlement import Ending
from coollm.stores.base import Orphan, Store, StoreError
from coollm.telemetry.record import RequestRecord

BEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 16.0

_log = logging.getLogger("coollm.keeper")


class Note(msgspec.Struct, frozen=True):
    """What is known of a request when it is admitted, for the line in the log if its worker dies."""

    request_id: str
    client: str
    route: str
    model: str
    input_tokens: int
    output_tokens: int
    most_input_tokens: int = 0
    max_output_tokens: int | None = None
    choices: int = 1
    admitted: float = 0.0

    def write(self) -> str:
        """As text."""
        return orjson.dumps(msgspec.structs.asdict(self)).decode()


class Keeper:
    """Runs in each worker, beside its requests.

    `find` gives the target of a vendor key and a model's name; `cost_in_ledger` what a request has cost, in billionths of a dollar, if its line was written
    before its worker died, else None.
    """

    def __init__(
        self,
        store: Store,
        owner: str,
        limiter: Limiter,
        find: Callable[[str, str], Target | None],
        cost_in_ledger: Callable[[str], int | None],
        tell: Callable[[RequestRecord], None],
    ) -> None:
        self._store = store
        self._owner = owner
        self._limiter = limiter
        self._find = find
        self._cost_in_ledger = cost_in_ledger
        self._tell = tell

    def run(self) -> None:
        """Until the worker ends. A store that does not answer is asked again with the next beat."""
        while True:
            try:
                self.beat()
            except StoreError as error:
                _log.warning("the store does not hear this worker", extra={"reason": str(error)})
            gevent.sleep(BEAT_SECONDS)

    def beat(self) -> None:
        """One beat. Raises StoreError."""
        self._store.beat(self._owner)
        told = set()
        # The hold of an attempt, whose id is longer, tells which vendor key was at work when the worker died.
        for orphan in sorted(self._store.reap(DEAD_AFTER_SECONDS), key=lambda orphan: orphan.id, reverse=True):
            request_id = orphan.id.partition("/")[0]
            if request_id not in told:
                told.add(request_id)
                self._settle(orphan)

    def _settle(self, orphan: Orphan) -> None:
        """The store has let the hold go, and its rates stand at their estimates: here the request gets its line, and its budgets what the line says."""
        note = msgspec.json.decode(orphan.note, type=Note)
        target = self._find(orphan.key, note.model)
        cost = self._cost_in_ledger(note.request_id)
        if cost is None:
            record = RequestRecord(note.request_id, note.client, note.route)
            record.requested_model = note.model
            record.target = target
            record.end(Ending.WORKER_DIED, Usage(input_tokens=note.input_tokens, output_tokens=note.output_tokens, estimated=True))
            self._tell(record)
            cost = nano_usd(record.cost_usd or 0.0)
        is_attempt = "/" in orphan.id  # it is an attempt that the budgets were charged for
        if is_attempt and target is not None:
            most = (note.max_output_tokens or target.max_tokens or BUDGETED_OUTPUT_TOKENS) * note.choices
            dearest = Usage(input_tokens=note.most_input_tokens, output_tokens=most)
            self._store.settle((), self._limiter.budget_corrections(note.client, target, dearest, cost, note.admitted))
