"""OpenAI's dialect and its compatible vendors, which differ in what a row of `compatible.py` says.

Sources: https://platform.openai.com/docs/api-reference and the types of the `openai` package.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from fnmatch import fnmatchcase

from coollm.core.types import ChatRequest, EmbeddingRequest, Embeddings, Json, ModelRequest, PassThroughRequest, Ranking, RerankRequest, Target, Value
from coollm.providers.base import AnswerFormat, Losses, VendorRequest, WireFormat, bad_answer, error_body, no_stream, no_such_kind, parse_object
from coollm.providers.openai_chat import CHAT, chat_body, decode_usage
from coollm.providers.openai_completions import COMPLETIONS
from coollm.providers.openai_errors import judge
from coollm.providers.openai_responses import RESPONSES
from coollm.providers.payload import Body, write_json
from coollm.providers.upload import NamedUpload
from coollm.providers.verdict import VendorError, Verdict

Patterns = tuple[str, ...]
Headers = tuple[tuple[str, str], ...]

# The headers of so many keys are remembered.
MOST_REMEMBERED = 2000


class OpenAIDialect(Value, frozen=True):
    """OpenAI's dialect, or that of a compatible vendor.

    `key_header` carries the key, after `key_prefix`; `max_tokens_field` is the name of the output limit; `has_usage_option` says whether the vendor takes
    `stream_options` (without it, usage comes in the last chunk of itself). `responses` and `completions` are patterns of the models that it serves at
    /responses and at the old /completions: what is asked there of another model becomes a chat. `operations` are the routes that are passed through.
    """

    vendor: str
    base_url: str | None
    families: Patterns = ()
    key_header: str = "authorization"
    key_prefix: str = "Bearer "
    max_tokens_field: str = "max_completion_tokens"
    has_usage_option: bool = True
    responses: Patterns = ()
    completions: Patterns = ()
    operations: frozenset[str] = frozenset()
    has_chat: bool = True
    counts_tokens: bool = False
    wire: str = "openai"

    def encode(self, request: ModelRequest, target: Target, base_url: str, key: str, losses: Losses) -> VendorRequest:
        """The client's own body where it speaks this dialect, with the vendor's model name, a limit of output tokens where the key has one, and usage."""
        if isinstance(request, ChatRequest):
            path, source, form = self._conversation(request, target, losses)
            accept = "text/event-stream" if request.stream else "application/json"
            return VendorRequest(method="POST", url=f"{base_url}/{path}", headers=self._headers(key, accept), body=write_json(source), answer=form)
        if isinstance(request, PassThroughRequest):
            return self._pass_through(request, target, base_url, key)
        if isinstance(request, EmbeddingRequest | RerankRequest):
            is_ranking = isinstance(request, RerankRequest)
            if is_ranking and "rerank" not in self.operations:
                raise no_such_kind(request, self.vendor)
            body = write_json({**request.source, "model": target.model})
            path, answer = ("rerank", RANKING) if is_ranking else ("embeddings", EMBEDDINGS)
            return VendorRequest(method="POST", url=f"{base_url}/{path}", headers=self._headers(key, "application/json"), body=body, answer=answer)
        raise no_such_kind(request, self.vendor)

    def _headers(self, key: str, accept: str) -> Headers:
        return _remembered(self.key_header, self.key_prefix, key, accept)

    def _conversation(self, request: ChatRequest, target: Target, losses: Losses) -> tuple[str, Json, AnswerFormat]:
        """The address, the body and the format of the answer of a chat."""
        limit = target.max_tokens if request.max_output_tokens is None else None
        dialect, source = request.dialect, request.source
        if dialect != CHAT.wire:
            if dialect == RESPONSES.wire and _is_one_of(target.model, self.responses):
                return "responses", {**source, "model": target.model, **({"max_output_tokens": limit} if limit else {})}, RESPONSES
            if dialect == COMPLETIONS.wire and _is_one_of(target.model, self.completions):
                body = {**source, "model": target.model, **({"max_tokens": limit} if limit else {})}
                return "completions", self._with_usage(body, request), COMPLETIONS
            source = chat_body(request, self.max_tokens_field, losses, self.vendor)
        body = {**source, "model": target.model}
        if limit:
            body[self.max_tokens_field] = limit
        if self.max_tokens_field == "max_tokens" and "max_completion_tokens" in body:
            body["max_tokens"] = body.pop("max_completion_tokens")
        return "chat/completions", self._with_usage(body, request), CHAT

    def _with_usage(self, body: Json, request: ChatRequest) -> Json:
        if request.stream and self.has_usage_option:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        elif not self.has_usage_option:
            body.pop("stream_options", None)
        return body

    def _pass_through(self, request: PassThroughRequest, target: Target, base_url: str, key: str) -> VendorRequest:
        if request.operation not in self.operations:
            raise no_such_kind(request, self.vendor)
        body: bytes | Body = b""
        if request.upload is not None:
            body = NamedUpload(request.upload, target.model)
        elif request.source:
            body = write_json(request.source if request.any_model else {**request.source, "model": target.model})
        return VendorRequest(
            method=request.method,
            url=f"{base_url}/{request.path}" + (f"?{request.query}" if request.query else ""),
            headers=(*_written(self.key_header, self.key_prefix + key if key else "", request.accept, request.content_type), *request.forwarded_headers),
            body=body,
            answer=PASSED_THROUGH,
        )

    def verdict(self, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """The judgement on `{"error": {…}}`, by status and code."""
        return judge(status, headers, error_body(body))


def _written(key_header: str, key: str, accept: str, content_type: str) -> Headers:
    shared = (("content-type", content_type), ("accept", accept)) if content_type else (("accept", accept),)
    return (*shared, (key_header, key)) if key else shared


@functools.lru_cache(maxsize=MOST_REMEMBERED)
def _remembered(key_header: str, key_prefix: str, key: str, accept: str) -> Headers:
    return _written(key_header, key_prefix + key if key else "", accept, "application/json")


def _is_one_of(model: str, patterns: Patterns) -> bool:
    return any(fnmatchcase(model, pattern) for pattern in patterns)


def _embeddings(request: ModelRequest, body: bytes) -> Embeddings:  # noqa: ARG001
    """A list of embeddings. Its vectors are not read: every client that may ask for them gets these bytes."""
    answer = _answer(body)
    if not isinstance(answer.get("data"), list):
        raise bad_answer("the answer has no embeddings")
    return Embeddings(model=str(answer.get("model") or ""), vectors=(), usage=decode_usage(answer.get("usage")))


def _ranking(request: ModelRequest, body: bytes) -> Ranking:  # noqa: ARG001
    """A list of results, which the client gets as it is."""
    answer = _answer(body)
    if not isinstance(answer.get("results"), list):
        raise bad_answer("the answer has no results")
    return Ranking(id=str(answer.get("id") or ""), ranked=(), usage=decode_usage(answer.get("usage")))


def _answer(body: bytes) -> Json:
    answer = parse_object(body, "the answer")
    if answer.get("error"):
        raise VendorError(judge(200, {}, answer))
    return answer


def _not_read(request: ModelRequest, body: bytes) -> Embeddings:  # noqa: ARG001
    raise bad_answer("what is passed through is not read")


EMBEDDINGS = WireFormat(wire="embeddings", read=_embeddings, decoder=no_stream)
RANKING = WireFormat(wire="rerank", read=_ranking, decoder=no_stream)
PASSED_THROUGH = WireFormat(wire="passed through", read=_not_read, decoder=no_stream)
