"""The simulated vendor: routes of the three APIs, the behaviour asked for, and a record of what it saw.

`GET /_simulator/requests` lists the last requests with how they ended, for tests: `client_closed` is the moment the client's side of the connection closed.
"""

from __future__ import annotations

import re
import time
import uuid
from collections import deque
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson

from coollm.core.types import Json
from coollm.simulator import anthropic, gemini, openai
from coollm.simulator.answer import Asked, Said, answer
from coollm.simulator.behaviour import Behaviour, behaviour
from coollm.simulator.http import ClientLeft, CutHere, HttpServer, Incoming, Outgoing

REMEMBERED = 20_000
FOREVER_SECONDS = 3600.0

_GEMINI = re.compile(r"/v1(?:beta)?/models/([^/:]+):(generateContent|streamGenerateContent|batchEmbedContents)")


class Vendor:
    """A server that plays OpenAI, Anthropic and Gemini on one port."""

    def __init__(self, base: Behaviour | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self._base = base or Behaviour()
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
        path = unquote(parts.path)
        if path == "/_simulator/requests":
            outgoing.whole(200, orjson.dumps(list(self.seen)))
            return
        row: Json = {"path": path, "started": time.time(), "ended": None, "how": "running"}
        self.seen.append(row)
        try:
            row["how"] = self._route(incoming, outgoing, path, row)
        except ClientLeft:
            row["how"] = "client_closed"
            raise
        except CutHere:
            row["how"] = "cut"
            raise
        finally:
            row["ended"] = time.time()

    def _route(self, incoming: Incoming, outgoing: Outgoing, path: str, row: Json) -> str:
        wire, key, model = _wire(path, incoming.headers)
        if wire is None:
            outgoing.whole(404, orjson.dumps(openai.error(404, f"no such address: {path}")))
            return "unknown"
        try:
            body = orjson.loads(incoming.body)
            if not isinstance(body, dict):
                raise ValueError("the body is not an object")
            model = model or str(body.get("model") or "")
            asked = _read(wire, body, model, key, path)
            how = behaviour(self._base, key, model, incoming.headers.get("x-simulate", ""))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            outgoing.whole(400, orjson.dumps(wire.error(400, str(error))))
            return "bad_request"
        row.update(model=model, key=key[-12:], stream=asked.stream)
        return self._answer(wire, asked, how, outgoing)

    def _answer(self, wire: ModuleType, asked: Asked, how: Behaviour, outgoing: Outgoing) -> str:
        if how.hang:
            outgoing.pause(FOREVER_SECONDS)
        outgoing.pause(how.latency_ms / 1000)
        if not asked.key:
            outgoing.whole(401, orjson.dumps(wire.error(401, "no API key was given")))
            return "error"
        if how.status != 200:
            self._refuse(wire, how, outgoing)
            return "error"
        if asked.embeds:
            outgoing.whole(200, orjson.dumps(wire.embeddings(asked, usage=bool(how.usage))))
            return "answered"
        said = answer(asked, how)
        request_id = uuid.uuid4().hex[:24]
        if asked.stream:
            self._stream(wire, asked, said, request_id, how, outgoing)
        else:
            if how.rate:
                outgoing.pause(len(said.tokens) / how.rate)
            body = orjson.dumps(wire.whole(asked, said, request_id, usage=bool(how.usage)))
            outgoing.whole(200, b"{broken" if how.malformed_after >= 0 else body, cut_after=how.cut_after)
        return "answered"

    @staticmethod
    def _refuse(wire: ModuleType, how: Behaviour, outgoing: Outgoing) -> None:
        headers = {"retry-after": f"{how.retry_after:g}"} if how.retry_after else {}
        message = f"simulated status {how.status}"
        made = gemini.error(how.status, message, how.retry_after) if wire is gemini else wire.error(how.status, message)
        outgoing.whole(how.status, orjson.dumps(made), headers)

    @staticmethod
    def _stream(wire: ModuleType, asked: Asked, said: Said, request_id: str, how: Behaviour, outgoing: Outgoing) -> None:
        outgoing.begin_stream()
        outgoing.pause(how.first_token_ms / 1000)
        sent = 0
        due = time.monotonic()
        for frame, is_content in wire.frames(asked, said, request_id, usage=bool(how.usage)):
            if is_content:
                if sent == how.cut_after:
                    raise CutHere
                if sent == how.malformed_after:
                    outgoing.send(b"data: {broken\n\n")
                if sent == how.error_after:
                    outgoing.send(wire.error_frame("simulated failure"))
                    break
                if how.rate:
                    due += 1 / how.rate
                    outgoing.pause(due - time.monotonic())
                sent += 1
            outgoing.send(frame)
        outgoing.end_stream()


def _wire(path: str, headers: dict[str, str]) -> tuple[Any, str, str]:
    """The vendor's module, the key and, where the address has it, the model."""
    bearer = headers.get("authorization", "").removeprefix("Bearer ").strip()
    if path.endswith(("/chat/completions", "/embeddings")):
        return openai, bearer or headers.get("api-key", ""), ""
    if path == "/v1/messages":
        return anthropic, headers.get("x-api-key", "") or bearer, ""
    match = _GEMINI.fullmatch(path)
    if match:
        return gemini, headers.get("x-goog-api-key", ""), match[1]
    return None, "", ""


def _read(wire: ModuleType, body: Json, model: str, key: str, path: str) -> Asked:
    if path.endswith("/embeddings"):
        return openai.read_embeddings(body, model, key)
    if path.endswith("batchEmbedContents"):
        return gemini.read_embeddings(body, model, key)
    if wire is gemini:
        return gemini.read(body, model, key, stream=path.endswith("streamGenerateContent"))
    read: Asked = wire.read(body, model, key)
    return read
