"""What a client is told when no vendor could serve it."""

from __future__ import annotations

from collections.abc import Callable

from coollm.core.errors import InvalidRequest, LimitReached, RequestError, UnknownModel, VendorFailed, VendorTimeout
from coollm.providers.verdict import Cause, Verdict

_UNAVAILABLE = (Cause.OVERLOADED, Cause.CONNECT_FAILED)


def refusal(verdict: Verdict, provider: str, redact: Callable[[str], str]) -> RequestError:
    """The error for the last verdict. A client's own fault keeps the vendor's words, redacted; a vendor's fault does not, they are in the log."""
    words = redact(verdict.message)
    match verdict.cause:
        case Cause.CLIENT_FAULT:
            status = verdict.status if verdict.status in (400, 413, 415, 422) else 400
            return InvalidRequest(f"{provider}: {words}", param=verdict.param, code=verdict.code, status=status)
        case Cause.UNSUPPORTED:
            return InvalidRequest(words, param=verdict.param, code=verdict.code)
        case Cause.UNKNOWN_MODEL:
            return UnknownModel(f"{provider} does not know this model: {words}", param="model")
        case Cause.RATE_LIMITED:
            return LimitReached(
                f"{provider} limits the rate of requests",
                code="provider_rate_limited",
                retry_after_seconds=verdict.retry_after_seconds or 1,
            )
        case Cause.TIMEOUT:
            return VendorTimeout(f"{provider} did not answer in time")
        case Cause.QUOTA_EXHAUSTED | Cause.KEY_REJECTED:
            return VendorFailed(f"{provider} does not accept the gateway's key: the administrator has to look at it", code=f"provider_{verdict.cause}")
        case _:
            status = 503 if verdict.cause in _UNAVAILABLE else 502
            return VendorFailed(f"{provider} failed ({verdict.cause})", status=status, retry_after_seconds=verdict.retry_after_seconds)
