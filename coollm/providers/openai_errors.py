"""Errors of OpenAI's API and its compatible vendors, as verdicts.

Source: https://platform.openai.com/docs/guides/error-codes.
"""

from __future__ import annotations

from collections.abc import Mapping

from coollm.core.types import Json
from coollm.providers.rate_limits import wait_seconds
from coollm.providers.verdict import Cause, Verdict, cause_of_status

_CAUSES: dict[str, Cause] = {
    "insufficient_quota": Cause.QUOTA_EXHAUSTED,
    "billing_hard_limit_reached": Cause.QUOTA_EXHAUSTED,
    "billing_not_active": Cause.QUOTA_EXHAUSTED,
    "invalid_api_key": Cause.KEY_REJECTED,
    "account_deactivated": Cause.KEY_REJECTED,
    "model_not_found": Cause.UNKNOWN_MODEL,
    "rate_limit_exceeded": Cause.RATE_LIMITED,
    "overloaded_error": Cause.OVERLOADED,
}


def judge(status: int, headers: Mapping[str, str], answer: Json) -> Verdict:
    """The judgement on `{"error": {…}}`, by status and code."""
    error = answer.get("error")
    if not isinstance(error, dict):
        error = {"message": error if isinstance(error, str) else answer.get("message") or answer.get("detail")}
    code, kind = error.get("code"), error.get("type")
    cause = _CAUSES.get(str(code)) or _CAUSES.get(str(kind))
    if cause is None:
        numeric = code if isinstance(code, int) and 400 <= code <= 599 else status
        cause = Cause.VENDOR_ERROR if numeric == 200 else cause_of_status(numeric)
    return Verdict(
        cause=cause,
        message=str(error.get("message") or f"HTTP status {status}"),
        status=status,
        code=str(code) if code is not None else None,
        type=str(kind) if kind is not None else None,
        param=str(error["param"]) if error.get("param") else None,
        retry_after_seconds=wait_seconds(headers) if cause is Cause.RATE_LIMITED else None,
    )
