"""A connected socket on the event loop: watched all the time, read as soon as something comes, driven by one greenlet.

gevent's sockets start and stop a watcher and a timer for every read, and are asked twice for each: that costs more than reading. Here the loop calls when there
is something, which is taken at once, up to HIGH_WATER_BYTES; then the peer is left to wait. So the end of a peer is noticed also while nobody reads.

Sources: https://www.gevent.org/api/gevent.hub.html, `ssl.SSLObject` of the standard library.
"""

from __future__ import annotations

import _socket
import contextlib
import copy
import ssl
import struct
from collections.abc import Callable
from typing import Any

import gevent

from coollm.outbox import outbox_of
from coollm.waits import Waits

RECEIVE_BYTES = 65536

# Where as much as that had come and was taken, the next read asks for so much: a megabyte comes in four turns of the loop instead of sixteen.
LARGE_RECEIVE_BYTES = 256 * 1024
HIGH_WATER_BYTES = 256 * 1024

# What is larger does not wait for others.
MOST_DUE_BYTES = 64 * 1024

_READABLE, _WRITABLE = 1, 2

_CREDENTIALS = struct.Struct("3i")


class Wire(Waits):
    """One connection. All times are of `time.monotonic()`, in seconds.

    The loop calls `on_data` with what has come, and `on_end` when the peer ends, while nobody waits for it. One that `is_plain` sends and gets what is written.
    """

    __slots__ = (
        "_due",
        "_error",
        "_is_ended",
        "_is_paused",
        "_outbox",
        "_pieces",
        "_receives",
        "_size",
        "_socket",
        "_wants_room",
        "_watcher",
        "_writer",
        "backlog",
        "family",
        "is_plain",
        "on_data",
        "on_end",
        "on_stop",
    )

    def __init__(self, connection: _socket.socket, *, is_plain: bool = True) -> None:
        """Takes the socket over."""
        self.is_plain = is_plain
        connection.setblocking(False)
        self._socket = connection
        self.family = connection.family
        super().__init__(gevent.get_hub())
        self._pieces: list[bytes] = []  # an empty deque has room for 64
        self._size = 0
        self._is_ended = False
        self._receives = RECEIVE_BYTES  # how much the next read asks for
        self._is_paused = False
        # What it broke by. A copy of it is raised, without this one's traceback, which would hold this wire.
        self._error: OSError | None = None
        self._wants_room = False
        self._outbox = outbox_of(self._hub)
        self._due = b""
        # What is posted, and there was no room for yet.
        self.backlog = bytearray()
        self._writer: Any = None
        self.on_data: Callable[[bytes], None] | None = None
        self.on_end: Callable[[], None] | None = None
        # Who serves a request of this connection stops it when this is called.
        self.on_stop: Callable[[], None] | None = None
        self._watcher = self._hub.loop.io(connection.fileno(), _READABLE)
        self._watcher.start(self._readable)

    @property
    def is_quiet(self) -> bool:
        """Whether the peer has neither ended nor sent anything that is not read yet."""
        return not (self._is_ended or self._pieces or self._error is not None)

    @property
    def has_ended(self) -> bool:
        """Whether the peer has ended; what it sent before may still be read."""
        return self._is_ended or self._error is not None

    def receive(self, until: float) -> bytes:
        """What has come, as soon as something has; nothing at the end. Raises TimeoutError at `until`, and OSError where the connection breaks."""
        while not self._pieces:
            if self._error is not None:
                raise copy.copy(self._error)
            if self._is_ended:
                return b""
            self.until = until
            data: bytes = self._pause()
            if data:
                return data
        return self.take()

    def take(self) -> bytes:
        """What has come and was not read yet."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        if self._is_paused:
            self._is_paused = False
            if not self.has_ended:
                self._watcher.start(self._readable)
        return data

    def send(self, data: bytes | memoryview, until: float) -> None:
        """Sends all. Raises TimeoutError if the peer has not taken it by then, and OSError where the connection breaks."""
        if self._due:
            self.send_due()
        if self.backlog:
            self._wait_for_backlog(until)
        if self._outbox.first:
            self._outbox.do_first()
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:], until)

    def send_soon(self, data: bytes, until: float) -> None:
        """The same, but what is small goes out when this turn of the loop is over, with what others send in it. Whether the connection has broken is the
        reader's to see then.
        """
        if len(data) > MOST_DUE_BYTES or self._due or not self.is_plain:
            self.send(data, until)
            return
        if self.backlog:
            self._wait_for_backlog(until)
        if self._error is not None:
            raise copy.copy(self._error)
        self._due = data
        self._outbox.add(self)

    def post_soon(self, data: bytes) -> None:
        """Sends without waiting, when this turn of the loop is over. Raises OSError for a connection that is known to have broken."""
        if not self.is_plain:
            self.post(data)
        elif self._error is not None:
            raise copy.copy(self._error)
        elif self._due:
            self._due += data
        else:
            self._due = data
            self._outbox.add(self)

    def send_due(self) -> None:
        """Sends what was to be sent soon. Called by the loop, and by whoever wants to send more."""
        data, self._due = self._due, b""
        if not data or self._error is not None:
            return
        try:
            self._post(data)
        except OSError:
            return

    def finish(self, until: float) -> None:
        """Waits until all that was sent soon or posted has gone. Raises TimeoutError, and OSError where the connection breaks."""
        if self._due:
            self.send_due()
        if self.backlog:
            self._wait_for_backlog(until)

    def post(self, data: bytes) -> None:
        """Sends without waiting: what there is no room for goes out as soon as there is. Raises OSError."""
        if self._due:
            self.send_due()
        self._post(data)

    def _post(self, data: bytes) -> None:
        if self._outbox.first:
            self._outbox.do_first()
        sent = 0
        if self._writer is None:
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            if sent == len(data):
                return
            self._writer = self._hub.loop.io(self._socket.fileno(), _WRITABLE)
            self._writer.start(self._push)
        self.backlog += memoryview(data)[sent:]

    def _push(self) -> None:
        """Sends what was posted, as much as there is room for. Called by the loop; an error is the reader's to see."""
        try:
            del self.backlog[: self._socket.send(self.backlog)]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.backlog.clear()
        if not self.backlog:
            self._stop_writer()
            if self._wants_room:
                self._wake()

    def _wait_for_backlog(self, until: float) -> None:
        self._wants_room = True
        try:
            while self.backlog:
                self._wait(until)
                if self._error is not None:
                    raise copy.copy(self._error)
        finally:
            self._wants_room = False

    def _stop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.stop()
            writer.close()

    def shutdown_write(self) -> None:
        """Tells the peer that nothing more comes. Raises OSError."""
        if self._due:
            self.send_due()
        self._socket.shutdown(_socket.SHUT_WR)

    def end_if_quiet(self) -> None:
        """Lets whoever waits to read see the end of the connection, unless something has just come; in the loop's next turn."""
        self._hub.loop.run_callback(self._end_if_quiet)

    def _end_if_quiet(self) -> None:
        if self.is_quiet and not self._wants_room and not self.backlog:
            self._readable()
        if self.is_quiet and not self._wants_room and not self.backlog:
            self._is_ended = True
            self._watcher.stop()
            self._wake()

    def close(self) -> None:
        """Closes the connection. Whoever waits for it is told so by an OSError."""
        if self._due:
            self.send_due()
        self._watcher.stop()
        self._watcher.close()
        self.on_data = self.on_end = self.on_stop = None
        self._stop_writer()
        self._socket.close()
        self._error = self._error or ConnectionAbortedError("the connection was closed")
        if self._waiter is not None:
            self._hub.loop.run_callback(self._wake)

    def peer_user(self) -> int:
        """The user id of the process at the other end of a Unix socket (unix(7), SO_PEERCRED). Raises OSError."""
        found: int = _CREDENTIALS.unpack(self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _CREDENTIALS.size))[1]
        return found

    def release(self) -> _socket.socket:
        """Gives the socket to somebody else. What has come and was not read is lost."""
        self._watcher.stop()
        self._watcher.close()
        self._error = ConnectionAbortedError("the connection was given away")
        connection = self._socket
        return _socket.socket(connection.family, _socket.SOCK_STREAM, 0, fileno=connection.detach())

    def _wait(self, until: float) -> None:
        self.until = until
        self._pause()

    def _readable(self) -> None:
        """Called by the loop."""
        try:
            data = self._socket.recv(self._receives)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._error = error.with_traceback(None)
            self._tell()
            return
        if not data:
            self._is_ended = True
        else:
            size = len(data)
            if size >= RECEIVE_BYTES or self._receives != RECEIVE_BYTES:
                # Only where what came is taken at once.
                self._receives = LARGE_RECEIVE_BYTES if size >= RECEIVE_BYTES and not self._size else RECEIVE_BYTES
            if self.is_plain and not self._size and not self._wants_room:  # as it is mostly
                waiter = self._waiter
                if waiter is not None:
                    self._waiter = None
                    waiter.switch(data)
                    return
                if self.on_data is not None:
                    self.on_data(data)
                    return
            self._take(data)
        self._tell()

    def _tell(self) -> None:
        """Something has come, or the end has: whoever waits for it goes on, or is called."""
        if self._is_ended or self._error is not None:
            self._watcher.stop()
        elif self._size > HIGH_WATER_BYTES:
            self._watcher.stop()
            self._is_paused = True
        if self._waiter is not None and (not self._wants_room or self._error is not None):
            self._wake()
            return
        if self._pieces and self.on_data is not None:
            self.on_data(self.take())
        if self.has_ended and self.on_end is not None:
            self.on_end()

    def _take(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)

    def _send_rest(self, data: memoryview, until: float) -> None:
        watcher = self._hub.loop.io(self._socket.fileno(), _WRITABLE)
        watcher.start(self._wake)
        self._wants_room = True
        try:
            while data:
                self._wait(until)
                if self._error is not None:
                    raise copy.copy(self._error)
                with contextlib.suppress(BlockingIOError, InterruptedError):
                    data = data[self._socket.send(data) :]
        finally:
            self._wants_room = False
            watcher.stop()
            watcher.close()


class TlsWire(Wire):
    """The same over TLS."""

    __slots__ = ("_has_handshaken", "_incoming", "_outgoing", "_tls")

    def __init__(
        self, connection: _socket.socket, context: ssl.SSLContext, *, host: str | None = None, is_server: bool = False, session: ssl.SSLSession | None = None
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server, server_hostname=host, session=session)
        self._has_handshaken = False
        super().__init__(connection, is_plain=False)

    @classmethod
    def begin(
        cls,
        connection: _socket.socket,
        context: ssl.SSLContext,
        until: float,
        *,
        host: str | None = None,
        is_server: bool = False,
        session: ssl.SSLSession | None = None,
    ) -> TlsWire:
        """A connection whose handshake is done; closed if it fails. Raises TimeoutError, OSError (`ssl.SSLError` among them), and ValueError where `host`
        is no name.
        """
        try:
            wire = cls(connection, context, host=host, is_server=is_server, session=session)
        except ValueError:
            connection.close()
            raise
        try:
            wire.handshake(until)
        except BaseException:
            wire.close()
            raise
        return wire

    @property
    def session(self) -> ssl.SSLSession | None:
        """What the next connection to the same host can go on from."""
        return self._tls.session

    @property
    def is_resumed(self) -> bool:
        """Whether it went on from the session of another."""
        return bool(self._tls.session_reused)

    def handshake(self, until: float) -> None:
        """Raises TimeoutError, and OSError (`ssl.SSLError` among them) where it fails."""
        while not self._has_handshaken:
            try:
                self._tls.do_handshake()
                self._has_handshaken = True
            except ssl.SSLWantReadError:
                self._flush(until)
                if self.has_ended:
                    raise copy.copy(self._error) or ConnectionResetError("the connection ended in the TLS handshake") from None
                if not self._incoming.pending:
                    self._wait(until)
            except ssl.SSLError:
                # The peer is told why.
                with contextlib.suppress(OSError):
                    self._flush(until)
                raise
        self._flush(until)
        self._decrypt()

    def send(self, data: bytes | memoryview, until: float) -> None:
        self._tls.write(data)
        self._flush(until)

    def post(self, data: bytes) -> None:
        self._tls.write(data)
        super().post(self._outgoing.read())

    def close(self) -> None:
        if self._has_handshaken and self._error is None:
            # An end that is told, so that nobody can cut an answer short unseen (RFC 8446 6.1).
            with contextlib.suppress(OSError):
                self._tls.unwrap()
            with contextlib.suppress(OSError):
                self._socket.send(self._outgoing.read())
        super().close()

    def _flush(self, until: float) -> None:
        if self._outgoing.pending:
            super().send(self._outgoing.read(), until)

    def _take(self, data: bytes) -> None:
        self._incoming.write(data)
        if self._has_handshaken:
            self._decrypt()

    def _decrypt(self) -> None:
        while True:
            try:
                data = self._tls.read(RECEIVE_BYTES)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                self._error = error.with_traceback(None)
                return
            if not data:
                self._is_ended = True
                return
            self._pieces.append(data)
            self._size += len(data)
