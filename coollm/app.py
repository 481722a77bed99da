"""The Flask application: everything is wired in `create_app`, in one visible list."""

from __future__ import annotations

import functools
import logging
import secrets
from typing import Any

import orjson
from flask import Flask, Response, g, request
from prometheus_flask_exporter import PrometheusMetrics
from werkzeug.exceptions import HTTPException

from coollm.api.access import authorize
from coollm.api.chat import FACE as CHAT_FACE
from coollm.api.face import Face
from coollm.api.messages import FACE as MESSAGES_FACE
from coollm.api.routes import Route
from coollm.core.errors import GatewayFault, InvalidRequest, MethodNotAllowed, RequestError, UnknownRoute
from coollm.core.registry import ENDPOINTS
from coollm.core.types import Usage
from coollm.providers.rate_limits import write as write_limits
from coollm.services import Services
from coollm.stores.base import StoreError
from coollm.telemetry.record import RequestRecord

_log = logging.getLogger("coollm.app")

LOCAL_CLIENT = "local"
UNKNOWN_CLIENT = "unknown"


def create_app(services: Services) -> Flask:
    """The gateway as a WSGI application."""
    app = Flask("coollm", static_folder=None)
    app.url_map.strict_slashes = False
    app.extensions["coollm"] = services
    for routes in ENDPOINTS.values():
        for route in routes:
            add_route(app, services, route)
    app.before_request(_begin)
    app.after_request(functools.partial(_finish, services))
    app.register_error_handler(RequestError, functools.partial(_refuse, services))
    app.register_error_handler(HTTPException, functools.partial(_refuse_http, services))
    app.register_error_handler(StoreError, functools.partial(_store_failed, services))
    app.register_error_handler(Exception, functools.partial(_fault, services))
    if services.metrics.is_enabled:
        PrometheusMetrics(app, path=None, registry=services.metrics.registry, group_by="endpoint")
    return app


def add_route(app: Flask, services: Services, route: Route) -> None:
    """Adds a route under all its addresses, behind its rule of access."""

    def view(**arguments: Any) -> Response:
        if route.is_completion:
            g.record = RequestRecord(g.request_id, UNKNOWN_CLIENT, route.name)
        g.client = authorize(services, request, route.access)
        if "record" in g:
            g.record.client = g.client.client_id if g.client else LOCAL_CLIENT
            g.record.team = g.client.team or "" if g.client else ""
        return route.handler(services, **arguments)

    for index, path in enumerate(route.paths()):
        endpoint = route.name if index == 0 else f"{route.name}_alias"
        app.add_url_rule(path, endpoint=endpoint, view_func=view, methods=list(route.methods), provide_automatic_options=False)


def _begin() -> None:
    g.request_id = f"req_{secrets.token_hex(16)}"
    g.client = None


def _finish(services: Services, response: Response) -> Response:  # noqa: ARG001
    response.headers["x-request-id"] = g.get("request_id", "")
    response.headers["x-content-type-options"] = "nosniff"
    return response


def _refuse(services: Services, error: RequestError) -> Response:
    record: RequestRecord | None = g.get("record")
    if record is not None and not record.has_ended:
        record.end(None, Usage(), error)
        services.tell(record)
    body = _face().error_body(error, services.redact(str(error)), g.get("request_id", ""))
    response = Response(orjson.dumps(body), status=error.status, mimetype="application/json")
    if error.retry_after_seconds is not None:
        response.headers["retry-after"] = str(max(1, round(error.retry_after_seconds + 0.49)))
        response.headers["retry-after-ms"] = str(max(1, round(error.retry_after_seconds * 1000)))
    if record is not None:
        response.headers.update(write_limits(_face().wire, record.rate_limits))
    if error.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


def _face() -> Face:
    """The dialect of the address: it decides how an error looks, also where there is no route."""
    return MESSAGES_FACE if request.path.removeprefix("/api").startswith("/v1/messages") else CHAT_FACE


def _refuse_http(services: Services, error: HTTPException) -> Response:
    """Errors of Flask and Werkzeug, in OpenAI's shape."""
    made: RequestError
    if error.code == 404:
        made = UnknownRoute(f"there is no {request.method} {request.path[:200]}")
    elif error.code == 405:
        made = MethodNotAllowed(f"{request.path[:200]} does not take {request.method}")
    else:
        made = InvalidRequest(error.description or error.name, status=error.code or 400)
    response = _refuse(services, made)
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        response.headers["allow"] = ", ".join(sorted(allowed))
    return response


def _store_failed(services: Services, error: StoreError) -> Response:
    _log.error("the store does not answer", extra={"request_id": g.get("request_id"), "reason": str(error)})
    return _refuse(services, GatewayFault("the store does not answer", status=503, code="store_unavailable"))


def _fault(services: Services, error: Exception) -> Response:
    """A fault of ours: the client gets the request's id, the log the rest."""
    _log.error("fault", exc_info=error, extra={"request_id": g.get("request_id"), "route": request.endpoint})
    return _refuse(services, GatewayFault(f"the gateway has a fault; its log has it under {g.get('request_id')}"))
