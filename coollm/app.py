"""The application: everything is wired in `create_app`, in one visible list.

It is a Flask application; requests to models go past Flask's request machinery, which costs more than all that the gateway does for them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Response, g, request
from prometheus_flask_exporter import PrometheusMetrics
from werkzeug.exceptions import HTTPException

from coollm.api.access import authorize, is_local
from coollm.api.cors import cors_headers
from coollm.api.http import Exchange, Reply, new_request_id
from coollm.api.refusal import refuse
from coollm.api.routes import ROLE_OF, Access, Route
from coollm.core.errors import BodyTooLarge, InvalidRequest, MethodNotAllowed, RequestError, UnknownRoute
from coollm.core.registry import ENDPOINTS
from coollm.services import Services
from coollm.telemetry.record import RequestRecord

_CLIENT = Access.CLIENT  # looked up once: through its class it takes longer

LOCAL_CLIENT = "local"
UNKNOWN_CLIENT = "unknown"
LARGEST_ADMIN_BYTES = 4 * 1024 * 1024

Hot = Callable[[Exchange], Reply]


class GatewayApp(Flask):
    """Flask, but for the POSTs of `hot` addresses. `services` are those of the generation in force: a request keeps the ones it began with."""

    services: Services
    hot: dict[str, Route]

    @functools.cached_property
    def console(self) -> Flask:
        """The console. Where it is switched off nothing of it is there."""
        from coollm.console.app import create_console

        return create_console(self)

    def wsgi_app(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """One request."""
        services = self.services
        found = self.hot.get(environ["PATH_INFO"]) if environ["REQUEST_METHOD"] == "POST" else None
        if found is None:
            if environ["REQUEST_METHOD"] == "OPTIONS" and services.settings.server.cors.origins:
                told = cors_headers(services.settings.server.cors, environ.get("HTTP_ORIGIN", ""), is_preflight=True)
                return Reply(b"", 204 if told else 403, headers=told).start(start_response, new_request_id())
            if environ["PATH_INFO"].startswith("/ui") and is_console(services, environ):
                return self.console(environ, start_response)
            return super().wsgi_app(environ, start_response)
        exchange = Exchange(environ)
        reply = _serve_hot(services, found, exchange)
        if services.settings.server.cors.origins:
            reply.headers.update(cors_headers(services.settings.server.cors, environ.get("HTTP_ORIGIN", "")))
        return reply.start(start_response, exchange.request_id)


def is_console(services: Services, environ: dict[str, Any]) -> bool:
    """Whether a request is for the console, and that is served here."""
    told = services.settings.server.webui
    if not told.enabled or environ["PATH_INFO"][3:4] not in ("", "/"):
        return False
    return not told.local_only or is_local(environ)


def _serve_hot(services: Services, route: Route, exchange: Exchange) -> Reply:
    assert route.hot is not None  # noqa: S101  only those are asked
    try:
        begin(services, route, exchange)
        return route.hot(services, exchange)
    except Exception as error:  # noqa: BLE001  every error becomes a reply
        return refuse(services, exchange, error)


def create_app(services: Services) -> GatewayApp:
    """The gateway as a WSGI application."""
    app = GatewayApp("coollm", static_folder=None)
    app.hot = {}
    app.url_map.strict_slashes = False
    app.services = services
    for routes in ENDPOINTS.values():
        for route in routes:
            add_route(app, route)
    app.before_request(functools.partial(_begin, app))
    app.after_request(_finish)
    app.register_error_handler(HTTPException, _refuse_http)
    app.register_error_handler(Exception, _refuse)
    if services.metrics.is_enabled:
        PrometheusMetrics(app, path=None, registry=services.metrics.registry, group_by="endpoint")
    return app


def begin(services: Services, route: Route, exchange: Exchange) -> None:
    """Finds out who asks. Raises NotAuthenticated; what goes to a vendor has its record by then."""
    record = None
    if route.is_completion:
        record = exchange.record = RequestRecord(exchange.request_id, UNKNOWN_CLIENT, route.name)
        if services.tracing is not None:
            record.trace_parent = exchange.environ.get("HTTP_TRACEPARENT", "")
    try:
        principal = exchange.principal = authorize(services, exchange, route.access)
    except RequestError as error:
        if route.access is _CLIENT:
            services.audit.count(UNKNOWN_CLIENT, exchange.environ.get("REMOTE_ADDR", ""), error.code or "refused")
        raise
    if route.access is _CLIENT and principal is not None:
        client = exchange.client = principal.client
        services.audit.count(principal.name, principal.address)
        if record is not None:
            record.client = principal.name if client else LOCAL_CLIENT
            record.team = client.team or "" if client else ""


def add_route(app: GatewayApp, route: Route) -> None:
    """Adds a route under all its addresses, behind its rule of access."""

    def view(**arguments: Any) -> Response:
        services: Services = g.services
        begin(services, route, g.exchange)
        if route.access in ROLE_OF and (g.exchange.content_length or 0) > LARGEST_ADMIN_BYTES:
            raise BodyTooLarge(f"a request to the admin API has at most {LARGEST_ADMIN_BYTES // 1024 // 1024} MiB")
        if route.hot is not None:
            return to_flask(route.hot(services, g.exchange))
        return _administered(services, route, arguments)

    for index, path in enumerate(route.paths()):
        if route.hot is not None:
            app.hot[path] = route
        endpoint = route.name if index == 0 else f"{route.name}_alias"
        app.add_url_rule(path, endpoint=endpoint, view_func=view, methods=list(route.methods), provide_automatic_options=False)


def _administered(services: Services, route: Route, arguments: dict[str, Any]) -> Response:
    """What a route past the models answers. A change is told of before it is made, and again with its end before that is acknowledged."""
    handler, principal = route.handler, g.exchange.principal
    assert handler is not None  # noqa: S101  a route is hot or has a handler
    if not route.changes:
        return handler(services, **arguments)
    told = {"method": request.method, "path": request.path[:300], "request_id": g.exchange.request_id}
    services.audit.tell(principal, route.name, state="begins", **told)
    try:
        response = handler(services, **arguments)
    except Exception as error:
        reason = services.redact(str(error))[:300] if isinstance(error, RequestError) else type(error).__name__
        services.audit.tell(principal, route.name, state="failed", reason=reason, **told)
        raise
    services.audit.tell(principal, route.name, state="done", status=response.status_code, changed=g.get("changed"), **told)
    return response


def to_flask(reply: Reply) -> Response:
    """A reply, as Flask wants it."""
    return Response(reply.body, status=reply.status, headers=reply.headers)


def _begin(app: GatewayApp) -> None:
    g.services = app.services
    g.exchange = Exchange(request.environ)


def _finish(response: Response) -> Response:
    response.headers["x-request-id"] = g.exchange.request_id
    response.headers["x-content-type-options"] = "nosniff"
    services: Services = g.services
    if services.settings.server.cors.origins:
        response.headers.update(cors_headers(services.settings.server.cors, request.headers.get("origin", "")))
    if request.path.startswith("/admin/"):
        response.headers["cache-control"] = "no-store"
        services.metrics.administered(request.endpoint or "unknown", response.status_code)
    return response


def _refuse(error: Exception) -> Response:
    return to_flask(refuse(g.services, g.exchange, error))


def _refuse_http(error: HTTPException) -> Response:
    """Errors of Flask and Werkzeug, in the client's shape."""
    made: RequestError
    if error.code == 404:
        made = UnknownRoute(f"there is no {request.method} {request.path[:200]}")
    elif error.code == 405:
        made = MethodNotAllowed(f"{request.path[:200]} does not take {request.method}")
    else:
        made = InvalidRequest(error.description or error.name, status=error.code or 400)
    response = _refuse(made)
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        response.headers["allow"] = ", ".join(sorted(allowed))
    return response
