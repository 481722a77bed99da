"""The contract of what keeps answers: a bounded store of bytes by their key, in which one at a time may be the one who fetches what is missing.

What is not there is claimed by whoever asks first; the others wait until it is there, or until the claim is given up or runs out.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

CLAIM_SECONDS = 4.0


class Absent(enum.Enum):
    """Why there is no answer yet: it is now the caller's to fetch, or another fetches it."""

    YOURS = "yours"
    FETCHED_BY_ANOTHER = "fetched by another"


class AnswerStore(Protocol):
    """Kept answers. Every method may raise StoreError and nothing else."""

    def look(self, key: str, owner: str) -> bytes | Absent:
        """What is kept; else whether `owner` has claimed it now, for CLAIM_SECONDS."""

    def renew(self, keys: Sequence[str], owner: str) -> None:
        """Prolongs claims."""

    def keep(self, key: str, value: bytes, seconds: int, owner: str) -> None:
        """Keeps a value for a time, and gives up the claim. What was not asked for longest makes room."""

    def give_up(self, key: str, owner: str) -> None:
        """Gives up a claim: another may fetch it."""

    def size(self) -> int:
        """Bytes that are kept now."""

    def close(self) -> None:
        """Lets go of connections and files."""
