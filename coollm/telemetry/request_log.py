"""One line of app.log for each request."""

from __future__ import annotations

import logging
from collections.abc import Callable

from coollm.core.logs import write_line
from coollm.telemetry.record import RequestRecord

_log = logging.getLogger("coollm.request")

SERVER_ERROR = 500


def log_request(record: RequestRecord, redact: Callable[[str], str]) -> None:
    """Writes the line: a warning where the gateway or a vendor failed, information otherwise."""
    level = logging.WARNING if record.status >= SERVER_ERROR else logging.INFO
    write_line(_log, level, "request", record.as_log_fields(redact))
