"""A secret in memory: masked wherever it is printed, and known to the redactor of the logs."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

MASK = "********"

# Texts of others that come with each request (a model's name) are looked through once.
MOST_REMEMBERED = 500
LONGEST_REMEMBERED = 200

# Shorter values would black out ordinary words in the logs.
SHORTEST_REDACTED_LENGTH = 6

# Keys as vendors write them, for text that carries a key which is not ours (a vendor's error message). Long words are looked for first, and keys in them alone:
# of a line of 900 characters that takes a third of the time.
_LONG_WORD = re.compile(r"[A-Za-z0-9_\-]{18,}")
_KEY = re.compile(r"\b(?:sk|pk|rk|xai|gsk|hf|r8|pa|fw|AIza)[-_]?[A-Za-z0-9_\-]{16,}")
_BEARER = re.compile(r"(?<=[Bb]earer )[^\s\"',]{6,}")


class Secret:
    """A secret string. `str()` and `repr()` give a mask; `reveal()` gives the value to the one place that sends it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value in clear."""
        return self._value

    def digest(self) -> bytes:
        """SHA-256 of the value, 32 bytes: what is compared and stored instead of the value."""
        return key_digest(self._value)

    def fingerprint(self) -> str:
        """First eight hexadecimal digits of the digest, to tell secrets apart in output."""
        return self.digest().hex()[:8]

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self.digest(), other.digest())

    def __hash__(self) -> int:
        return hash(self.digest())

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK


def key_digest(key: str) -> bytes:
    """SHA-256 of a key, 32 bytes. Whole keys are hashed: a prefix would let two keys collide (CVE-2026-35030)."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Redactor:
    """Replaces live secrets, and whatever looks like a vendor's key, in text that leaves the process."""

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        values = {form for secret in secrets for part in _parts(secret.reveal()) for form in _written_forms(part)}
        longest_first = sorted((re.escape(value) for value in values), key=len, reverse=True)
        self._known = re.compile("|".join(longest_first)) if longest_first else None
        self._remembered: dict[str, str] = {}

    def short(self, text: str) -> str:
        """The same for a text that may come again and again."""
        found = self._remembered.get(text)
        if found is None:
            found = self(text)
            if len(text) <= LONGEST_REMEMBERED:
                if len(self._remembered) >= MOST_REMEMBERED:
                    self._remembered.clear()
                self._remembered[text] = found
        return found

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(MASK, text)
        if "earer " in text:
            text = _BEARER.sub(MASK, text)
        return _LONG_WORD.sub(_mask_keys, text)


def _mask_keys(word: re.Match[str]) -> str:
    return _KEY.sub(MASK, word[0])


def _parts(value: str) -> set[str]:
    """A secret, and what it is made of: the private key in a service account's file, the halves of `ACCESS_KEY_ID:SECRET`."""
    if "://" in value:
        password = urlsplit(value).password
        return {value, *([password] if password else [])}
    if not value.startswith("{"):
        return {value, *value.split(":")}
    try:
        told = json.loads(value)
    except ValueError:
        return {value}
    private = told.get("private_key") if isinstance(told, dict) else None
    return {value, *([private] if isinstance(private, str) else [])}


def _written_forms(value: str) -> set[str]:
    """A secret as it stands, and as JSON or `repr` would escape it."""
    if len(value) < SHORTEST_REDACTED_LENGTH:
        return set()
    return {value, value.encode("unicode_escape").decode("ascii"), value.replace("\\", "\\\\").replace('"', '\\"')}
