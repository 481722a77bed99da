"""gunicorn's configuration, derived from ours. `coollm serve` and the systemd unit start `gunicorn -c python:coollm.server.gunicorn_config`.

Source: https://docs.gunicorn.org/en/stable/settings.html. What is set against the defaults says why.
"""

from gevent import monkey

monkey.patch_all()  # before anything else imports ssl, socket or threading

import contextlib  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

from coollm.core.config.generations import Generations  # noqa: E402
from coollm.core.config.load import has_secret, load_in_force  # noqa: E402
from coollm.core.config.values import Address  # noqa: E402
from coollm.core.errors import CoollmError, OperationFailed  # noqa: E402
from coollm.core.instances import ADMIN_SOCKET, NOWHERE, WORKERS, forget_reports, instance_directory  # noqa: E402
from coollm.core.logs import log_file  # noqa: E402
from coollm.core.paths import HASH_KEY, find_config, make_private, run_directory, state_directory  # noqa: E402
from coollm.core.secret_store import make_hash_key  # noqa: E402
from coollm.ledger.book import open_ledger  # noqa: E402
from coollm.server.run_files import METRICS_DIRECTORY, clean_metrics, fold_metrics, write_instance  # noqa: E402
from coollm.server.watchdog import feed_watchdog  # noqa: E402

_config_file = find_config()
_state = make_private(state_directory(_config_file))
_number = os.environ.get("COOLLM_INSTANCE")
"""The instance's number, where systemd runs it."""

try:
    Generations(_config_file, _state).start_with("the gateway", follow_file=_number is None)
    if not has_secret(_state, HASH_KEY):
        with contextlib.suppress(OperationFailed):  # who makes the first client is told why it cannot be
            make_hash_key(_config_file, _state)
    _settings = load_in_force(_config_file, _state).settings
except CoollmError as error:
    sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
    sys.exit(error.exit_code)

_is_local = os.environ.get("COOLLM_LISTEN") == NOWHERE
_listen = Address.parse(os.environ["COOLLM_LISTEN"]) if os.environ.get("COOLLM_LISTEN") and not _is_local else _settings.server.listen
_runs = make_private(run_directory(_config_file))
_run = make_private(_runs / (_number or NOWHERE) if _number or _is_local else instance_directory(_runs, _listen.port))
make_private(_run / WORKERS)
os.environ["COOLLM_INSTANCE_DIR"] = str(_run)

# Instances of systemd share theirs: a scrape of the shared address reaches any of them.
_metrics = make_private((_runs if _number else _run) / METRICS_DIRECTORY)
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_metrics)

bind = [*([] if _is_local else [str(_listen)]), f"unix:{_run / ADMIN_SOCKET}"]
wsgi_app = "coollm.wsgi:application()"
workers = int(os.environ.get("COOLLM_WORKERS") or _settings.server.workers)
worker_class = "coollm.server.worker.GatewayWorker"
worker_connections = 10_000
proc_name = "coollm"

# The sockets and files of a gateway are its own user's.
umask = 0o177

# A worker whose loop has not turned for so long is killed, and another takes its place.
timeout = 30
graceful_timeout = int(_settings.server.drain_seconds) + 10

# Liveness of workers is a file that must not wait for a disk.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else str(_run)  # noqa: S108

# Its default path is shared by all gunicorns of a user and is unlinked at start.
control_socket_disable = True

accesslog = None
errorlog = "-"
loglevel = "warning"
logger_class = "coollm.server.logger.GatewayLogger"

if _settings.server.tls is not None:
    certfile = _settings.server.tls.cert_file
    keyfile = _settings.server.tls.key_file


def on_starting(server: Any) -> None:
    """Before the first worker: figures of an earlier run are not this one's."""
    clean_metrics(_metrics)
    forget_reports(_run)
    _prepare_ledger()
    log = log_file(_settings, _config_file, _state)
    write_instance(_run, server.pid, str(_config_file.absolute()), str(log.absolute()) if log else "")


def _prepare_ledger() -> None:
    """A ledger that another version wrote keeps the gateway from starting; one that does not answer does not: the usage log keeps what it has not got."""
    try:
        ledger = open_ledger(_settings, _state)
        ledger.prepare()
        ledger.close()
    except SQLAlchemyError as error:
        sys.stderr.write(f"warning: the ledger does not answer ({type(error).__name__}): the usage log keeps what it has not got\n")
    except OperationFailed as error:
        sys.stderr.write(f"error: {error.message}\nhint: {error.hint}\n")
        sys.exit(error.exit_code)


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001
    """In a worker that ends: what is still to be written is."""
    application = getattr(worker, "wsgi", None)
    if application is not None:
        services = application.services
        services.closer.flush()
        services.audit.flush()
        with contextlib.suppress(SQLAlchemyError, OperationFailed, OSError):  # evidence, and no request's
            services.watcher.write_uses()
        services.metrics.write()
    logging.shutdown()


def child_exit(server: Any, worker: Any) -> None:  # noqa: ARG001
    """A worker has ended: its live gauges end with it, its counters stay."""
    fold_metrics(_metrics, {worker.pid})


def when_ready(server: Any) -> None:
    """Gunicorn listens: systemd's watchdog is fed from now on, if it wants to be."""
    feed_watchdog(server)
