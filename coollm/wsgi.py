"""The application as gunicorn loads it in each worker. The server's configuration has set the environment."""

from __future__ import annotations

import gc
import os
import sys

import gevent
import msgspec

from coollm.app import GatewayApp, create_app
from coollm.changeover import CHANGEOVER, Changeover, work_beside_requests
from coollm.core.config.generations import Generations
from coollm.core.config.load import load_generation, load_in_force
from coollm.core.config.schema import Settings
from coollm.core.errors import CoollmError
from coollm.core.logs import log_file, open_log
from coollm.core.paths import find_config, log_directory, make_private, state_directory
from coollm.core.secrets import Redactor
from coollm.ledger.shipping import USAGE_LOG
from coollm.ledger.threads import in_thread
from coollm.server.memory import SpareMemory
from coollm.services import Services, build_services
from coollm.simulator.embedded import embedded_simulator

# gunicorn's own number for an application that does not load: the server stops, and does not try again for ever.
APP_LOAD_ERROR = 4

# New objects before each generation's collection; Python's default is 700, 10, 10.
COLLECT_AFTER = (20_000, 20, 20)


def application() -> GatewayApp:
    """The gateway of $COOLLM_CONFIG. What keeps it from starting is said in one line and stops the server."""
    try:
        return _application()
    except CoollmError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        sys.stderr.flush()
        sys.exit(APP_LOAD_ERROR)


def _as_started(settings: Settings) -> Settings:
    """The settings with as many workers as there are: the command line may have asked for another number."""
    workers = int(os.environ.get("COOLLM_WORKERS") or settings.server.workers)
    return msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, workers=workers))


def _with_store_of(settings: Settings, before: Settings) -> Settings:
    """The settings with the store that is in use: another one knows nothing of the last minute, so that a change of it waits for a restart."""
    return msgspec.structs.replace(settings, storage=msgspec.structs.replace(settings.storage, runtime=before.storage.runtime))


def _application() -> GatewayApp:
    config = find_config()
    state = make_private(state_directory(config))
    usage_log = make_private(log_directory(config, state)) / USAGE_LOG

    def log_to(settings: Settings, redact: Redactor) -> None:
        open_log(settings, log_file(settings, config, state), redact)

    def build(number: int, before: Services) -> Services:
        file = Generations(config, state).get(number).file if number else None
        loaded = in_thread(lambda: load_generation(config, state, number, file))
        in_force = msgspec.structs.replace(loaded, settings=_with_store_of(_as_started(loaded.settings), before.settings))
        services = build_services(in_force, state, usage_log, embedded_simulator, before)
        log_to(in_force.settings, services.redact)
        return services

    loaded = load_in_force(config, state)
    in_force = msgspec.structs.replace(loaded, settings=_as_started(loaded.settings))
    log_to(in_force.settings, Redactor(in_force.settings.secrets()))
    app = create_app(build_services(in_force, state, usage_log, embedded_simulator))
    work_beside_requests(app.services)
    changeover = Changeover(app, Generations(config, state), state, build)
    app.extensions[CHANGEOVER] = changeover
    gevent.spawn(changeover.run)
    _spare_the_collector()
    gevent.spawn(SpareMemory().run)
    return app


def _spare_the_collector() -> None:
    """What is loaded now stays: Python's collector of cycles need not look at it again, nor after each few hundred objects of a request."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
