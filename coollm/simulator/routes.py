"""Which simulated API answers at which address."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

import msgspec

from coollm.core.types import Json
from coollm.simulator import anthropic, bedrock, cohere, completions, gemini, media, openai, replicate, responses, vertex, voyage
from coollm.simulator.answer import Asked, Heard, Said


class Api(Protocol):
    """A vendor's format on the wire. One that never converses has the first two alone."""

    STREAM_TYPE: str
    BROKEN: bytes

    def key(self, headers: dict[str, str]) -> str:
        """The key of a request."""

    def error(self, status: int, message: str, retry_after: float = 0) -> Json:
        """An error body."""

    def whole(self, asked: Asked, said: Said, request_id: str, *, usage: bool) -> Json:
        """A whole answer."""

    def frames(self, asked: Asked, said: Said, request_id: str, *, usage: bool) -> Iterator[tuple[bytes, bool]]:
        """The frames of a stream, each with whether it holds content."""

    def error_frame(self, message: str) -> bytes:
        """An error inside a stream."""


class Route(msgspec.Struct, frozen=True):
    """Requests whose method and address match are read by `read`."""

    methods: str
    path: re.Pattern[str]
    api: Api
    read: Callable[[Heard], Asked]


def _route(methods: str, path: str, api: Any, read: Callable[[Heard], Asked]) -> Route:
    return Route(methods, re.compile(path), cast("Api", api), read)


_VERTEX = r"/v1/projects/[^/]+/locations/[^/]+/publishers"

ROUTES = (
    _route("POST", r"/v1/chat/completions", openai, openai.read),
    _route("POST", r"/v1/completions", completions, completions.read),
    _route("POST", r"/v1/responses", responses, responses.read),
    _route("POST", r"/v1/embeddings", openai, openai.read_embeddings),
    _route("POST", r"/v1/messages", anthropic, anthropic.read),
    _route("POST", r"/v1/messages/count_tokens", anthropic, anthropic.read_count),
    _route("POST", r"/v1(?:beta)?/models/([^/:]+):(\w+)", gemini, gemini.read),
    _route("POST", _VERTEX + r"/google/models/([^/:]+):(\w+)", gemini, gemini.read),
    _route("POST", _VERTEX + r"/anthropic/models/([^/:]+):(?:rawPredict|streamRawPredict)", anthropic, anthropic.read),
    _route("POST", r"/token", vertex, vertex.read_token),
    _route("POST", r"/v2/chat", cohere, cohere.read),
    _route("POST", r"/v2/embed", cohere, cohere.read_embeddings),
    _route("POST", r"/v2/rerank", cohere, cohere.read_rerank),
    _route("POST", r"/voyage/v1/embeddings", voyage, voyage.read_embeddings),
    _route("POST", r"/voyage/v1/rerank", voyage, voyage.read_rerank),
    _route("POST", r"/v1/models/([^/]+/[^/]+)/predictions", replicate, replicate.read),
    _route("POST", r"/v1/predictions", replicate, replicate.read),
    _route("GET", r"/v1/predictions/([^/]+)(?:/(stream))?", replicate, replicate.read_prediction),
    _route("POST", r"/v1/predictions/([^/]+)/(cancel)", replicate, replicate.read_prediction),
    _route("POST", r"/model/([^/]+)/(converse|converse-stream)", bedrock, bedrock.read),
    _route("POST", r"/model/([^/]+)/invoke", bedrock, bedrock.read_invoke),
    _route("POST", r"/rerank", bedrock, bedrock.read_rerank),
    _route("POST", r"/v1/audio/speech", media, media.read_speech),
    _route("POST", r"/v1/audio/(?:transcriptions|translations)", media, media.read_form),
    _route("POST", r"/v1/images/generations", media, media.read_images),
    _route("POST", r"/v1/images/(?:edits|variations)", media, media.read_form),
    _route("POST", r"/v1/moderations", media, media.read_moderation),
    _route("POST", r"/v1/rerank", media, media.read_rerank),
    _route("GET POST", r"/v1/files", media, media.read_files),
    _route("GET DELETE", r"/v1/files/([^/]+)(?:/content)?", media, media.read_files),
    _route("GET POST", r"/v1/batches", media, media.read_batches),
    _route("GET POST", r"/v1/batches/([^/]+)(?:/cancel)?", media, media.read_batches),
)


def find(method: str, path: str) -> tuple[Route, tuple[str, ...]] | None:
    """The route of a request, and the parts of its address."""
    for route in ROUTES:
        match = route.path.fullmatch(path)
        if match and method in route.methods.split():
            return route, tuple(group for group in match.groups() if group is not None)
    return None
