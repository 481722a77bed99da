"""From a vendor's address to an open connection: names, the fastest of its addresses, a proxy where one is set, TLS that goes on from the last session.

Sources: RFC 8305 (happy eyeballs), RFC 9110 9.3.6 (CONNECT), RFC 8446 2.2 (resumption), `urllib.request.getproxies_environment` of the standard library.
"""

from __future__ import annotations

import _socket
import base64
import ipaddress
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import gevent
import httptools
from gevent import socket
from gevent.queue import Queue

from coollm.wire import TlsWire, Wire

# How long an answer of the resolver holds: it tells of no time, and vendors move their addresses within minutes.
NAMES_SECONDS = 30.0

# Where the resolver fails, an answer of so long ago will do.
STALE_SECONDS = 600.0
MOST_NAMES = 1000

# The next address is tried beside one that dawdles (RFC 8305 5: "Connection Attempt Delay").
ATTEMPT_SECONDS = 0.25
MOST_SESSIONS = 1000
LARGEST_PROXY_HEAD_BYTES = 16 * 1024

Address = tuple[int, tuple[object, ...]]
"""A family, and an address as its sockets take it."""

Resolve = Callable[[str, int], Sequence[Address]]


class Origin(NamedTuple):
    """Where requests go."""

    is_tls: bool
    host: str
    port: int


class Refused(OSError):
    """An address that no vendor has, or a proxy that does not let us through."""


def resolve(host: str, port: int) -> Sequence[Address]:
    """The addresses of a name, as the system's resolver has them; a number is its own address. Raises OSError."""
    try:
        return [(int(socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET), (host, port))]
    except ValueError:
        pass  # a name
    rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(int(family), address) for family, _, _, _, address in rows if family in (socket.AF_INET, socket.AF_INET6)]


class Names:
    """Addresses by name, asked for once in NAMES_SECONDS."""

    def __init__(self, ask: Resolve = resolve, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._known: OrderedDict[tuple[str, int], tuple[float, Sequence[Address]]] = OrderedDict()

    def addresses(self, host: str, port: int) -> Sequence[Address]:
        """In the order in which they are to be tried. Raises OSError."""
        name, now = (host, port), self._clock()
        since, known = self._known.get(name, (0.0, ()))
        if known and now - since < NAMES_SECONDS:
            return known
        try:
            found = _alternating(self._ask(host, port))
        except OSError:
            if known and now - since < STALE_SECONDS:
                return known
            raise
        permitted = [address for address in found if not _is_nobodys(host, str(address[1][0]))]
        if not permitted:
            raise Refused(f"{host} has no address that a vendor can have" if found else f"{host} has no address")
        self._known[name] = (now, permitted)
        if len(self._known) > MOST_NAMES:
            self._known.popitem(last=False)
        return permitted


def _alternating(addresses: Sequence[Address]) -> list[Address]:
    """IPv6 and IPv4 in turns, the resolver's first choice first (RFC 8305 4)."""
    first = addresses[0][0] if addresses else 0
    ours, others = [one for one in addresses if one[0] == first], [one for one in addresses if one[0] != first]
    mixed: list[Address] = []
    while ours or others:
        mixed += [one.pop(0) for one in (ours, others) if one]
    return mixed


def _is_nobodys(host: str, address: str) -> bool:
    """Whether an address is one that a name must not lead to: that of a cloud's metadata service, for one. Who writes such an address into the configuration
    means it; private ones are a vendor's private link, or its own server.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None) or found
    is_odd = mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified or str(mapped) in _METADATA
    return is_odd and host.strip("[]") != address


_METADATA = ("fd00:ec2::254",)


class Connector:
    """Opens connections to origins. One for each worker: it remembers names and TLS sessions."""

    def __init__(self, tls: ssl.SSLContext | None = None, names: Names | None = None, proxies: dict[str, str] | None = None) -> None:
        """`proxies` are as `getproxies_environment` tells them: by scheme, and exceptions under `no`."""
        self._tls = tls or _tls_context()
        self._names = names or Names()
        self._proxies = getproxies_environment() if proxies is None else proxies
        self._sessions: OrderedDict[tuple[str, int], ssl.SSLSession] = OrderedDict()

    def proxy_of(self, origin: Origin) -> SplitResult | None:
        """The proxy on the way to an origin, None if there is none."""
        if not self._proxies:
            return None
        url = self._proxies.get("https" if origin.is_tls else "http") or self._proxies.get("all")
        if not url or proxy_bypass_environment(f"{origin.host}:{origin.port}", self._proxies):
            return None
        return urlsplit(url if "://" in url else f"http://{url}")

    def open(self, origin: Origin, until: float) -> Wire:
        """A connection to an origin. Raises TimeoutError at `until`, and OSError where there is none."""
        proxy = self.proxy_of(origin)
        host, port = (origin.host, origin.port) if proxy is None else (proxy.hostname or "", proxy.port or 8080)
        connection = _first(self._names.addresses(host, port), until)
        if not origin.is_tls:
            return Wire(connection)
        if proxy is not None:
            connection = _tunnel(connection, origin, proxy, until)
        try:
            return TlsWire.begin(connection, self._tls, until, host=origin.host, session=self._sessions.get((origin.host, origin.port)))
        except ValueError as error:
            raise Refused(f"'{origin.host}' is no name of a TLS server: {error}") from error

    def keep_session(self, origin: Origin, wire: Wire) -> None:
        """Remembers how the next connection to the origin can go on from this one; TLS 1.3 tells it after the first answer."""
        if isinstance(wire, TlsWire) and (session := wire.session) is not None:
            self._sessions[(origin.host, origin.port)] = session
            if len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)


def connect_to(host: str, port: int, until: float) -> _socket.socket:
    """A connection to a server of our own, wherever it is. Raises TimeoutError and OSError."""
    return _first(_alternating(resolve(host, port)), until)


def _first(addresses: Sequence[Address], until: float) -> _socket.socket:
    """A connection to the first address that answers: each next one is tried when the one before has failed, or dawdles. Raises OSError."""
    if len(addresses) == 1:
        return _connect(addresses[0], until)
    done: Queue[_socket.socket | OSError] = Queue()

    def attempt(address: Address) -> None:
        try:
            done.put(_connect(address, until))
        except OSError as error:
            done.put(error)

    attempts: list[Any] = []
    outcome: Any = None
    failure: Any = OSError("no address")
    waiting = iter(addresses)
    try:
        for outcome in _outcomes(done, until, lambda: _next_attempt(waiting, attempt, attempts)):
            if isinstance(outcome, _socket.socket):
                return outcome
            failure = outcome
        raise failure
    finally:
        outcome = failure = None  # what is raised holds this frame by its traceback
        gevent.killall(attempts, block=False)
        while not done.empty():
            late = done.get()
            if isinstance(late, _socket.socket):
                late.close()


def _next_attempt(waiting: Iterator[Address], attempt: Callable[[Address], None], attempts: list[Any]) -> bool:
    address = next(waiting, None)
    if address is None:
        return False
    attempts.append(gevent.spawn(attempt, address))
    return True


def _outcomes(done: Queue[_socket.socket | OSError], until: float, begin: Callable[[], bool]) -> Iterator[_socket.socket | OSError]:
    """What comes of attempts, as long as there are any."""
    running = 1 if begin() else 0
    while running:
        try:
            outcome = done.get(timeout=ATTEMPT_SECONDS)
        except gevent.queue.Empty:
            if time.monotonic() >= until:
                raise TimeoutError("no address answers in time") from None
            running += begin()
            continue
        running -= 1
        yield outcome
        running += begin()


def _connect(address: Address, until: float) -> _socket.socket:
    family, place = address
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(max(0.001, until - time.monotonic()))
        connection.connect(place)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connection.close()
        raise
    return _plain(connection)


def _plain(connection: socket.socket) -> _socket.socket:
    """The socket itself, without what gevent has around it."""
    return _socket.socket(connection.family, _socket.SOCK_STREAM, 0, fileno=connection.detach())


class _ProxyAnswer:
    """What a proxy says to CONNECT."""

    def __init__(self) -> None:
        self.has_head = False
        self._parser = httptools.HttpResponseParser(self)
        self.status = 0

    def feed(self, data: bytes) -> None:
        """Raises httptools.HttpParserError."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.has_head = True


def _tunnel(connection: _socket.socket, origin: Origin, proxy: SplitResult, until: float) -> _socket.socket:
    """A way through a proxy (CONNECT). Raises Refused where it does not let us through."""
    wire = Wire(connection)
    try:
        place = f"{f'[{origin.host}]' if ':' in origin.host else origin.host}:{origin.port}"
        lines = [f"CONNECT {place} HTTP/1.1", f"host: {place}", *(f"{name}: {value}" for name, value in proxy_headers(proxy))]
        wire.send("\r\n".join([*lines, "", ""]).encode("latin-1"), until)
        answer, size = _ProxyAnswer(), 0
        while not answer.has_head:
            data = wire.receive(until)
            size += len(data)
            if not data or size > LARGEST_PROXY_HEAD_BYTES:
                raise Refused(f"the proxy {proxy.hostname} gives no answer to CONNECT")
            answer.feed(data)
        if not 200 <= answer.status < 300:
            raise Refused(f"the proxy {proxy.hostname} refuses {place} with status {answer.status}")
        return wire.release()
    except httptools.HttpParserError as error:
        wire.close()
        raise Refused(f"the proxy {proxy.hostname} speaks no HTTP") from error
    except BaseException:
        wire.close()
        raise


def proxy_headers(proxy: SplitResult) -> list[tuple[str, str]]:
    """What a proxy wants to know of who asks."""
    if not proxy.username:
        return []
    told = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return [("proxy-authorization", "Basic " + base64.b64encode(told.encode()).decode())]


def _tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
