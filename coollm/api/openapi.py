"""GET /openapi.json: the gateway's own description, made from its routes, so that no route can be missing from it.

Source: https://spec.openapis.org/oas/v3.1.0. Fields that a route hands on to a vendor unread are not listed: vendors' references have them.
"""

from __future__ import annotations

import re

import orjson
from flask import Response

from coollm import __version__
from coollm.api.routes import Access, Route
from coollm.core.orders import ACTIONS
from coollm.core.registry import ENDPOINTS
from coollm.core.types import ADMIN_ROLES, Json
from coollm.services import Services

_TEXT: Json = {"type": "string", "minLength": 1}
_COUNT: Json = {"type": "integer", "minimum": 1}
_FLAG: Json = {"type": "boolean"}
_CONTENT: Json = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object", "required": ["type"], "properties": {"type": _TEXT}}}]}
_MODEL: Json = {**_TEXT, "description": "`provider:model`, an alias, or a model's bare name", "examples": ["openai:gpt-4o-mini"]}


def _object(required: str, properties: Json) -> Json:
    return {"type": "object", "required": required.split(), "properties": properties}


def _messages(*roles: str) -> Json:
    message = _object("role content", {"role": {"enum": list(roles)}, "content": _CONTENT})
    return {"type": "array", "minItems": 1, "items": message}


_TURNS = _messages("user", "assistant")
_RANGED: Json = {"temperature": {"type": "number", "minimum": 0, "maximum": 1}, "top_p": {"type": "number", "minimum": 0, "maximum": 1}, "stream": _FLAG}
_CHAT = _object(
    "model messages",
    {"model": _MODEL, "messages": _messages("system", "developer", "user", "assistant"), "max_completion_tokens": _COUNT, "n": _COUNT, **_RANGED},
)

_ID: Json = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"}
_CLIENT: Json = {
    "description": {"type": "string"},
    "allowed_providers": {"type": "array", "items": _TEXT},
    "allowed_models": {"type": "array", "items": _TEXT},
    "allowed_addresses": {"type": "array", "items": _TEXT},
    "expires_at": {"type": "string", "format": "date-time"},
    "team": {"type": "string"},
    "limits": {"type": "object", "properties": {"req_per_min": _COUNT, "tokens_per_min": _COUNT, "concurrent": _COUNT}},
}

BODIES: dict[str, Json] = {
    "chat": _CHAT,
    "completions": _object("model prompt", {"model": _MODEL, "prompt": {"type": "string"}, "max_tokens": _COUNT, **_RANGED}),
    "responses": _object("model input", {"model": _MODEL, "input": _TEXT, "instructions": {"type": "string"}, "max_output_tokens": _COUNT, **_RANGED}),
    "messages": _object("model messages max_tokens", {"model": _MODEL, "messages": _TURNS, "max_tokens": _COUNT, **_RANGED}),
    "messages_count_tokens": _object("model messages", {"model": _MODEL, "messages": _TURNS}),
    "embeddings": _object(
        "model input",
        {
            "model": _MODEL,
            "input": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]},
            "dimensions": _COUNT,
            "encoding_format": {"enum": ["float", "base64"]},
        },
    ),
    "rerank": _object(
        "model query documents",
        {"model": _MODEL, "query": _TEXT, "documents": {"type": "array", "items": {"type": "string"}, "minItems": 1}, "top_n": _COUNT},
    ),
    "audio": _object("model", {"model": _MODEL}),
    "images": _object("", {"model": _MODEL, "prompt": _TEXT}),
    "moderations": _object("input", {"model": _MODEL, "input": _TEXT}),
    "files": {},
    "batches": {},
    "batch": {},
    "admin_providers_test": _object("", {"provider": _TEXT, "key": _TEXT, "model": _TEXT}),
    "admin_claims": _object("name owner", {"name": _TEXT, "owner": _TEXT, "seconds": _COUNT, "release": {"type": "boolean"}}),
    "admin_orders_give": _object("action", {"action": {"enum": list(ACTIONS)}, "instance": {"type": "string", "pattern": "^[1-9][0-9]?$"}}),
    "admin_usage_rebuild": {},
    "admin_usage_prune": _object("before", {"before": {**_TEXT, "examples": ["2026-01-01T00:00:00Z"]}}),
    "admin_clients_create": _object("id", {"id": _ID, **_CLIENT}),
    "admin_client_rotate": _object("", {"overlap": {**_TEXT, "examples": ["24h"]}}),
    "admin_admins_create": _object("id", {"id": _ID, "role": {"enum": list(ADMIN_ROLES)}}),
    "admin_admin_rotate": _object("", {"overlap": {**_TEXT, "examples": ["24h"]}}),
    "admin_admin_reset": {},
    "admin_login": _object("name password", {"name": _TEXT, "password": _TEXT, "code": {"type": "string"}}),
    "admin_config_apply": {},
    "admin_config_validate": {},
    "admin_config_rollback": _object("", {"generation": _COUNT}),
    "admin_config_confirm": {},
    "admin_config_policy_apply": {},
    "admin_reload": {},
    "admin_compliance_erase": _object("client", {"client": _TEXT}),
    "admin_route_explain": {**_CHAT, "required": ["model"]},
}
"""Route → schema of its JSON body, for every route that takes one; an empty one where the body goes to a vendor unread."""

UPLOADS = ("audio", "images", "files")
"""Routes that take forms too."""

_ERRORS = {
    400: "The request is wrong, or asks for what the vendor cannot do; `param` names it.",
    401: "No key, or one that is unknown or has expired.",
    403: "The key may not use this.",
    404: "No such model, address or thing.",
    409: "It is there already, or belongs to the configuration.",
    405: "The address does not take this method.",
    413: "The body is larger than `server.max_body_mb`.",
    415: "The vendor does not take this kind of content.",
    422: "The vendor cannot process the content.",
    429: "A limit is reached; `Retry-After` says when there is room.",
    500: "A fault of the gateway; its log has it under the request's id.",
    502: "The vendor failed.",
    503: "Nobody can serve it now.",
    504: "The vendor did not answer in time.",
    507: "The disk of the gateway is full.",
}
_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")


def describe() -> Json:
    """The whole description. Everything under /v1 answers under /api/v1 too."""
    paths: Json = {}
    for routes in ENDPOINTS.values():
        for route in routes:
            template = _PARAMETER.sub(r"{\1}", route.path)
            paths.setdefault(template, {}).update({method.lower(): _operation(route, method) for method in route.methods})
    return {
        "openapi": "3.1.0",
        "info": {"title": "COO-LLM", "version": __version__, "description": "OpenAI's and Anthropic's API in front of many vendors and keys."},
        "servers": [{"url": "/"}, {"url": "/api", "description": "the same, for everything under /v1"}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}, "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"}},
            "schemas": {"Error": _object("error", {"error": _object("message type", {"message": _TEXT, "type": _TEXT})})},
        },
    }


def _operation(route: Route, method: str) -> Json:
    operation: Json = {
        "operationId": route.name if len(route.methods) == 1 else f"{route.name}_{method.lower()}",
        "summary": route.summary or ((route.handler.__doc__ or route.name) if route.handler else route.name).partition("\n")[0],
        "responses": _responses(route),
    }
    names = _PARAMETER.findall(route.path)
    if names:
        operation["parameters"] = [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names]
    if method == "POST" and route.name in BODIES:
        content: Json = {"application/json": {"schema": BODIES[route.name]}}
        if route.name in UPLOADS:
            content["multipart/form-data"] = {"schema": {"type": "object"}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.access is not Access.PUBLIC:
        operation["security"] = [{"key": []}, {"x-api-key": []}]
    return operation


def _responses(route: Route) -> Json:
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    if route.access is Access.PUBLIC and route.name not in BODIES:
        return {"200": {"description": "As it is now."}, "403": {"description": "It is not for this address."}, "503": {"description": "It cannot serve."}}
    refused = {str(status): {"description": text, **error} for status, text in _ERRORS.items()}
    if route.name.endswith("_create"):
        return {"201": {"description": "It was made; its key is shown this once."}, **refused}
    return {"200": {"description": "The answer; server-sent events where `stream` is true."}, **refused}


def openapi(services: Services) -> Response:  # noqa: ARG001
    """This description."""
    return Response(orjson.dumps(describe()), mimetype="application/json")


ROUTES = (Route("/openapi.json", ("GET",), Access.PUBLIC, openapi, "openapi"),)
