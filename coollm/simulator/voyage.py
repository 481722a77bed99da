"""Voyage on the wire. Source: https://docs.voyageai.com/reference/embeddings-api, /reference/reranker-api and the `voyageai` package."""

from __future__ import annotations

from typing import Any

from coollm.core.types import Json
from coollm.simulator.answer import Asked, Heard, Reply, vector
from coollm.simulator.cohere import ranking
from coollm.simulator.openai import key, pack

__all__ = ["error", "key", "read_embeddings", "read_rerank"]


def _asked(heard: Heard, text: str, made: Json) -> Asked:
    counted = {"usage": {"total_tokens": max(1, len(text) // 4)}}
    return Asked(
        model=heard.body["model"],
        key=heard.key,
        stream=False,
        body=heard.body,
        text=text,
        reply=lambda how, _: Reply(body={**made, **(counted if how.usage else {})}),
    )


def read_embeddings(heard: Heard) -> Asked:
    """A request for embeddings. Raises ValueError for what the API refuses."""
    body = heard.body
    unknown = set(body) - {"input", "model", "input_type", "truncation", "output_dimension", "output_dtype", "encoding_format"}
    if unknown:
        raise ValueError(f"Argument '{min(unknown)}' is not supported by our API.")
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    vectors: list[Any] = [vector(text, body.get("output_dimension") or 8) for text in texts]
    written = [pack(one) for one in vectors] if body.get("encoding_format") == "base64" else vectors
    data = [{"object": "embedding", "embedding": one, "index": index} for index, one in enumerate(written)]
    return _asked(heard, " ".join(texts), {"object": "list", "data": data, "model": body["model"]})


def read_rerank(heard: Heard) -> Asked:
    """A request for a ranking. Raises ValueError for what the API refuses."""
    body = heard.body
    unknown = set(body) - {"query", "documents", "model", "top_k", "return_documents", "truncation"}
    if unknown:
        raise ValueError(f"Argument '{min(unknown)}' is not supported by our API.")
    data = [{"index": index, "relevance_score": score} for index, score in ranking(body["query"], body["documents"], body.get("top_k"))]
    return _asked(heard, body["query"], {"object": "list", "data": data, "model": body["model"]})


def error(status: int, message: str, retry_after: float = 0) -> Json:  # noqa: ARG001
    """An error body."""
    return {"detail": message}
