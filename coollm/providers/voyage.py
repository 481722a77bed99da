"""Voyage's API: embeddings and rerank. It has no chat.

Sources: https://docs.voyageai.com/reference/embeddings-api, /reference/reranker-api and the `voyageai` package.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any

from coollm.core.types import EmbeddingRequest, Embeddings, Json, ModelRequest, Ranked, Ranking, RerankRequest, Target, Usage, Value
from coollm.providers.base import Losses, VendorRequest, WireFormat, bad_answer, count, error_body, no_stream, no_such_kind, parse_object, unsupported
from coollm.providers.openai_errors import judge
from coollm.providers.payload import write_json
from coollm.providers.verdict import Verdict

# Parameters of OpenAI's that Voyage does not know; what else a client sends is Voyage's own and goes on.
_OPENAIS_OWN = frozenset({"model", "input", "dimensions", "encoding_format", "user"})
_RERANKS_OWN = frozenset({"model", "query", "documents", "top_n", "return_documents", "max_tokens_per_doc", "rank_fields"})


class VoyageDialect(Value, frozen=True):
    """Voyage's dialect."""

    wire: str = "voyage"
    has_chat: bool = False
    counts_tokens: bool = False
    operations: frozenset[str] = frozenset()
    base_url: str | None = "https://api.voyageai.com/v1"
    families: tuple[str, ...] = ("voyage-*", "rerank-*")

    def encode(self, request: ModelRequest, target: Target, base_url: str, key: str, losses: Losses) -> VendorRequest:
        """A `POST /v1/embeddings` or `/v1/rerank`."""
        if isinstance(request, EmbeddingRequest):
            path, body, answer = "embeddings", _embed_body(request, target), EMBEDDINGS
        elif isinstance(request, RerankRequest):
            path, body, answer = "rerank", _rerank_body(request, target, losses), RANKING
        else:
            raise no_such_kind(request, "Voyage")
        headers = (("content-type", "application/json"), ("authorization", f"Bearer {key}"))
        return VendorRequest(method="POST", url=f"{base_url}/{path}", headers=headers, body=write_json(body), answer=answer)

    def verdict(self, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """The judgement on `{"detail": …}`, by status."""
        return judge(status, headers, error_body(body))


DIALECT = VoyageDialect()


def _embed_body(request: EmbeddingRequest, target: Target) -> Json:
    if not all(isinstance(one, str) for one in request.inputs):
        raise unsupported("input", "Voyage", "it takes texts, not the numbers of tokens")
    own = {name: value for name, value in request.source.items() if name not in _OPENAIS_OWN}
    # Base64 is a quarter of the bytes on the way.
    body: Json = {"model": target.model, "input": list(request.inputs), "encoding_format": "base64", **own}
    return {**body, **({"output_dimension": request.dimensions} if request.dimensions else {})}


def _rerank_body(request: RerankRequest, target: Target, losses: Losses) -> Json:
    for name in ("max_tokens_per_doc", "rank_fields"):
        if request.source.get(name) is not None:
            losses.lose(name, "Voyage")
    own = {name: value for name, value in request.source.items() if name not in _RERANKS_OWN}
    body: Json = {"model": target.model, "query": request.query, "documents": list(request.documents), **own}
    return {**body, **({"top_k": request.top_n} if request.top_n else {})}


def _usage(answer: Json) -> Usage | None:
    return Usage(input_tokens=count(answer.get("usage"), "total_tokens")) if isinstance(answer.get("usage"), dict) else None


def _rows(answer: Json) -> list[Json]:
    rows = answer.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise bad_answer("the answer has no data")
    return rows


def _vector(value: Any) -> tuple[float, ...]:
    if not isinstance(value, str):
        return tuple(value)
    data = base64.b64decode(value)
    return struct.unpack(f"<{len(data) // 4}f", data)


def _decode_embeddings(request: ModelRequest, body: bytes) -> Embeddings:
    answer = parse_object(body, "the answer")
    rows = sorted(_rows(answer), key=lambda row: count(row, "index"))
    return Embeddings(model=request.model, vectors=tuple(_vector(row.get("embedding") or ()) for row in rows), usage=_usage(answer))


def _decode_ranking(request: ModelRequest, body: bytes) -> Ranking:  # noqa: ARG001
    answer = parse_object(body, "the answer")
    ranked = tuple(Ranked(index=count(row, "index"), score=float(row.get("relevance_score") or 0.0)) for row in _rows(answer))
    return Ranking(id="", ranked=ranked, usage=_usage(answer))


EMBEDDINGS = WireFormat(wire="voyage embeddings", read=_decode_embeddings, decoder=no_stream)
RANKING = WireFormat(wire="voyage rerank", read=_decode_ranking, decoder=no_stream)
