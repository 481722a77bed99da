"""Scripts run in Redis (6 and newer): alone, behind Sentinel, or in a cluster, over one connection that all greenlets of a worker share.

Commands go out one after the other without waiting for answers, those of one turn of the event loop in one piece, and answers come back in the same order: a
script of one of 64 greenlets costs 3 µs, and through the `redis` package 55. That package finds the master of a Sentinel, and the node of a cluster that has
our slot.

Sources: https://redis.io/docs/latest/develop/reference/protocol-spec/, https://redis.io/docs/latest/develop/use/pipelining/, the `redis` package.
"""

from __future__ import annotations

import _socket
import contextlib
import hashlib
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent.lock import RLock

from coollm.connecting import connect_to
from coollm.core.config.schema import RuntimeStorage
from coollm.core.config.values import Address
from coollm.core.errors import OperationFailed
from coollm.stores.base import StoreError
from coollm.waits import Waiter
from coollm.wire import TlsWire, Wire

TIMEOUT_SECONDS = 2.0

# How long to wait before a cluster that is on the move, or a new master, is looked for again.
PAUSE_SECONDS = 0.05

# Within so many turns of the loop after it was sent for, an answer has come at once.
PROMPT_TURNS = 3

# Another node has our keys now, or will have them in a moment.
ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "MASTERDOWN", "LOADING", "UNBLOCKED", "NOREPLICAS")

Dial = Callable[[float], Wire]
"""Opens a connection to the node that has our keys, until a time of `time.monotonic()`. Raises OSError."""


class Script:
    """A Lua script, by its SHA-1, which is how Redis knows it once it has run."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324  Redis's own name for it


class _Elsewhere(ConnectionResetError):
    """The connection was given up, for another node has our keys."""


class _NoNode(OSError):
    """Nobody can say which node has our keys, for now."""


class Redis:
    """Commands and scripts. Everything raises StoreError and nothing else. It connects when it is first asked, and again when its connection has ended."""

    def __init__(self, dial: Dial, login: Sequence[str] = (), failover_seconds: float = 0.0) -> None:
        """`login` are the words of AUTH; for `failover_seconds` a new master is waited for."""
        import hiredis

        self._pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command
        self._new_reader: Callable[[], Any] = hiredis.Reader
        self._is_error: tuple[type[BaseException], ...] = (hiredis.ReplyError,)
        self._is_nonsense: tuple[type[Exception], ...] = (hiredis.ProtocolError,)
        self._dial = dial
        self._login = login
        self._failover_seconds = max(failover_seconds, TIMEOUT_SECONDS) if failover_seconds else 0.0
        self._lock = RLock()
        self._hub: Any = None
        self._wire: Wire | None = None
        self._reader: Any = None
        self._pending: deque[tuple[Waiter, float, int]] = deque()
        self.took = 0.0
        self._outgoing: list[bytes] = []

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """What a script answers."""
        told = (len(keys), *keys, *arguments)
        return self._ask(("EVALSHA", script.digest, *told), lambda: ("EVAL", script.text, *told))

    def command(self, *words: Any) -> Any:
        """What a command answers."""
        return self._ask(words)

    def close(self) -> None:
        """Lets go of the connection."""
        self._drop(ConnectionAbortedError("closed"))

    def _ask(self, words: tuple[Any, ...], whole: Callable[[], tuple[Any, ...]] | None = None) -> Any:
        ends, is_again = time.monotonic() + (self._failover_seconds or TIMEOUT_SECONDS), False
        while True:
            try:
                wire, reply = self._exchange(self._pack(words), min(ends, time.monotonic() + TIMEOUT_SECONDS))
            except TimeoutError as error:
                if time.monotonic() + PAUSE_SECONDS >= ends:
                    raise StoreError("Redis: it does not answer in time") from error
                continue
            except _Elsewhere:
                gevent.sleep(PAUSE_SECONDS)  # another has heard it
                continue
            except OSError as error:
                # Once more, for a connection that the server has closed; for as long as a new master may take, where there can be one.
                if is_again and (not self._failover_seconds or time.monotonic() + PAUSE_SECONDS >= ends):
                    raise StoreError(f"Redis: {error.strerror or error}") from error
                if is_again:
                    gevent.sleep(PAUSE_SECONDS)
                is_again = True
                continue
            if not isinstance(reply, self._is_error):
                return reply
            said = str(reply)
            kind = said.partition(" ")[0]
            if kind == "NOSCRIPT" and whole is not None:
                words, whole = whole(), None
            elif kind in ELSEWHERE and time.monotonic() + PAUSE_SECONDS < ends:
                if self._wire is wire:
                    self._drop(_Elsewhere(said))
                gevent.sleep(PAUSE_SECONDS)
            else:
                raise StoreError(f"Redis: {said}")

    def _exchange(self, packed: bytes, until: float) -> tuple[Wire | None, Any]:
        """Sends a command and waits for its answer, which it gives with the connection that it came on. Raises TimeoutError and OSError."""
        if self._wire is None or self._hub is not gevent.get_hub():
            self._connect(until)
        wire = self._wire
        waiter = Waiter(self._hub, until)
        self._pending.append((waiter, time.monotonic(), self._hub.loop.iteration))
        self._outgoing.append(packed)
        if len(self._outgoing) == 1:
            self._hub.loop.run_callback(self._flush)
        try:
            return wire, waiter.wait()
        except TimeoutError:
            # The answers that follow would be taken for those of others.
            if self._wire is wire:
                self._drop(ConnectionResetError("Redis does not answer in time"))
            raise

    def _connect(self, until: float) -> None:
        with self._lock:
            if self._wire is not None and self._hub is gevent.get_hub():
                return
            self._drop(ConnectionResetError("another connection is made"))
            wire = self._dial(until)
            reader = self._new_reader()
            try:
                if self._login:
                    self._log_in(wire, reader, until)
            except self._is_nonsense as error:
                wire.close()
                raise StoreError(f"Redis: it speaks something else: {error}") from error
            except BaseException:
                wire.close()
                raise
            wire.on_data, wire.on_end = self._read, self._ended
            self._wire, self._reader, self._hub = wire, reader, gevent.get_hub()

    def _log_in(self, wire: Wire, reader: Any, until: float) -> None:
        wire.send(self._pack(("AUTH", *self._login)), until)
        while (reply := reader.gets()) is False:
            data = wire.receive(until)
            if not data:
                raise ConnectionResetError("Redis closed the connection")
            reader.feed(data)
        if isinstance(reply, self._is_error):
            raise StoreError(f"Redis: {reply}")

    def _flush(self) -> None:
        """Called by the loop: sends what has come together."""
        wire, data = self._wire, b"".join(self._outgoing)
        self._outgoing.clear()
        if wire is None or not data:
            return
        try:
            wire.post(data)
        except OSError as error:
            self._drop(error)

    def _read(self, data: bytes) -> None:
        """Called by the loop: answers have come."""
        wire, reader = self._wire, self._reader
        if wire is None:
            return
        reader.feed(data)
        try:
            while self._wire is wire and (reply := reader.gets()) is not False:
                if self._pending:
                    self._give(reply)
        except self._is_nonsense as error:
            self._drop(ConnectionResetError(f"it speaks something else: {error}"))

    def _give(self, reply: Any) -> None:
        waiter, sent, turn = self._pending.popleft()
        # An answer that is there when the loop looks for it was not waited for, however long the loop had other things to do.
        self.took = time.monotonic() - sent if self._hub.loop.iteration - turn > PROMPT_TURNS else 0.0
        waiter.give(reply)

    def _ended(self) -> None:
        self._drop(ConnectionResetError("Redis closed the connection"))

    def _drop(self, error: OSError) -> None:
        """Gives the connection up; who waits for an answer is told so."""
        wire, self._wire = self._wire, None
        self._outgoing.clear()
        pending, self._pending = self._pending, deque()
        if wire is not None:
            wire.close()
        for waiter, _, _ in pending:
            waiter.fail(error)


def connect(settings: RuntimeStorage, hash_tag: str, *, waits: bool = True) -> Redis:
    """Redis at `storage.runtime`; in a cluster the node that has the keys with this hash tag. `waits` is for what cannot do without a new master, which takes
    seconds. Raises OperationFailed if a package is not installed.
    """
    try:
        import hiredis  # noqa: F401
        import redis  # noqa: F401
    except ImportError as error:
        raise OperationFailed("storage.runtime.type is redis, but the redis package is not installed", "pip install 'coollm[redis]'") from error
    password = settings.password.reveal() if settings.password else None
    login = [*([settings.username] if settings.username else []), password] if password else []
    failover_seconds = settings.failover_wait if waits and settings.mode != "single" else 0.0
    return Redis(_dial(settings, hash_tag), login, failover_seconds)


def _dial(settings: RuntimeStorage, hash_tag: str) -> Dial:
    if (settings.addr or "").startswith("unix:"):
        path = (settings.addr or "").removeprefix("unix:")
        return lambda until: _open_unix(path, until)
    tls = ssl.create_default_context(cafile=settings.ca_file) if settings.tls else None
    addresses = [Address.parse(one) for one in (settings.addr or "").split(",")]
    locate: dict[str, Callable[[], tuple[str, int]]] = {
        "cluster": lambda: _node_of_slot(settings, addresses, hash_tag),
        "sentinel": lambda: _master(settings, addresses),
    }
    find = locate.get(settings.mode, lambda: (addresses[0].host, addresses[0].port))

    def open_tcp(until: float) -> Wire:
        host, port = find()
        connection = connect_to(host, port, until)
        return Wire(connection) if tls is None else TlsWire.begin(connection, tls, until, host=host)

    return open_tcp


def _open_unix(path: str, until: float) -> Wire:  # noqa: ARG001  a socket of this host connects at once or not at all
    connection = _socket.socket(_socket.AF_UNIX)
    try:
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return Wire(connection)


def library_options(settings: RuntimeStorage) -> dict[str, Any]:
    """What the `redis` package is told of a server."""
    login = {"username": settings.username, "password": settings.password.reveal() if settings.password else None}
    tls = {"ssl": True, "ssl_ca_certs": settings.ca_file, "ssl_check_hostname": True} if settings.tls else {}
    return {**login, **tls, "socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}


def _once() -> dict[str, Any]:
    """A node that does not answer is not asked again by the package, which waits for seconds in between: another one is asked, and we ask again ourselves."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return {"retry": Retry(NoBackoff(), 0)}


def _node_of_slot(settings: RuntimeStorage, addresses: Sequence[Address], hash_tag: str) -> tuple[str, int]:
    import redis
    from redis.cluster import ClusterNode

    try:
        nodes = [ClusterNode(one.host, one.port) for one in addresses]
        with contextlib.closing(redis.RedisCluster(startup_nodes=nodes, **library_options(settings), **_once())) as cluster:
            node = cluster.get_node_from_key(hash_tag)
    except (redis.RedisError, redis.exceptions.RedisClusterException) as error:  # the second is none of the first
        raise _NoNode(str(error)) from error
    if node is None:
        raise _NoNode("no node of the cluster has our slot")
    return str(node.host), int(node.port)


def _master(settings: RuntimeStorage, addresses: Sequence[Address]) -> tuple[str, int]:
    import redis
    from redis.sentinel import Sentinel

    told = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS, **_once()}
    sentinel = Sentinel([(one.host, one.port) for one in addresses], sentinel_kwargs=told)
    try:
        host, port = sentinel.discover_master(settings.master_name)
    except redis.RedisError as error:
        raise _NoNode(str(error)) from error
    finally:
        for one in sentinel.sentinels:
            one.close()
    return str(host), int(port)
