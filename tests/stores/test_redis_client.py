"""The connection to Redis that all greenlets of a worker share."""

from __future__ import annotations

import time
from pathlib import Path

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer

from coollm.core.config.schema import RuntimeStorage
from coollm.core.secrets import Secret
from coollm.stores.base import StoreError
from coollm.stores.redis_client import Redis, Script, connect
from tests.conftest import free_port, redis_server

TAG = "{coollm}"
ECHO = Script("return {KEYS[1], ARGV[1]}")


def redis_at(address: str, **more: object) -> Redis:
    return connect(RuntimeStorage(type="redis", addr=address, **more), TAG)  # type: ignore[arg-type]


def test_everybody_gets_the_answer_to_what_he_asked(redis_url: str) -> None:
    redis = redis_at(redis_url)
    asked = [gevent.spawn(redis.run, ECHO, [f"{TAG}:k"], [str(number) * (number % 50 + 1)]) for number in range(500)]
    gevent.joinall(asked, timeout=10)
    assert [one.get()[1].decode() for one in asked] == [str(number) * (number % 50 + 1) for number in range(500)]
    large = "x" * 3_000_000
    assert [one.get(timeout=10)[1].decode() == large for one in [gevent.spawn(redis.run, ECHO, [f"{TAG}:k"], [large]) for _ in range(3)]] == [True] * 3
    redis.close()
    assert redis.command("PING") == b"PONG", "it connects again"
    redis.close()


def test_a_script_that_redis_has_forgotten_is_told_again(redis_url: str) -> None:
    redis = redis_at(redis_url)
    assert redis.run(ECHO, [f"{TAG}:k"], ["a"])[1] == b"a"
    redis.command("SCRIPT", "FLUSH")
    assert redis.run(ECHO, [f"{TAG}:k"], ["b"])[1] == b"b"
    with pytest.raises(StoreError, match="Redis: "):
        redis.run(Script("return redis.call('NONSENSE')"), [], [])
    assert redis.command("PING") == b"PONG", "one that fails breaks nothing"
    redis.close()


def test_a_redis_that_went_and_came_back(tmp_path: Path) -> None:
    port = free_port()
    redis = redis_at(f"127.0.0.1:{port}")
    with pytest.raises(StoreError, match="refused"):
        redis.command("PING")
    with redis_server(tmp_path, port):
        assert redis.command("PING") == b"PONG"
    with pytest.raises(StoreError):
        redis.command("PING")
    with redis_server(tmp_path, port):
        assert redis.command("PING") == b"PONG"
    redis.close()


@pytest.mark.parametrize("mode", ["single", "sentinel", "cluster"])
def test_nobody_is_there(mode: str) -> None:
    redis = redis_at(f"127.0.0.1:{free_port()}", mode=mode, failover_wait=2.0)
    began = time.monotonic()
    with pytest.raises(StoreError, match="Redis: "):
        redis.command("PING")
    assert time.monotonic() - began < 5
    redis.close()


def test_a_password_that_is_wrong(tmp_path: Path) -> None:
    port = free_port()
    with redis_server(tmp_path, port, "--requirepass", "right-password"):
        with pytest.raises(StoreError, match="WRONGPASS"):
            redis_at(f"127.0.0.1:{port}", password=Secret("wrong-password")).command("PING")
        with pytest.raises(StoreError, match="NOAUTH"):
            redis_at(f"127.0.0.1:{port}").command("PING")
        assert redis_at(f"127.0.0.1:{port}", password=Secret("right-password")).command("PING") == b"PONG"


def test_one_that_does_not_answer_holds_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coollm.stores.redis_client.TIMEOUT_SECONDS", 0.3)

    def silent(connection: socket.socket, _: object) -> None:
        while connection.recv(1000):
            pass

    server = StreamServer(("127.0.0.1", 0), silent)
    server.start()
    redis = redis_at(f"127.0.0.1:{server.address[1]}")
    began = time.monotonic()
    asked = [gevent.spawn(redis.command, "PING") for _ in range(5)]
    gevent.joinall(asked, timeout=5)
    assert time.monotonic() - began < 2
    assert all(isinstance(one.exception, StoreError) for one in asked)
    redis.close()
    server.stop()


def test_one_that_speaks_something_else() -> None:
    server = StreamServer(("127.0.0.1", 0), lambda connection, _: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    server.start()
    with pytest.raises(StoreError):
        redis_at(f"127.0.0.1:{server.address[1]}").command("PING")
    server.stop()
