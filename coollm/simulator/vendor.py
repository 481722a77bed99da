"""The simulated vendors: every API on one port, the behaviour asked for, and a record of what was seen.

`GET /_simulator/requests` lists the last requests with how they ended, for tests: `client_closed` is the moment the client's side of the connection closed.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter, deque
from urllib.parse import unquote, urlsplit

import orjson

from coollm.core.types import Json
from coollm.simulator import openai
from coollm.simulator.answer import Asked, Heard, Memory, Said, answer
from coollm.simulator.behaviour import Behaviour, behaviour
from coollm.simulator.http import ClientLeft, CutHere, HttpServer, Incoming, Outgoing
from coollm.simulator.routes import Api, Route, find

REMEMBERED = 20_000
FOREVER_SECONDS = 3600.0
PIECE_BYTES = 1000


class Vendor:
    """A server that plays every vendor on one port."""

    def __init__(self, base: Behaviour | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self._base = base or Behaviour()
        self._memory = Memory()
        self._asked: Counter[str] = Counter()
        self.seen: deque[Json] = deque(maxlen=REMEMBERED)
        self._server = HttpServer((host, port), self._handle)

    def start(self) -> int:
        """Listens, and returns the port."""
        self._server.start()
        return int(self._server.address[1])

    def serve_forever(self) -> None:
        """Serves until the process ends."""
        self._server.serve_forever()

    def stop(self) -> None:
        """Stops listening."""
        self._server.stop()

    def _handle(self, incoming: Incoming, outgoing: Outgoing) -> None:
        parts = urlsplit(incoming.url.decode("latin-1"))
        if parts.path == "/_simulator/requests":
            outgoing.whole(200, orjson.dumps(list(self.seen)))
            return
        row: Json = {"path": unquote(parts.path), "started": time.time(), "ended": None, "how": "running"}
        self.seen.append(row)
        try:
            row["how"] = self._route(incoming, outgoing, parts.path, parts.query, row)
        except ClientLeft:
            row["how"] = "client_closed"
            raise
        except CutHere:
            row["how"] = "cut"
            raise
        finally:
            row["ended"] = time.time()

    def _route(self, incoming: Incoming, outgoing: Outgoing, path: str, query: str, row: Json) -> str:
        found = find(incoming.method, path) or find(incoming.method, unquote(path))
        if found is None:
            outgoing.whole(404, orjson.dumps(openai.error(404, f"no such address: {unquote(path)}")))
            return "unknown"
        route, groups = found
        try:
            heard = self._hear(incoming, route, path, query, groups)
            asked = route.read(heard)
            how = behaviour(self._base, heard.key, asked.model, incoming.headers.get("x-simulate", ""))
        except PermissionError as error:
            outgoing.whole(403, orjson.dumps(route.api.error(403, str(error))))
            return "refused"
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            status = 404 if isinstance(error, LookupError) and incoming.method != "POST" else 400
            outgoing.whole(status, orjson.dumps(route.api.error(status, str(error))))
            return "bad_request"
        row.update(model=asked.model, key=asked.key[-12:], stream=asked.stream)
        return self._answer(route.api, asked, how, outgoing)

    def _hear(self, incoming: Incoming, route: Route, path: str, query: str, groups: tuple[str, ...]) -> Heard:
        is_json = "json" in incoming.headers.get("content-type", "json") and incoming.body
        body = orjson.loads(incoming.body) if is_json else {}
        if not isinstance(body, dict):
            raise ValueError("the body is not an object")
        return Heard(
            method=incoming.method,
            path=path,
            groups=tuple(unquote(group) for group in groups),
            query=query,
            headers=incoming.headers,
            data=incoming.body,
            body=body,
            key=route.api.key(incoming.headers),
            origin=f"http://{incoming.headers.get('host', '')}",
            memory=self._memory,
        )

    def _answer(self, api: Api, asked: Asked, how: Behaviour, outgoing: Outgoing) -> str:
        if how.hang:
            outgoing.pause(FOREVER_SECONDS)
        outgoing.pause(how.latency_ms / 1000)
        if not asked.key:
            outgoing.whole(401, orjson.dumps(api.error(401, "no API key was given")))
            return "error"
        if how.status != 200 and not self._is_good_still(asked.key, how.good):
            headers = {"retry-after": f"{how.retry_after:g}"} if how.retry_after else {}
            outgoing.whole(how.status, orjson.dumps(api.error(how.status, f"simulated status {how.status}", how.retry_after)), headers)
            return "error"
        if asked.reply is not None:
            return self._reply(asked, how, outgoing)
        said = answer(asked, how)
        request_id = uuid.uuid4().hex[:24]
        if asked.stream:
            self._stream(api, asked, said, request_id, how, outgoing)
        else:
            if how.rate:
                outgoing.pause(len(said.tokens) / how.rate)
            body = orjson.dumps(api.whole(asked, said, request_id, usage=bool(how.usage)))
            outgoing.whole(200, b"{broken" if how.malformed_after >= 0 else body, cut_after=how.cut_after)
        return "answered"

    def _is_good_still(self, key: str, good: int) -> bool:
        if good:
            self._asked[key] += 1
        return 0 < self._asked[key] <= good

    @staticmethod
    def _reply(asked: Asked, how: Behaviour, outgoing: Outgoing) -> str:
        assert asked.reply is not None  # noqa: S101  the caller has looked
        reply = asked.reply(how, asked.model)
        if not isinstance(reply.body, bytes) or not how.rate:
            data = reply.body if isinstance(reply.body, bytes) else orjson.dumps(reply.body)
            outgoing.whole(reply.status, data, {"content-type": reply.content_type}, cut_after=how.cut_after)
            return "answered"
        outgoing.begin_stream(reply.content_type)
        outgoing.pause(how.first_token_ms / 1000)
        for place in range(0, len(reply.body), PIECE_BYTES):
            if place == how.cut_after * PIECE_BYTES:
                raise CutHere
            outgoing.pause(1 / how.rate)
            outgoing.send(reply.body[place : place + PIECE_BYTES])
        outgoing.end_stream()
        return "answered"

    @staticmethod
    def _stream(api: Api, asked: Asked, said: Said, request_id: str, how: Behaviour, outgoing: Outgoing) -> None:
        outgoing.begin_stream(api.STREAM_TYPE)
        outgoing.pause(how.first_token_ms / 1000)
        sent = 0
        due = time.monotonic()
        for frame, is_content in api.frames(asked, said, request_id, usage=bool(how.usage)):
            if is_content:
                if sent == how.cut_after:
                    raise CutHere
                if sent == how.malformed_after:
                    outgoing.send(api.BROKEN)
                if sent == how.error_after:
                    outgoing.send(api.error_frame("simulated failure"))
                    break
                if how.rate:
                    due += 1 / how.rate
                    outgoing.pause(due - time.monotonic())
                sent += 1
            outgoing.send(frame)
        outgoing.end_stream()
