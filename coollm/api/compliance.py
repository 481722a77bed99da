"""What is kept of a client, given out and erased."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
import orjson
from flask import Response, g

from coollm.api.answers import json_response
from coollm.api.body import parse_body, read_body
from coollm.api.fields import required_text
from coollm.api.routes import Access, Route
from coollm.api.usage import FOREVER_MS
from coollm.core.errors import InvalidRequest
from coollm.erasure import erase as erase_client
from coollm.ledger.threads import in_thread
from coollm.services import Services


def export(services: Services, client: str) -> Response:
    """All that is kept of a client, one JSON line each: what is said of it, its requests, and the lines of the audit log that name it. Neither prompts nor
    answers are kept.
    """
    services.watcher.look()
    stored = services.watcher.roster.stored.find_client(client)
    rows = services.ledger.export(0, FOREVER_MS, client)
    log = services.audit.log

    def told() -> list[bytes]:
        entries = [entry for _, _, entry in log.entries() if entry is not None] if log is not None else []
        named = [entry for entry in entries if client in (entry.get("actor"), (entry.get("changed") or {}).get("client"))]
        return [json.dumps({**entry, "kind": "audit"}).encode() + b"\n" for entry in named]

    def lines() -> Iterator[bytes]:
        if stored is not None:
            yield orjson.dumps({"kind": "client", **msgspec.to_builtins(stored)}) + b"\n"
        while (row := in_thread(lambda: next(rows, None))) is not None:
            yield orjson.dumps({"kind": "request", **row}) + b"\n"
        yield from in_thread(told)

    return Response(lines(), mimetype="application/x-ndjson")


def erase(services: Services) -> Response:
    """Replaces the name of {"client"}, which is not there any more, wherever its requests are kept; all sums stay."""
    client = required_text(parse_body(read_body(services, g.exchange)), "client")
    services.watcher.look()
    if services.watcher.roster.find(client) is not None:
        raise InvalidRequest(f"'{client[:80]}' is still a client: remove it first", param="client", code="client_exists", status=409)
    alias, requests, files = in_thread(lambda: erase_client(client, services.ledger, services.shipper, services.logs))
    g.changed = {"requests": requests, "files": files, "alias": alias}
    return json_response({"erased": True, "requests": requests, "files": files, "alias": alias})


ROUTES = (
    Route("/admin/v1/compliance/export/<client>", ("GET",), Access.ADMIN, export, "admin_compliance_export"),
    Route("/admin/v1/compliance/erase", ("POST",), Access.ADMIN, erase, "admin_compliance_erase", changes=True),
)
