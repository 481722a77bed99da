"""GET /v1/models and /v1/models/ID: what the client may ask for."""

from __future__ import annotations

from flask import Response, g

from coollm.api.answers import json_response
from coollm.api.routes import Access, Route
from coollm.core.types import Json
from coollm.services import Services


def list_models(services: Services) -> Response:
    """Every name the client may use, in OpenAI's list shape."""
    names = services.gateway.catalog.names(g.exchange.client)
    return json_response({"object": "list", "data": [_model(name, owner, services) for name, owner in names]})


def show_model(services: Services, name: str) -> Response:
    """One model; also one that no list names, if a provider's families hold it. Raises UnknownModel and NotAllowed."""
    targets = services.gateway.catalog.resolve(name, g.exchange.client)
    return json_response(_model(name, targets[0].provider, services))


def _model(name: str, owner: str, services: Services) -> Json:
    return {"id": name, "object": "model", "created": int(services.started), "owned_by": owner}


ROUTES = (
    Route("/v1/models", ("GET",), Access.CLIENT, list_models, "models"),
    Route("/v1/models/<path:name>", ("GET",), Access.CLIENT, show_model, "model"),
)
