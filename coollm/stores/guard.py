"""What happens while the store fails: a breaker on its errors and its latency, and the rule of `storage.runtime.on_failure`.

A store that answers slowly is worse than one that is dead, for every request waits for it: three bad answers in a row open the breaker, and from then on the
store is only asked whether it answers again, once a second, until it does so in time. No restart is needed.

What was asked before a late answer came is late for the same reason, be it a disk that syncs or a network that stalls for a moment, and counts as one with it.

| rule  | while the store fails                                                                                                                    |
|-------|------------------------------------------------------------------------------------------------------------------------------------------|
| deny  | nothing is admitted                                                                                                                      |
| local | each worker keeps its share of every limit by itself; what a budget would have to allow is not admitted, for a budget is one sum for all |
| allow | everything is admitted, and nothing is counted                                                                                           |

What requests used that were admitted before is owed to the store, and paid when it answers again.

A store that has forgotten its counters (a Redis that kept nothing through a restart) counts as failing too, until no window reaches back to before that; then
its budgets are counted again from the ledger, and it is used as a new one. What ran meanwhile is charged to the new one when it ends.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import gevent
import msgspec

from coollm.core.files import replace_file
from coollm.stores.base import (
    WINDOW_SECONDS,
    Candidate,
    Charge,
    Cooldown,
    Decision,
    Hold,
    Orphan,
    Settlement,
    Standing,
    Store,
    StoreError,
    StoreForgot,
)
from coollm.stores.memory import MemoryStore

T = TypeVar("T")

OnFailure = Literal["deny", "local", "allow"]

BAD_ANSWERS = 3
SLOW_SECONDS = 0.25
PROBE_SECONDS = 1.0

# The longest window of a minute, and the bucket in which it began.
FORGOTTEN_SECONDS = WINDOW_SECONDS + 2.0

# So many settlements are remembered while the store fails; of those beyond, the estimates stand.
MOST_OWED = 20_000

_log = logging.getLogger("coollm.stores")


class GuardedStore:
    """A Store that goes on without the one it wraps, as the rule says. `share` is the part of each limit that this worker may use by itself."""

    took = None

    def __init__(self, store: Store, on_failure: OnFailure, share: float, clock: Callable[[], float] = time.monotonic, remembered: Path | None = None) -> None:
        """`remembered` is the file that has the store's identity from one start of this host's gateway to the next."""
        self._store = store
        self._remembered = remembered
        self._forgot_at: float | None = None
        self._is_known = False
        self._rule = on_failure
        self._share = share
        self._clock = clock
        self._bad = 0
        self._late_at = clock()
        self._local: MemoryStore | None = None
        self._held_locally: set[str] = set()
        self._owed: deque[Callable[[Store], None]] = deque(maxlen=MOST_OWED)
        self.is_failing = False
        self.reason = ""
        self.epoch = 0
        self.recount: Callable[[Store], None] = lambda _: None
        try:
            self._check_identity()
        except StoreError as error:
            self._fail(str(error))

    def decide(self, charges: Sequence[Charge], candidates: Sequence[Candidate], own: Hold | None = None, leased: Hold | None = None) -> Decision:
        if not self.is_failing:
            started = self._clock()
            try:
                # As `_ask` does it, but for its calls: this is the hot path.
                decision = self._store.decide(charges, candidates, own, leased)
                told = self._store.took
                took = self._clock() - started if told is None else told
                if self._bad or took > SLOW_SECONDS:
                    self._judge_time(started, took)
                return decision
            except StoreForgot as error:
                self._forget(str(error))
                raise
            except StoreError as error:
                self._judge(str(error))
                # Its answer may have been lost, and not its work: what it may hold for us is to be taken back.
                lost = [hold.id for hold in (own, leased) if hold is not None]
                self._owed.append(lambda store: store.cancel(lost))
                if self._rule == "deny":
                    raise
                return self._decide_without(charges, candidates, own, leased, str(error))
        return self._decide_without(charges, candidates, own, leased, self.reason)

    def settle(self, settlements: Sequence[Settlement]) -> None:
        here = [one for one in settlements if one.hold in self._held_locally] if self._held_locally else []
        if here:
            self._held_locally.difference_update(one.hold for one in here)
            self._fallback().settle(here)
        there = [one for one in settlements if one not in here] if here else settlements
        if there:
            self._do_or_owe(lambda store: store.settle(there))

    def cancel(self, holds: Sequence[str]) -> None:
        self._do_or_owe(lambda store: store.cancel(holds))

    def _do_or_owe(self, work: Callable[[Store], None]) -> None:
        """Does it now, or when the store answers again. Raises StoreError where it failed now."""
        if self.is_failing:
            self._owed.append(work)
            return
        try:
            self._ask(work)
        except StoreForgot:
            raise
        except StoreError:
            self._owed.append(work)
            raise

    def beat(self, owner: str, news: bytes) -> Sequence[bytes]:
        heard = self._only(lambda store: store.beat(owner, news))
        self._pay()
        return heard

    def orphans(self, seconds: float) -> Sequence[Orphan]:
        return self._only(lambda store: store.orphans(seconds))

    def cool(self, key: str, seconds: float, cause: str) -> None:
        if self.is_failing:
            self._fallback().cool(key, seconds, cause)
        else:
            self._ask(lambda store: store.cool(key, seconds, cause))

    def cooldowns(self) -> Mapping[str, Cooldown]:
        return self._fallback().cooldowns() if self.is_failing else self._ask(lambda store: store.cooldowns())

    def used(self, charges: Sequence[Charge]) -> Mapping[str, int]:
        return self._fallback().used(charges) if self.is_failing else self._ask(lambda store: store.used(charges))

    def standing(self, charges: Sequence[Charge]) -> Mapping[str, Standing]:
        return self._only(lambda store: store.standing(charges))

    def charge(self, charges: Sequence[Charge]) -> None:
        self._only(lambda store: store.charge(charges))

    def claim(self, name: str, owner: str, seconds: float) -> str:
        return self._only(lambda store: store.claim(name, owner, seconds))

    def release(self, name: str, owner: str) -> None:
        self._only(lambda store: store.release(name, owner))

    def identity(self) -> str:
        return self._only(lambda store: store.identity())

    def ping(self) -> None:
        self._only(lambda store: store.ping())

    def close(self) -> None:
        self._store.close()

    def _decide_without(self, charges: Sequence[Charge], candidates: Sequence[Candidate], own: Hold | None, leased: Hold | None, reason: str) -> Decision:
        if self._rule == "deny":
            raise StoreError(reason)
        if self._rule == "allow":
            return self._fallback().decide((), [Candidate(key=candidate.key) for candidate in candidates])
        shared = [candidate for candidate in candidates if not any(charge.span.kind == "period" for charge in candidate.charges)]
        if candidates and not shared:
            raise StoreError(f"{reason}; a budget is not spent without it")
        local = [self._share_of(candidate) for candidate in shared]
        decision = self._fallback().decide([self._share_of_charge(charge) for charge in charges], local, own, leased)
        if decision.chosen is None:
            return decision
        self._held_locally.update(hold.id for hold in (own, leased) if hold is not None)
        # The caller counts the candidates that it gave.
        return msgspec.structs.replace(decision, chosen=candidates.index(shared[decision.chosen]))

    def _share_of(self, candidate: Candidate) -> Candidate:
        return Candidate(key=candidate.key, charges=tuple(self._share_of_charge(charge) for charge in candidate.charges))

    def _share_of_charge(self, charge: Charge) -> Charge:
        return msgspec.structs.replace(charge, limit=max(1, int(charge.limit * self._share)))

    def _fallback(self) -> MemoryStore:
        if self._local is None:
            self._local = MemoryStore()
        return self._local

    def _only(self, work: Callable[[Store], T]) -> T:
        """What has no stand-in. Raises StoreError at once while the store fails."""
        if self.is_failing:
            raise StoreError(self.reason)
        return self._ask(work)

    def _ask(self, work: Callable[[Store], T]) -> T:
        """Asks the store, and judges how it answered."""
        started = self._clock()
        try:
            answer = work(self._store)
        except StoreForgot as error:
            self._forget(str(error))
            raise
        except StoreError as error:
            self._judge(str(error))
            raise
        self._judge_time(started, self._took(started))
        return answer

    def _took(self, started: float) -> float:
        told = self._store.took
        return self._clock() - started if told is None else told

    def _judge_time(self, started: float, took: float) -> None:
        if took <= SLOW_SECONDS:
            self._bad = 0
        elif started >= self._late_at:
            self._late_at = self._clock()
            self._judge(f"it answers in {took * 1000:.0f} ms")

    def _judge(self, fault: str) -> None:
        self._bad += 1
        if self._bad >= BAD_ANSWERS:
            self._fail(fault)

    def _fail(self, fault: str) -> None:
        if self.is_failing:
            return
        self.is_failing, self.reason = True, fault
        _log.error("the store fails", extra={"reason": fault, "on_failure": self._rule})
        gevent.spawn(self._wait_for_recovery)

    @property
    def seconds_until_trusted(self) -> float | None:
        """Of one that answers, and is another store than before or has lost its counters: how long it is not used yet. None of any other."""
        if not self.is_failing or self._forgot_at is None:
            return None
        return max(0.0, FORGOTTEN_SECONDS - (self._clock() - self._forgot_at))

    def _check_identity(self) -> None:
        """Whether the store is still the one that this host's gateway used last. Raises StoreError; then it is asked again when it answers."""
        identity = self._store.identity()
        self._is_known = True
        known = self._known()
        if known is None:
            self._remember(identity)
        elif known != identity:
            self._forget("it is not the one that was used before")

    def _known(self) -> str | None:
        """The identity of the store that this host's gateway used last; None where none is remembered."""
        try:
            return self._remembered.read_text("utf-8") if self._remembered else None
        except FileNotFoundError:
            return None

    def _remember(self, identity: str) -> None:
        if self._remembered is not None:
            # In one step: another worker that starts now must not read a part of it.
            replace_file(self._remembered, identity.encode())

    def _forget(self, fault: str) -> None:
        self._forgot_at = self._clock()
        # What is owed was charged to counters that are gone: the ledger has it.
        self._owed.clear()
        self._fail(fault)

    def _wait_for_recovery(self) -> None:
        while self.is_failing:
            gevent.sleep(PROBE_SECONDS)
            self.probe()

    def _pay(self) -> None:
        """Settles what could not be settled while the store failed. Raises StoreError; what is not paid is owed still."""
        while self._owed:
            self._owed[0](self._store)
            self._owed.popleft()

    def probe(self) -> None:
        """Asks the store whether it answers, in time: then it is used again, and gets what it is owed."""
        started = self._clock()
        try:
            self._store.ping()
            if self._took(started) > SLOW_SECONDS:
                return
            if self._forgot_at is None:
                self._check_identity_again()
            if self._forgot_at is not None and not self._begin_anew(self._forgot_at):
                return
            self._pay()
        except StoreError as error:
            self.reason = str(error)
            return
        self.is_failing, self._bad, self.reason = False, 0, ""
        _log.warning("the store answers again")

    def _check_identity_again(self) -> None:
        """A store that was away may have been restarted: an empty decision tells whether it is the same. Raises StoreError."""
        if not self._is_known:
            self._check_identity()
            return
        try:
            self._store.decide((), ())
        except StoreForgot as error:
            self._forget(str(error))
            self.reason = str(error)

    def _begin_anew(self, since: float) -> bool:
        """Whether the store that had forgotten can be used again: no window reaches back to before, and its budgets are counted. Raises StoreError."""
        if self._clock() - since < FORGOTTEN_SECONDS:
            return False
        identity = self._store.identity()
        self.recount(self._store)
        self.epoch += 1
        self._remember(identity)
        self._forgot_at = None
        return True
