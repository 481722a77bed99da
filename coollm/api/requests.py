"""Requests one by one, for the administrator: the last ones, and the whole story of one. Prompts and answers are kept nowhere, so none can be shown."""

from __future__ import annotations

import time

from flask import Response, request

from coollm.api.answers import json_response
from coollm.api.routes import Access, Route
from coollm.core.errors import InvalidRequest, OperationFailed, UnknownRoute
from coollm.core.logs import log_file
from coollm.core.paths import find_config
from coollm.core.request_log import find_request
from coollm.core.types import Json
from coollm.ledger import figures
from coollm.ledger.threads import in_thread
from coollm.services import Services

MOST_ROWS = 200
LONGEST_ID = 200
UNSHIPPED_SECONDS = 60.0


def last(services: Services) -> Response:
    """The last requests of the ledger, the newest first: `limit` of them, after `since_ms`; of one `client`, `team`, `provider` or `model`, or with `failed=1`
    those that failed. What ended within the last second may be missing.
    """
    wanted = {name: value for name in figures.NARROWED if (value := request.args.get(name))}
    since = _whole("since_ms", 0, 2**53)
    failed = request.args.get("failed") == "1"
    limit = _whole("limit", 50, MOST_ROWS)
    return json_response({"requests": in_thread(lambda: figures.last(services.ledger, limit, since, wanted, failed=failed))})


def one(services: Services, identity: str) -> Response:
    """One request by its id: what the ledger has of it, and from this host's log the attempts, with the reasons why it moved on."""
    if len(identity) > LONGEST_ID:
        raise InvalidRequest("this is no request's id: they begin with req_", param="identity")
    path = log_file(services.settings, find_config().absolute(), services.state)

    row = in_thread(lambda: figures.entry(services.ledger, identity))
    # What the ledger does not know has just ended, or never was: for that no old log is read.
    ended = row["at_ms"] / 1000 if row is not None else time.time() - UNSHIPPED_SECONDS

    def told() -> tuple[Json | None, list[Json]]:
        if path is None:
            return None, []
        try:
            return find_request(identity, path, ended)
        except OperationFailed:
            return None, []

    line, others = in_thread(told)
    if row is None and line is None:
        raise UnknownRoute(f"no request '{identity[:80]}' is in the ledger or in this host's log", code="request_not_found")
    return json_response({"request_id": identity, "entry": row, "line": line, "other_lines": others})


def _whole(name: str, default: int, most: int) -> int:
    text = request.args.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or int(text[:17]) > most:
        raise InvalidRequest(f"'{name}' must be a whole number up to {most}", param=name)
    return int(text)


ROUTES = (
    Route("/admin/v1/requests", ("GET",), Access.VIEWER, last, "admin_requests"),
    Route("/admin/v1/requests/<identity>", ("GET",), Access.VIEWER, one, "admin_request"),
)
