"""GET /metrics: all workers of the host in one scrape."""

from __future__ import annotations

from flask import Response, request

from coollm.api.health import assess
from coollm.api.routes import Access, Route
from coollm.core.errors import UnknownRoute
from coollm.services import Services


def metrics(services: Services) -> Response:
    """The exposition, in OpenMetrics where it is asked for. The gauges of store and keys are read now."""
    if not services.metrics.is_enabled:
        raise UnknownRoute("metrics are switched off: logging.prometheus.enabled is false")
    assess(services)
    body, content_type = services.metrics.render(request.headers.get("Accept", ""))
    return Response(body, content_type=content_type)


ROUTES = (Route("/metrics", ("GET",), Access.PUBLIC, metrics, "metrics"),)
