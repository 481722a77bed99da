"""SQL and fsync block: they run in gevent's pool of threads, and the worker's requests go on meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import gevent

T = TypeVar("T")


def in_thread(work: Callable[[], T]) -> T:
    """What `work` returns or raises. The pool itself would print every exception with its traceback."""

    def guarded() -> tuple[list[T], Exception | None]:
        try:
            return [work()], None
        except Exception as error:  # noqa: BLE001  it is raised again in the greenlet that waits
            return [], error

    found, error = gevent.get_hub().threadpool.apply(guarded)
    if error is not None:
        try:
            raise error
        finally:
            del error  # which holds this frame by its traceback
    return found[0]
