"""POST /v1/rerank: documents in the order in which they answer a query, as Cohere, Together, vLLM and others take it, and Voyage in its own words.

Source: https://docs.cohere.com/reference/rerank and the types of the `cohere` package.
"""

from __future__ import annotations

from typing import Any, cast

import orjson

from coollm.api.chat import ChatFace
from coollm.api.completion import complete
from coollm.api.fields import required_text, typed, whole
from coollm.api.http import Exchange
from coollm.api.routes import Access, Route
from coollm.core.errors import InvalidRequest
from coollm.core.types import Content, Json, ModelRequest, Ranking, RerankRequest, Usage

_READ = frozenset({"model", "query", "documents", "top_n", "return_documents"})


class RerankFace(ChatFace):
    """The dialect that rerankers share; its errors are OpenAI's, and there are no streams."""

    wire = "rerank"

    def parse(self, body: Json, exchange: Exchange) -> RerankRequest:  # type: ignore[override]  # noqa: ARG002
        """A request for a ranking. Raises InvalidRequest naming the field at fault."""
        return RerankRequest(
            model=required_text(body, "model"),
            query=required_text(body, "query"),
            documents=tuple(_document(one, f"documents[{index}]") for index, one in enumerate(_documents(body))),
            top_n=whole(body, "top_n"),
            return_documents=typed(body, "return_documents", bool, "true or false") or False,
            source=body,
            inexpressible=tuple(name for name, value in body.items() if name not in _READ and value is not None),
        )

    def render(self, request: ModelRequest, content: Content, usage: Usage) -> Json:
        """A list of results."""
        found, asked = cast("Ranking", content), cast("RerankRequest", request)
        results: list[Json] = [{"index": one.index, "relevance_score": one.score} for one in found.ranked]
        if asked.return_documents:
            for result in results:
                result["document"] = {"text": asked.documents[result["index"]]}
        told = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.total_tokens}
        return {"id": found.id, "model": request.model, "results": results, "usage": told}


FACE = RerankFace()


def _documents(body: Json) -> list[Any]:
    documents = typed(body, "documents", list, "a list")
    if not documents:
        raise InvalidRequest("'documents' is missing or empty", param="documents", code="missing_required_parameter")
    return cast("list[Any]", documents)


def _document(value: Any, path: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return str(value["text"]) if isinstance(value.get("text"), str) else orjson.dumps(value).decode()
    raise InvalidRequest(f"'{path}' must be a text or an object", param=path)


ROUTES = (Route("/v1/rerank", ("POST",), Access.CLIENT, None, "rerank", is_completion=True, hot=complete(FACE), summary="A ranking of documents."),)
