"""Errors as clients get them: in the dialect of the address, with the right status, and `Retry-After` where it applies."""

from __future__ import annotations

import errno
import logging

from sqlalchemy.exc import SQLAlchemyError

from coollm.api.chat import FACE as CHAT_FACE
from coollm.api.face import Face
from coollm.api.http import Exchange, Reply, json_reply
from coollm.api.messages import FACE as MESSAGES_FACE
from coollm.api.rate_headers import add_rates
from coollm.core.errors import GatewayFault, OperationFailed, RequestError
from coollm.core.types import Usage
from coollm.services import Services
from coollm.stores.base import StoreError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

_log = logging.getLogger("coollm.app")


def refuse(services: Services, exchange: Exchange, error: Exception) -> Reply:
    """The reply to a request that ends with `error`; a request that is on its way is told of. A fault of ours gives the client its id, and the log the rest."""
    if isinstance(error, RequestError):
        made = error
    elif isinstance(error, StoreError):
        _log.error("the store does not answer", extra={"request_id": exchange.request_id, "reason": str(error)})
        made = GatewayFault("the store does not answer", status=503, code="store_unavailable")
    elif isinstance(error, SQLAlchemyError):
        _log.error("the ledger does not answer", extra={"request_id": exchange.request_id, "reason": type(error).__name__})
        made = GatewayFault(f"the ledger does not answer ({type(error).__name__})", status=503, code="ledger_unavailable")
    elif isinstance(error, OperationFailed):
        _log.error("what was asked for cannot be done", extra={"request_id": exchange.request_id, "reason": error.message})
        made = GatewayFault(f"{error.message}; {error.hint}" if error.hint else error.message, status=503, code="unavailable")
    elif isinstance(error, OSError) and error.errno in _NO_ROOM:
        _log.error("a file cannot be written", extra={"request_id": exchange.request_id, "reason": error.strerror})
        made = GatewayFault(f"a file of the gateway cannot be written: {error.strerror}", status=503, code="disk_full")
    else:
        _log.error("fault", exc_info=error, extra={"request_id": exchange.request_id, "route": exchange.environ.get("PATH_INFO", "")[:200]})
        made = GatewayFault(f"the gateway has a fault; its log has it under {exchange.request_id}")
    record = exchange.record
    if record is not None and not record.has_ended:
        record.end(None, Usage(), made)
        services.closer.tell(record)
    face = face_of(exchange)
    reply = json_reply(face.error_body(made, services.redact(str(made)), exchange.request_id), made.status)
    if made.retry_after_seconds is not None:
        reply.headers["retry-after"] = str(max(1, round(made.retry_after_seconds + 0.49)))
        reply.headers["retry-after-ms"] = str(max(1, round(made.retry_after_seconds * 1000)))
    if record is not None:
        add_rates(reply.headers, face.wire, record.rates)
    if made.status == 401:
        reply.headers["www-authenticate"] = "Bearer"
    return reply


def face_of(exchange: Exchange) -> Face:
    """The dialect of the address: it decides how an error looks, also where there is no route."""
    path: str = exchange.environ.get("PATH_INFO", "")
    return MESSAGES_FACE if path.removeprefix("/api").startswith("/v1/messages") else CHAT_FACE
