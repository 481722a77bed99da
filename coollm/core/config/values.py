"""Values with a notation of their own: durations, addresses, points in time."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import NamedTuple

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class Duration(float):
    """Seconds, written `500ms`, `30s`, `5m`, `1h` or `1d`."""

    @classmethod
    def parse(cls, text: str | float) -> Duration:
        """Reads a duration; a plain number is seconds, and 0 needs no unit. Raises ValueError with the expected notation."""
        if isinstance(text, int | float) and not isinstance(text, bool) and text >= 0:
            return cls(text)
        if text == "0":
            return cls(0)
        match = _DURATION.fullmatch(str(text).strip())
        if match is None:
            raise ValueError("expected a duration such as 30s, 5m, 1h or 1d")
        return cls(float(match[1]) * _SECONDS[match[2]])

    def __str__(self) -> str:
        for unit in ("d", "h", "m", "s"):
            count = self / _SECONDS[unit]
            if count >= 1 and count == int(count):
                return f"{int(count)}{unit}"
        return f"{round(self * 1000)}ms"

    __repr__ = __str__


class Address(NamedTuple):
    """Host and port to listen on. The host of `:PORT` is every interface."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads `HOST:PORT`, `:PORT` or `[IPV6]:PORT`. Raises ValueError with the expected notation."""
        host, separator, port = text.strip().rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and not bracketed):
            raise ValueError("expected HOST:PORT, such as 127.0.0.1:2906 or :443, with a port of 0 to 65535")
        return cls(host.strip("[]") or "0.0.0.0", int(port))  # noqa: S104  `:443` means every interface, as the guide writes it

    @property
    def reachable_host(self) -> str:
        """An address under which this host reaches it itself."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_instant(value: object) -> datetime:
    """A point in time from ISO 8601 text or YAML's own dates; without a zone it is UTC, and a bare date is its first moment.

    Raises ValueError with the expected notation.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise ValueError("expected a date and time such as 2027-01-31T00:00:00Z") from error
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time(), UTC)
    if not isinstance(value, datetime):
        raise ValueError("expected a date and time such as 2027-01-31T00:00:00Z")
    return value if value.tzinfo else value.replace(tzinfo=UTC)
