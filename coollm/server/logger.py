"""gunicorn's own log, without secrets: its tracebacks may quote a request."""

from __future__ import annotations

import logging
from typing import Any

from gunicorn.glogging import Logger

from coollm.core.config.load import load_in_force
from coollm.core.paths import find_config, state_directory
from coollm.core.secrets import Redactor


class _RedactingFormatter(logging.Formatter):
    def __init__(self, inner: logging.Formatter | None, redact: Redactor) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(self._inner.format(record))


class GatewayLogger(Logger):  # type: ignore[misc]
    """gunicorn's logger behind the redactor."""

    def setup(self, cfg: Any) -> None:
        """Puts the redactor into every handler."""
        super().setup(cfg)
        config = find_config()
        settings = load_in_force(config, state_directory(config)).settings
        redact = Redactor(settings.secrets())
        for handler in self.error_log.handlers:
            handler.setFormatter(_RedactingFormatter(handler.formatter, redact))
