"""Every error of the product, in two levels.

    CoollmError                      what an administrator or a client may read: thing, value, way out
    ├── ConfigurationError           one or more faults of a configuration, each with its place (exit 3)
    ├── Unreachable                  a gateway, store, host or vendor does not answer (exit 5)
    ├── OperationFailed              a command could not do what it was asked (exit 1)
    ├── UsageError                   the command line is wrong (exit 2)
    ├── CheckFailed                  what was looked at is not as it has to be (exit 4)
    ├── LockHeld                     another administrator changes this host (exit 6)
    ├── Undone                       the change was taken back, since the gateway was not healthy after it (exit 7)
    └── RequestError                 a client's request ends with this; has an HTTP status and OpenAI's type and code
        ├── InvalidRequest       400 ├── NotAuthenticated   401 ├── NotAllowed       403
        ├── UnknownModel         404 ├── UnknownRoute       404 ├── MethodNotAllowed 405
        ├── BodyTooLarge         413 ├── LimitReached       429 ├── GatewayFault     500
        ├── VendorFailed     502/503 ├── VendorTimeout      504 ├── StoreUnavailable 503
        ├── StreamCut            502 └── Cancelled               the request's work is stopped
                                     ├── ClientGone     499, never sent: nobody is there to read it
                                     └── GatewayStopping 503

Foreign exceptions are translated once, where they arise, and chained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coollm.core.config.faults import Fault
    from coollm.core.types import Used


class CoollmError(Exception):
    """Base of all errors that are meant to be read. `hint` is the way out, if the message does not hold it."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class OperationFailed(CoollmError):
    """A command could not do what it was asked."""


class UsageError(CoollmError):
    """The command line is wrong."""

    exit_code = 2


class ConfigurationError(CoollmError):
    """The configuration is invalid; `faults` has every fault found in one run."""

    exit_code = 3

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults


class CheckFailed(CoollmError):
    """What was looked at is not as it has to be: a backup that was changed, a restore that does not hold."""

    exit_code = 4


class Unreachable(CoollmError):
    """A gateway, store, host or vendor does not answer."""

    exit_code = 5


class LockHeld(CoollmError):
    """Another administrator changes this host: who, what, since when."""

    exit_code = 6


class Undone(CoollmError):
    """The change was taken back, since the gateway was not healthy after it."""

    exit_code = 7


class Paused(CoollmError):
    """A change has stopped in the middle and waits: the hint says how to go on, or to take it back."""


class RequestError(CoollmError):
    """A client's request ends with this error.

    `param` names the request's field at fault; `retry_after_seconds` becomes `Retry-After`.
    Types and codes follow https://platform.openai.com/docs/guides/error-codes.
    """

    status = 500
    type = "api_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.retry_after_seconds = retry_after_seconds
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status


class InvalidRequest(RequestError):
    """The request's body, or a field of it, is wrong."""

    status, type, code = 400, "invalid_request_error", None


class NotAuthenticated(RequestError):
    """No key, an unknown key, or one that has expired."""

    status, type, code = 401, "invalid_request_error", "invalid_api_key"


class NotAllowed(RequestError):
    """A known client asks for what it may not use."""

    status, type, code = 403, "permission_error", "not_allowed"


class UnknownModel(RequestError):
    """No provider serves a model of this name."""

    status, type, code = 404, "invalid_request_error", "model_not_found"


class UnknownRoute(RequestError):
    """No such address."""

    status, type, code = 404, "invalid_request_error", "unknown_url"


class MethodNotAllowed(RequestError):
    """The address exists; the method is not one of its own."""

    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class BodyTooLarge(RequestError):
    """The body is larger than `server.max_body_mb`."""

    status, type, code = 413, "invalid_request_error", "body_too_large"


class LimitReached(RequestError):
    """A limit of the client, or of every vendor key that could serve it, has no room. `rates` is how full the client's counters are, where it was its own."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"

    def __init__(self, message: str, *, rates: tuple[Used, ...] = (), **more: Any) -> None:
        super().__init__(message, **more)
        self.rates = rates


class GatewayFault(RequestError):
    """A fault of ours; the log has the details under the request's id."""

    status, type, code = 500, "api_error", "internal_error"


class StoreUnavailable(RequestError):
    """The store of limits does not answer, so nothing can be admitted."""

    status, type, code = 503, "api_error", "store_unavailable"


class VendorFailed(RequestError):
    """Every vendor that could serve the request refused or failed."""

    status, type, code = 502, "api_error", "provider_failed"


class VendorTimeout(RequestError):
    """The vendor did not answer in time."""

    status, type, code = 504, "api_error", "provider_timeout"


class StreamCut(RequestError):
    """The vendor ended a stream without its terminal event: what came is incomplete."""

    status, type, code = 502, "api_error", "stream_interrupted"


class Cancelled(RequestError):
    """The request's work is stopped, for a reason that is no vendor's: nothing is tried in its place."""


class GatewayStopping(Cancelled):
    """The gateway stops, and the request has outlived the time that was left: it can be sent again, to an instance that stays."""

    status, type, code = 503, "api_error", "gateway_stopping"


class ClientGone(Cancelled):
    """The client closed its connection. 499 is nginx's number for it, used in the log only."""

    status, type, code = 499, "client_error", "client_closed_request"
