"""Wires: what comes is there at once, who waits is told of every end, and nobody waits for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent import socket

import coollm.outbox as module
from coollm.waits import Waiter
from coollm.wire import HIGH_WATER_BYTES, Wire
from tests.wires import plain_wire


@pytest.fixture
def pair() -> Iterator[tuple[Wire, socket.socket]]:
    ours, theirs = socket.socketpair()
    wire = plain_wire(ours)
    yield wire, theirs
    wire.close()
    theirs.close()


def soon(seconds: float = 2.0) -> float:
    return time.monotonic() + seconds


def test_what_has_come_is_read_together(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    theirs.sendall(b"one ")
    gevent.sleep(0.01)
    theirs.sendall(b"two")
    gevent.sleep(0.01)
    assert not wire.is_quiet
    assert wire.receive(soon()) == b"one two"
    assert wire.is_quiet
    theirs.close()
    assert wire.receive(soon()) == b""
    assert wire.has_ended


def test_who_waits_is_told_when_the_time_is_over(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            wire.receive(soon(0.1))
        assert 0.05 < time.monotonic() - began < 5
    with pytest.raises(TimeoutError):
        wire.receive(soon(-1))
    theirs.sendall(b"late")
    assert wire.receive(soon()) == b"late"


def test_who_waits_is_told_when_another_closes(pair: tuple[Wire, socket.socket]) -> None:
    wire, _ = pair
    gevent.spawn_later(0.02, wire.close)
    with pytest.raises(OSError, match="closed"):
        wire.receive(soon())
    with pytest.raises(OSError, match="closed"):
        wire.receive(soon())


def test_the_end_of_a_peer_is_noticed_while_nobody_reads(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    ended: list[bool] = []
    wire.on_end = lambda: ended.append(True)
    theirs.sendall(b"the next request")
    gevent.sleep(0.02)
    assert not ended
    theirs.close()
    gevent.sleep(0.02)
    assert ended == [True]
    assert wire.receive(soon()) == b"the next request", "what came before is still there"


def test_a_peer_that_sends_too_much_has_to_wait(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    total = 8 * 1024 * 1024
    sender = gevent.spawn(theirs.sendall, b"x" * total)
    gevent.sleep(0.1)
    assert wire._size < HIGH_WATER_BYTES + 65536 + 1, "the rest stays in the kernel, and with the peer"
    assert not sender.dead
    read = 0
    while read < total:
        read += len(wire.receive(soon()))
    sender.join(2)
    assert sender.successful()


def test_a_peer_that_does_not_read_holds_up_the_sender_and_not_for_ever(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    data = b"y" * (8 * 1024 * 1024)
    with pytest.raises(TimeoutError):
        wire.send(data, soon(0.1))
    theirs.close()
    with pytest.raises(OSError, match=r"[Bb]roken|reset"):
        wire.send(data, soon())


def test_a_slow_reader_gets_all(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    data = bytes(range(256)) * 8192
    got = bytearray()

    def read() -> None:
        while len(got) < len(data):
            got.extend(theirs.recv(50_000))

    reader = gevent.spawn(read)
    wire.send(data, soon(5))
    reader.join(5)
    assert bytes(got) == data


def test_what_is_posted_goes_out_in_its_order(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    pieces = [bytes([number]) * 100_000 for number in range(60)]
    for piece in pieces:
        wire.post(piece)
    got = bytearray()
    while len(got) < 6_000_000:
        got += theirs.recv(65536)
    assert bytes(got) == b"".join(pieces)
    wire.post(b"more")
    assert theirs.recv(10) == b"more"


def test_several_quiet_wires_are_ended_by_one_greenlet() -> None:
    """Whoever ends one must come back to end the next."""
    pairs = [socket.socketpair() for _ in range(3)]
    wires = [plain_wire(ours) for ours, _ in pairs]
    readers = [gevent.spawn(wire.receive, soon(5)) for wire in wires]
    gevent.sleep(0.01)
    pairs[1][1].sendall(b"a request")

    def end() -> int:
        for wire in wires:
            wire.end_if_quiet()
        return 3

    assert gevent.spawn(end).get(timeout=2) == 3
    gevent.joinall(readers, timeout=2)
    assert [reader.value for reader in readers] == [b"", b"a request", b""]


def test_a_waiter_is_given_its_value_its_failure_or_its_time() -> None:
    hub = gevent.get_hub()
    given, failed, late = (Waiter(hub, soon(0.2)) for _ in range(3))
    hub.loop.run_callback(given.give, 7)
    assert given.wait() == 7
    gevent.spawn(failed.fail, ConnectionResetError("gone"))
    with pytest.raises(ConnectionResetError):
        failed.wait()
    with pytest.raises(TimeoutError):
        late.wait()
    early = Waiter(hub, soon())
    early.give(1)
    assert early.wait() == 1


def busily(work: Callable[[], None]) -> None:
    """Does `work` in a turn of the loop in which something else has come, too."""
    pairs = [socket.socketpair() for _ in range(2)]
    wires = [plain_wire(ours) for ours, _ in pairs]
    told: list[BaseException | None] = []

    def came(_: bytes) -> None:
        if not told:
            told.append(None)
            try:
                work()
            except BaseException as error:
                told[0] = error

    for wire, (_, theirs) in zip(wires, pairs, strict=True):
        wire.on_data = came
        theirs.send(b"!")
    gevent.sleep(0.02)
    for wire, (_, theirs) in zip(wires, pairs, strict=True):
        wire.close()
        theirs.close()
    assert told
    if told[0] is not None:
        raise told[0]


def has_nothing(peer: socket.socket) -> bool:
    peer.settimeout(0.0)
    try:
        peer.recv(10)
    except BlockingIOError:
        return True
    return False


def test_what_is_sent_soon_goes_out_together_when_the_turn_is_over(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    ours, others = socket.socketpair()
    second = plain_wire(ours)

    def send() -> None:
        for one, peer in ((wire, theirs), (second, others)):
            one.send_soon(b"soon", soon())
            assert has_nothing(peer)

    busily(send)
    assert (theirs.recv(10), others.recv(10)) == (b"soon", b"soon")
    second.close()
    others.close()


def test_what_is_sent_soon_goes_out_at_once_when_there_is_nothing_else_to_do(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    gevent.sleep(0)
    wire.send_soon(b"soon", soon())
    assert not has_nothing(theirs)


def test_what_is_to_be_done_first_is_done_before_anything_is_sent(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    done: list[str] = []
    for way in (lambda: wire.send(b"x", soon()), lambda: wire.post(b"x"), lambda: wire.send_soon(b"x", soon()), lambda: wire.post_soon(b"x")):
        module.before_sending(lambda: done.append("first" if has_nothing(theirs) else "too late"))
        module.before_sending(lambda: done.append("and then"))
        gevent.sleep(0.01)
        assert done == [], "it waits until something is sent"
        way()
        gevent.sleep(0.01)
        assert done == ["first", "and then"]
        assert theirs.recv(10) == b"x"
        done.clear()


def test_what_is_sent_soon_keeps_its_place(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    for later in (lambda: wire.send(b" then", soon()), lambda: wire.post(b" then"), lambda: wire.send_soon(b" then", soon()), lambda: wire.post_soon(b" then")):
        for do in (busily, lambda work: work()):
            do(lambda later=later: (wire.send_soon(b"first", soon()), later()))
            gevent.sleep(0)
            assert theirs.recv(100) == b"first then"
    busily(lambda: [wire.post_soon(piece) for piece in (b"la", b"s", b"t")] and wire.close())
    assert theirs.recv(100) == b"last"


def test_nobody_waits_for_too_many_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TOGETHER", 3)
    gevent.sleep(0)  # nothing waits yet
    pairs = [socket.socketpair() for _ in range(4)]
    wires = [plain_wire(ours) for ours, _ in pairs]

    def send() -> None:
        for wire in wires:
            wire.send_soon(b"x", soon())
        assert [has_nothing(theirs) for _, theirs in pairs] == [False, False, False, True]

    busily(send)
    assert pairs[3][1].recv(10) == b"x"
    for wire, (_, theirs) in zip(wires, pairs, strict=True):
        wire.close()
        theirs.close()


def test_a_slow_reader_gets_all_that_was_sent_soon_before_the_end() -> None:
    ours, theirs = socket.socketpair()
    for one in (ours, theirs):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire = plain_wire(ours)
    wire.send_soon(b"z" * 60_000, soon())

    def end() -> None:
        wire.finish(soon(5))
        wire.close()

    ending = gevent.spawn(end)
    gevent.sleep(0.05)
    assert not ending.ready(), "the reader has not read yet"
    wire.end_if_quiet()
    got = b""
    while data := theirs.recv(1000):
        got += data
    assert got == b"z" * 60_000
    assert ending.successful()
    theirs.close()
