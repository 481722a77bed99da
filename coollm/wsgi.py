"""The application as gunicorn loads it in each worker. The server's configuration has set the environment."""

from __future__ import annotations

from flask import Flask

from coollm.app import create_app
from coollm.core.config.load import load_or_raise
from coollm.core.logs import log_file, open_log
from coollm.core.paths import find_config, make_private, state_directory
from coollm.core.secrets import Redactor
from coollm.services import build_services
from coollm.simulator.embedded import embedded_simulator


def application() -> Flask:
    """The gateway of $COOLLM_CONFIG. Raises CoollmError, which stops the server before it has accepted anything."""
    config = find_config()
    settings = load_or_raise(config)
    state = make_private(state_directory(config))
    open_log(settings, log_file(settings, config, state), Redactor(settings.secrets()))
    return create_app(build_services(settings, state, embedded_simulator))
