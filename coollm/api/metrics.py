"""GET /metrics: all workers of the host in one scrape."""

from __future__ import annotations

import time

from flask import Response, g, request

from coollm.api.access import address_of, is_within, local_administrator
from coollm.api.health import assess
from coollm.api.routes import Access, Route
from coollm.core.audit_status import read_audit_status
from coollm.core.backup_status import read_backup_status
from coollm.core.config.generations import Generations
from coollm.core.errors import NotAllowed, OperationFailed, UnknownRoute
from coollm.core.paths import find_config
from coollm.services import Services


def metrics(services: Services) -> Response:
    """The exposition, in OpenMetrics where it is asked for. The gauges of store and keys are read now."""
    if not services.metrics.is_enabled:
        raise UnknownRoute("metrics are switched off: logging.prometheus.enabled is false")
    wanted = services.settings.logging.prometheus.allowed_addresses
    if wanted and local_administrator(g.exchange) is None and not is_within(address_of(services, g.exchange), wanted):
        raise NotAllowed("the metrics are not for this address (logging.prometheus.allowed_addresses)", code="address_not_allowed")
    assess(services)
    for key, since in services.key_since.items():
        provider, _, key_id = key.rpartition("/")
        services.metrics.key_age.labels(provider, key_id).set(time.time() - since)
    known = read_backup_status(services.state)
    services.metrics.last_backup.set(known.success)
    services.metrics.last_drill.set(known.drill)
    services.metrics.drill_seconds.set(known.drill_seconds)
    audited = read_audit_status(services.state)
    services.metrics.audit_verified.set(audited.verified)
    services.metrics.audit_faults.set(audited.faults)
    services.metrics.config_drift.set(_has_drifted(services))
    services.closer.flush()  # what has just ended counts
    body, content_type = services.metrics.render(request.headers.get("Accept", ""))
    return Response(body, content_type=content_type)


def _has_drifted(services: Services) -> bool:
    """Whether somebody has changed the configuration's file since it was applied. One that this user cannot read tells nothing."""
    config = find_config().absolute()
    try:
        effective = Generations(config, services.state).effective()
        return effective is not None and config.read_bytes() != effective.file.read_bytes()
    except (OSError, OperationFailed):
        return False


ROUTES = (Route("/metrics", ("GET",), Access.PUBLIC, metrics, "metrics"),)
