"""Claims in the store of the counters, which is one for all hosts that share Redis: one administrator at a time changes a fleet."""

from __future__ import annotations

from flask import Response, g

from coollm.api.answers import json_response
from coollm.api.body import parse_body, read_body
from coollm.api.fields import required_text, typed, whole
from coollm.api.routes import Access, Route
from coollm.services import Services

PREFIX = "admin:"
LONGEST_SECONDS = 600
LONGEST_NAME = 200


def claim(services: Services) -> Response:
    """Takes {"name"} for {"owner"} and {"seconds"}, again to prolong it; with {"release": true} it is given up. Answers who has it: {"owner", "granted"}."""
    body = parse_body(read_body(services, g.exchange))
    name, owner = (required_text(body, field)[:LONGEST_NAME] for field in ("name", "owner"))
    if typed(body, "release", bool, "true or false"):
        services.store.release(PREFIX + name, owner)
        return json_response({"owner": None, "granted": False})
    holder = services.store.claim(PREFIX + name, owner, whole(body, "seconds", LONGEST_SECONDS) or LONGEST_SECONDS)
    return json_response({"owner": holder, "granted": holder == owner})


ROUTES = (Route("/admin/v1/claims", ("POST",), Access.OPERATOR, claim, "admin_claims"),)
