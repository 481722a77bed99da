"""What a vendor's key opens: the key itself, or a token that is fetched with it and renewed before it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

RENEW_SECONDS = 300.0


class Credential(Protocol):
    """One key of a provider."""

    def read(self) -> str:
        """What authenticates a request now. Raises VendorError if it cannot be had."""


class FixedKey:
    """A key that is sent as it is."""

    def __init__(self, key: str) -> None:
        self._key = key

    def read(self) -> str:
        """The key."""
        return self._key


class RenewedToken:
    """A token that ends: fetched when it is first needed, and again some minutes before its end; one fetch serves all that wait for it."""

    def __init__(self, fetch: Callable[[], tuple[str, float]]) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._token = ""
        self._ends = 0.0

    def read(self) -> str:
        """A token that is good for some minutes more. Raises VendorError as `fetch` does, which gives the token and its end in seconds of the epoch."""
        if time.time() > self._ends - RENEW_SECONDS:
            with self._lock:
                if time.time() > self._ends - RENEW_SECONDS:
                    self._token, self._ends = self._fetch()
        return self._token
