"""Memory of large bodies: kept for the next ones, and given back to the kernel when nobody has needed it for a while.

glibc gives back the end of its heap whenever enough of it is free. Under bodies of a megabyte that is after each, and to get it again, page by page, took a
fifth of such a request. So it is told not to, and asked to do so every LOOK_SECONDS, if so much was free at two looks.

Source: mallopt(3), mallinfo(3), malloc_trim(3). A libc without them goes on as it does.
"""

from __future__ import annotations

import ctypes

import gevent

LOOK_SECONDS = 10.0

# Free memory that a worker keeps at most.
KEPT_BYTES = 32 * 1024 * 1024

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1

# A larger block is a mapping of its own, and goes back when it is free.
_LARGEST_BLOCK_BYTES = KEPT_BYTES // 2


class _Information(ctypes.Structure):
    """`struct mallinfo2`. `keepcost` is what could be given back from the end of the heap."""

    _fields_ = tuple(
        (name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    )


class SpareMemory:
    """That of this process, from the moment that this is made."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._free_before = 0
        self.is_kept = all(hasattr(self._libc, name) for name in ("mallopt", "mallinfo2", "malloc_trim"))
        if self.is_kept:
            self._libc.mallinfo2.restype = _Information
            self._libc.malloc_trim.argtypes = (ctypes.c_size_t,)
            self._libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
            self._libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK_BYTES)

    def run(self) -> None:
        """Until the worker ends."""
        while self.is_kept:
            gevent.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Gives back what was free at the last look and is now, but for KEPT_BYTES."""
        free = self._libc.mallinfo2().keepcost
        if min(free, self._free_before) > KEPT_BYTES:
            self._libc.malloc_trim(KEPT_BYTES)
            free = 0
        self._free_before = free
