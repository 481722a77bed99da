"""Why an attempt failed, as a cause. Routing decides by the cause what happens next; nobody reads a vendor's prose."""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from coollm.core.types import Value


class Cause(enum.StrEnum):
    """Every reason for which an attempt can fail."""

    RATE_LIMITED = "rate_limited"
    QUOTA_EXHAUSTED = "quota_exhausted"
    KEY_REJECTED = "key_rejected"
    OVERLOADED = "overloaded"
    VENDOR_ERROR = "vendor_error"
    UNKNOWN_MODEL = "unknown_model"
    CLIENT_FAULT = "client_fault"
    UNSUPPORTED = "unsupported"
    CONNECT_FAILED = "connect_failed"
    TIMEOUT = "timeout"
    CUT = "connection_cut"
    BAD_ANSWER = "bad_answer"


class Verdict(Value, frozen=True):
    """The judgement on one failed attempt.

    `status` is the vendor's HTTP status, 0 if there was none; `code`, `type` and `param` are what the vendor calls a client's fault.
    """

    cause: Cause
    message: str
    status: int = 0
    code: str | None = None
    type: str | None = None
    param: str | None = None
    retry_after_seconds: float | None = None


class VendorError(Exception):
    """An attempt failed; `verdict` says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.message)
        self.verdict = verdict


_BY_STATUS = {
    400: Cause.CLIENT_FAULT,
    401: Cause.KEY_REJECTED,
    402: Cause.QUOTA_EXHAUSTED,
    403: Cause.KEY_REJECTED,
    404: Cause.UNKNOWN_MODEL,
    408: Cause.TIMEOUT,
    409: Cause.VENDOR_ERROR,
    413: Cause.CLIENT_FAULT,
    415: Cause.CLIENT_FAULT,
    422: Cause.CLIENT_FAULT,
    425: Cause.OVERLOADED,
    429: Cause.RATE_LIMITED,
    503: Cause.OVERLOADED,
    504: Cause.TIMEOUT,
    529: Cause.OVERLOADED,
}


def cause_of_status(status: int) -> Cause:
    """The cause that a bare HTTP status means (RFC 9110; 529 is Anthropic's "overloaded")."""
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return Cause.CLIENT_FAULT if 400 <= status < 500 else Cause.VENDOR_ERROR


def retry_after_seconds(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds to wait, from `retry-after-ms` (OpenAI's) or `Retry-After` (RFC 9110 10.2.3: seconds or a date). `headers` has lower-case names."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after", "").strip()
        if not value:
            return None
        if value.replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now))
    except (ValueError, TypeError):
        return None
