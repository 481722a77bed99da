"""Talks HTTP to a running gateway: over its local socket, or to an address with a key."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from coollm_cli.ops.who import actor_header

from coollm.core.config.load import load
from coollm.core.config.values import Address
from coollm.core.errors import OperationFailed, Unreachable
from coollm.core.instances import Instance, find_instances, is_alive
from coollm.core.paths import find_config, run_directory

TIMEOUT_SECONDS = 30.0
REQUEST_TIMEOUT_SECONDS = 900.0


class Reply(NamedTuple):
    """Status, headers with lower-case names, and the parsed body (an object, or {} if it is no JSON)."""

    status: int
    headers: dict[str, str]
    body: Any


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class GatewayClient:
    """One running gateway, by its socket or its address."""

    def __init__(self, *, instance: Instance | None = None, url: str = "", key: str = "") -> None:
        self.instance = instance
        self._url = url
        self._key = key

    @property
    def where(self) -> str:
        """What is talked to, for messages."""
        return self._url or f"the socket {self.instance.socket if self.instance else ''}"

    def get(self, path: str, timeout: float = TIMEOUT_SECONDS) -> Reply:
        """GET. Raises Unreachable."""
        with self._response("GET", path, None, timeout) as response:
            return _reply(response)

    def post(self, path: str, body: Any, timeout: float = REQUEST_TIMEOUT_SECONDS) -> Reply:
        """POST of a JSON body. Raises Unreachable."""
        with self._response("POST", path, body, timeout) as response:
            return _reply(response)

    def ask(self, path: str, body: Any = None) -> Any:
        """The body of a successful GET, or POST if there is a body. Raises OperationFailed with what the gateway says, and Unreachable."""
        reply = self.get(path) if body is None else self.post(path, body)
        if reply.status not in (200, 201):
            raise OperationFailed(error_text(reply))
        return reply.body

    def delete(self, path: str) -> Any:
        """The body of a successful DELETE. Raises OperationFailed with what the gateway says, and Unreachable."""
        with self._response("DELETE", path, None, REQUEST_TIMEOUT_SECONDS) as response:
            reply = _reply(response)
        if reply.status != 200:
            raise OperationFailed(error_text(reply))
        return reply.body

    def put(self, path: str, body: Any) -> Any:
        """The body of a successful PUT. Raises OperationFailed with what the gateway says, and Unreachable."""
        with self._response("PUT", path, body, REQUEST_TIMEOUT_SECONDS) as response:
            reply = _reply(response)
        if reply.status != 200:
            raise OperationFailed(error_text(reply))
        return reply.body

    def lines(self, path: str) -> Iterator[bytes]:
        """The lines of a successful GET, as they come. Raises OperationFailed with what the gateway says, and Unreachable."""
        with self._response("GET", path, None, REQUEST_TIMEOUT_SECONDS) as response:
            if response.status != 200:
                raise OperationFailed(error_text(_reply(response)))
            try:
                yield from response
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable(f"{self.where}: the answer broke off: {error}") from error

    def stream(self, path: str, body: Any) -> tuple[Reply | None, dict[str, str], Iterator[Any]]:
        """POST of a request for a stream: the reply if it is none, the headers, and the data of the events. Raises Unreachable."""
        manager = self._response("POST", path, body, REQUEST_TIMEOUT_SECONDS)
        response = manager.__enter__()
        headers = {name.lower(): value for name, value in response.getheaders()}
        if response.status != 200 or "text/event-stream" not in headers.get("content-type", ""):
            reply = _reply(response)
            manager.__exit__()
            return reply, headers, iter(())
        return None, headers, self._events(manager, response)

    def _events(self, manager: _Response, response: http.client.HTTPResponse) -> Iterator[Any]:
        try:
            for line in response:
                data = line.strip().removeprefix(b"data: ")
                if line.startswith(b"data: ") and data != b"[DONE]":
                    yield json.loads(data)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(f"{self.where}: the stream broke off: {error}") from error
        finally:
            manager.__exit__()

    def _response(self, method: str, path: str, body: Any, timeout: float) -> _Response:
        headers = {"content-type": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        if self.instance is not None:
            headers["x-coollm-actor"] = actor_header()
        return _Response(self._connection(timeout), method, path, None if body is None else json.dumps(body), headers, self.where)

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self.instance is not None:
            return _UnixConnection(self.instance.socket, timeout)
        parts = urlsplit(self._url)
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout)
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)


class _Response:
    """An HTTP exchange as a context."""

    def __init__(self, connection: http.client.HTTPConnection, method: str, path: str, body: str | None, headers: dict[str, str], where: str) -> None:
        self._connection = connection
        self._ask = (method, path, body, headers)
        self._where = where

    def __enter__(self) -> http.client.HTTPResponse:
        method, path, body, headers = self._ask
        try:
            self._connection.request(method, path, body=body, headers=headers)
            return self._connection.getresponse()
        except PermissionError as error:
            raise Unreachable(f"{self._where}: permission denied", "it belongs to another user: use sudo, or be that user") from error
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise Unreachable(f"{self._where}: no gateway answers: {error}", "start one with `coollm serve`") from error

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def _reply(response: http.client.HTTPResponse) -> Reply:
    try:
        data = response.read()
        body = json.loads(data) if data else {}
    except ValueError:
        body = {}
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"the answer of the gateway broke off: {error}") from error
    return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def error_text(reply: Reply) -> str:
    """What a refused request's body says."""
    return f"the gateway answers {reply.status}: {_error(reply).get('message') or 'without a reason'}"


def error_code(reply: Reply) -> str | None:
    """The code of what it says; `coollm explain CODE` tells more."""
    return _error(reply).get("code")


def _error(reply: Reply) -> dict[str, Any]:
    error = reply.body.get("error") if isinstance(reply.body, dict) else None
    return error if isinstance(error, dict) else {}


def running_instances(config: Path | None) -> list[Instance]:
    """The instances of this host, those of the configuration in force first."""
    path = find_config(config).absolute()
    found = find_instances(run_directory(path))
    alive = [instance for instance in found if is_alive(instance.pid)]
    return sorted(alive, key=lambda instance: instance.config != str(path))


def find_gateway(config: Path | None, url: str | None = None) -> GatewayClient:
    """The gateway to talk to: `url` with the key of $COOLLM_API_KEY, else the one that runs here. Raises Unreachable."""
    if url:
        return GatewayClient(url=url.rstrip("/"), key=os.environ.get("COOLLM_API_KEY", ""))
    instances = running_instances(config)
    if not instances:
        raise Unreachable("no gateway of this user runs on this host", "start one with `coollm serve`, or name one with --url")
    return GatewayClient(instance=instances[0])


def listening_url(config: Path | None) -> str | None:
    """The address that the configuration in force listens on; None if there is no valid configuration."""
    settings = load(find_config(config)).settings
    if settings is None:
        return None
    scheme = "https" if settings.server.tls else "http"
    return f"{scheme}://{Address(settings.server.listen.reachable_host, settings.server.listen.port)}"
