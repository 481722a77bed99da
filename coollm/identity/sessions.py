"""Sessions of administrators who have logged in: a signed token that says who, in which role, and until when. Nothing of it is kept."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time

import msgspec

from coollm.core.types import AdminRole, Value

PREFIX = "coosession_"
SESSION_SECONDS = 3600


class Session(Value, frozen=True):
    """Who has logged in; `ends` is a time of the epoch in seconds."""

    kind: str
    name: str
    role: AdminRole
    ends: int


class Sessions:
    """Writes and reads the tokens of one gateway, and of those that have the same key."""

    def __init__(self, hash_key: bytes) -> None:
        self._key = hmac.new(hash_key, b"coollm sessions", hashlib.sha256).digest()

    def begin(self, kind: str, name: str, role: AdminRole) -> tuple[str, int]:
        """A token, and when it ends."""
        ends = int(time.time()) + SESSION_SECONDS
        body = _text(msgspec.json.encode(Session(kind=kind, name=name, role=role, ends=ends)))
        return f"{PREFIX}{body}.{self._signature(body)}", ends

    def read(self, token: str) -> Session | None:
        """Whose token it is; None if it is not ours. One that has ended is still read."""
        body, _, signature = token.removeprefix(PREFIX).partition(".")
        if not hmac.compare_digest(self._signature(body).encode(), signature.encode("utf-8", "surrogateescape")):
            return None
        try:
            return msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=Session)
        except (binascii.Error, ValueError, msgspec.MsgspecError):
            return None

    def _signature(self, body: str) -> str:
        return _text(hmac.new(self._key, body.encode("utf-8", "surrogateescape"), hashlib.sha256).digest())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
