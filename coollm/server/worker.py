"""gunicorn's gevent worker with connections of our own, which on stop does not wait for clients that have nothing to say, nor hangs up on those that have.

gunicorn keeps a stopping worker alive until its last connection has closed, and an idle keep-alive connection does not close by itself (gunicorn#3227): a stop
would take the whole graceful time-out. So a connection that stays idle for a moment after the stop is ended. A request that arrives within that moment is
answered, with `Connection: close`. What is still under way after `server.drain_seconds` is told so and settled, before gunicorn kills the worker.

An instance can also be drained while it stays: then only its public address is closed to new connections, and opened again by `undrain`.
"""

from __future__ import annotations

import _socket
import os
import random
import signal
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import gevent
from gevent.event import Event
from gunicorn.http.wsgi import base_environ
from gunicorn.workers.ggevent import GeventWorker

from coollm import __version__
from coollm.api.health import LEAVING_KEY
from coollm.changeover import CHANGEOVER
from coollm.core.instances import DRAINING, SHARE, WorkerReport, resident_bytes, write_report
from coollm.server.connection import HEAD_SECONDS, Connection
from coollm.server.heads import Heads
from coollm.server.tls import TlsFiles
from coollm.server.traffic import Traffic
from coollm.wire import TlsWire, Wire

# Time for a request that is on its way, and for a client to notice `Connection: close` and open another connection elsewhere.
LINGER_SECONDS = 2.0

# Of several workers each takes one connection at a time, so that they share them; one alone takes what there is.
MOST_ACCEPTED = 64
PAUSE_SECONDS = 0.2

# How often a worker looks whether it is to be drained, and how often it tells what it serves.
LOOK_SECONDS = 0.1
REPORT_EVERY = 5

# What has not ended when its time is over gets so long to be told, before gunicorn kills.
SETTLE_SECONDS = 10.0


class _Listener:
    """A listening socket, whose connections are given to `serve` as they come."""

    def __init__(self, listener: Any, most_at_once: int, serve: Callable[[_Listener, _socket.socket, Any], None]) -> None:
        self._socket = _socket.socket(listener.family, _socket.SOCK_STREAM, 0, fileno=listener.detach())
        self._socket.setblocking(False)
        self._most_at_once = most_at_once
        self._serve = serve
        self._watcher = gevent.get_hub().loop.io(self._socket.fileno(), 1)
        self.is_tcp = self._socket.family != _socket.AF_UNIX
        self.name = self._socket.getsockname()
        self.environ: dict[str, Any] = {}
        self.heads = Heads()
        self._has_ended = False
        self._is_held = False

    def start(self) -> None:
        """Takes connections."""
        if not self._has_ended and not self._is_held:
            self._watcher.start(self._accept)

    def hold(self, is_held: bool) -> None:
        """Takes no connections while it is held."""
        self._is_held = is_held
        if is_held:
            self.pause()
        else:
            self.start()

    def pause(self) -> None:
        """Leaves connections to others, and to the queue."""
        self._watcher.stop()

    def end(self) -> None:
        """Takes none any more."""
        self._has_ended = True
        self._watcher.stop()

    def close(self) -> None:
        """Gives up its place."""
        self.end()
        self._watcher.close()
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(self._most_at_once):
            try:
                descriptor, address = self._socket._accept()  # type: ignore[attr-defined]  # noqa: SLF001  `socket.accept` makes a socket of another class
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # No descriptor is left, mostly: those that wait in the queue keep it readable, and are tried again in a moment.
                self.pause()
                gevent.spawn_later(PAUSE_SECONDS, self.start)
                return
            self._serve(self, _socket.socket(fileno=descriptor), address)


class GatewayWorker(GeventWorker):  # type: ignore[misc]
    """Knows its connections, which of them are idle, and since when."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._listeners: list[_Listener] = []
        self._open: set[Any] = set()
        self._served: dict[Wire, Connection] = {}
        self._stopped = Event()
        self._tls: TlsFiles | None = None
        self._application: Any = None
        self._traffic = Traffic()
        self._local_traffic = Traffic()  # of the local socket, which clients do not use
        self._directory = Path(os.environ["COOLLM_INSTANCE_DIR"])
        self._started = time.time()
        self.is_draining = False
        self._shared = self._share_asked()

    def run(self) -> None:
        """Serves until it is told to stop, and then until what is in flight has been answered."""
        tls = self.wsgi.services.settings.server.tls
        self._tls = TlsFiles(tls) if tls is not None and self.cfg.is_ssl else None
        self._tell_expiry()
        self._application = getattr(self.wsgi, "wsgi_app", self.wsgi)
        most_at_once = 1 if self.cfg.workers > 1 else MOST_ACCEPTED
        for one in self.sockets:
            listener = _Listener(one, most_at_once, self._accepted)
            listener.environ = self._environ_of(listener)
            listener.start()
            self._listeners.append(listener)
        self._look_and_report()
        while self.alive:
            self.notify()
            self._stopped.wait(1.0)
        for listener in self._listeners:
            listener.close()
        began = time.monotonic()
        stops, ends = began + self.cfg.graceful_timeout - SETTLE_SECONDS, began + self.cfg.graceful_timeout - SETTLE_SECONDS / 2
        while self._open and time.monotonic() < ends:
            self.notify()
            if time.monotonic() >= stops:
                for served in list(self._served.values()):
                    served.stop()
            gevent.sleep(0.05)
        if self._open:
            self.log.warning("%d connections have not ended in time (pid: %s)", len(self._open), self.pid)
            gevent.killall(list(self._open), timeout=1)
        self.report(has_ended=True)

    def _look_and_report(self) -> None:
        """Looks whether the instance is drained, and tells what it serves, until the worker ends."""
        self._look()
        self.report()
        gevent.spawn(self._keep_looking)

    def _keep_looking(self) -> None:
        turn = 0
        while True:
            gevent.sleep(LOOK_SECONDS)
            turn += 1
            self._look()
            if turn % REPORT_EVERY == 0:
                self.report()
                if self._tls is not None and self._tls.look():
                    self._tell_expiry()

    def _tell_expiry(self) -> None:
        if self._tls is not None:
            self.wsgi.services.metrics.certificate_expiry.set(self._tls.expires())

    def _share_asked(self) -> int:
        """When it was last asked for that connections are shared, in nanoseconds; 0 if never."""
        try:
            return (self._directory / SHARE).stat().st_mtime_ns
        except OSError:
            return 0

    def _share(self) -> None:
        """Lets a part of the connections go, at random."""
        asked = self._share_asked()
        if asked == self._shared:
            return
        self._shared = asked
        try:
            part = float((self._directory / SHARE).read_text("ascii"))
        except (OSError, ValueError):
            return
        for wire, served in self._served.items():
            if wire.family != _socket.AF_UNIX and random.random() < part:
                served.retire()

    def _look(self) -> None:
        self._share()
        is_draining = (self._directory / DRAINING).exists()
        if is_draining == self.is_draining or not self.alive:
            return
        self.is_draining = is_draining
        for listener in self._listeners:
            if listener.is_tcp:
                listener.hold(is_draining)
        if is_draining:
            gevent.spawn(self._end_idle_connections, time.monotonic())
        self.report()

    def report(self, *, has_ended: bool = False) -> None:
        """Tells what the worker has served, and serves."""
        under_way, streams, oldest = self._traffic.now()
        traffic = self._traffic
        changeover = self.wsgi.extensions[CHANGEOVER]
        told = WorkerReport(
            pid=os.getpid(),
            version=__version__,
            generation=self.wsgi.services.generation,
            started=self._started,
            written=time.time(),
            has_ended=has_ended,
            is_draining=self.is_draining or not self.alive,
            connections=len(self._open),
            under_way=under_way,
            streams=streams,
            oldest_stream_seconds=round(oldest, 1),
            ages=self._traffic.ages(),
            requests=traffic.requests,
            failed=traffic.failed,
            streams_finished=traffic.streams_finished,
            streams_cut=traffic.streams_cut,
            latencies=traffic.counts,
            memory_bytes=resident_bytes(),
            stamp=self.wsgi.services.stamp,
            refused=f"generation {changeover.refused[0]}: {changeover.refused[2]}" if changeover.refused else "",
            refused_stamp=changeover.refused[1] if changeover.refused else "",
        )
        write_report(self._directory, told)

    def _accepted(self, listener: _Listener, connection: _socket.socket, address: Any) -> None:
        greenlet = gevent.spawn(self._serve, listener, connection, address)
        self._open.add(greenlet)
        if len(self._open) >= self.worker_connections:
            for one in self._listeners:
                one.pause()

    def _serve(self, listener: _Listener, connection: _socket.socket, address: Any) -> None:
        """One connection, from its first byte to its end."""
        wire: Wire | None = None
        try:
            if listener.is_tcp:
                connection.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            wire = self._wire(listener, connection)
            is_stopping = self._is_leaving if listener.is_tcp else self._is_stopping
            traffic = self._traffic if listener.is_tcp else self._local_traffic
            peer = address[0] if isinstance(address, tuple) else ""
            served = Connection(wire, self._application, listener.environ, listener.heads, is_stopping, traffic, peer)
            self._served[wire] = served
            served.serve()
        except (OSError, ssl.SSLError) as error:
            self.log.debug("a connection broke: %s", error)
        except gevent.GreenletExit:
            pass
        except Exception:
            self.log.exception("a connection was given up")
        finally:
            if wire is None:
                connection.close()
            else:
                self._served.pop(wire, None)
                wire.close()
            self._open.discard(gevent.getcurrent())
            if len(self._open) == self.worker_connections - 1:
                for one in self._listeners:
                    one.start()

    def _wire(self, listener: _Listener, connection: _socket.socket) -> Wire:
        if self._tls is None or not listener.is_tcp:
            return Wire(connection)
        return TlsWire.begin(connection, self._tls.context, time.monotonic() + HEAD_SECONDS, is_server=True)

    def _is_stopping(self) -> bool:
        return not self.alive

    def _is_leaving(self) -> bool:
        return self.is_draining or not self.alive

    def _environ_of(self, listener: _Listener) -> dict[str, Any]:
        """What all requests of a listener have."""
        name = listener.name
        host, port = (name[0], str(name[1])) if isinstance(name, tuple) else (str(name), "")
        scheme = "https" if self._tls is not None and listener.is_tcp else "http"
        more = {"wsgi.multithread": True, "wsgi.url_scheme": scheme, "SCRIPT_NAME": "", "SERVER_NAME": host, "SERVER_PORT": port}
        return {**base_environ(self.cfg), **more, LEAVING_KEY: self._is_leaving}

    def notify(self) -> None:
        """Tells the master that the loop turns. A worker whose master is gone finishes what is under way."""
        self.tmp.notify()
        if self.alive and self.ppid != os.getppid():
            self.log.warning("the master is gone: finishing what is under way (pid: %s)", self.pid)
            self.handle_exit(signal.SIGTERM, None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """TERM: takes no more connections, finishes what is in flight and goes."""
        if self._stopped.is_set():
            return  # systemd and the master both say so
        super().handle_exit(sig, frame)
        self._stopped.set()
        for listener in self._listeners:
            listener.end()
        gevent.spawn(self._end_idle_connections, time.monotonic())

    def _end_idle_connections(self, stopped: float) -> None:
        """Until the worker is gone, or serves again: a request that is answered now leaves an idle connection behind."""
        while self.is_draining or not self.alive:
            gevent.sleep(0.1)
            now = time.monotonic()
            for wire, served in list(self._served.items()):
                if self.alive and wire.family == _socket.AF_UNIX:
                    continue
                if served.idle_since is not None and now - max(served.idle_since, stopped) >= LINGER_SECONDS:
                    wire.end_if_quiet()
