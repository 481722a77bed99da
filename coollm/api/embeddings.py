"""POST /v1/embeddings: OpenAI's embeddings in front of every vendor that has some.

Source: https://platform.openai.com/docs/api-reference/embeddings and the types of the `openai` package, which asks for base64 unless told otherwise.
"""

from __future__ import annotations

import base64
import struct
from typing import Any, cast

from coollm.api.chat import ChatFace
from coollm.api.completion import complete
from coollm.api.fields import required_text, typed, whole
from coollm.api.http import Exchange
from coollm.api.routes import Access, Route
from coollm.core.errors import InvalidRequest
from coollm.core.types import Content, EmbeddingRequest, Embeddings, Json, ModelRequest, Usage

MOST_INPUTS = 2048


class EmbeddingsFace(ChatFace):
    """OpenAI's dialect for embeddings; its errors are those of chats, and there are no streams."""

    wire = "embeddings"

    def parse(self, body: Json, exchange: Exchange) -> EmbeddingRequest:  # type: ignore[override]  # noqa: ARG002
        """A request for vectors. Raises InvalidRequest naming the field at fault."""
        encoding = typed(body, "encoding_format", str, "float or base64") or "float"
        if encoding not in ("float", "base64"):
            raise InvalidRequest(f"'encoding_format' must be float or base64, not '{encoding}'", param="encoding_format")
        return EmbeddingRequest(
            model=required_text(body, "model"),
            inputs=_inputs(body.get("input")),
            dimensions=whole(body, "dimensions"),
            encoding_format="base64" if encoding == "base64" else "float",
            user=typed(body, "user", str, "text"),
            source=body,
        )

    def render(self, request: ModelRequest, content: Content, usage: Usage) -> Json:
        """A list of embeddings."""
        found, asked = cast("Embeddings", content), cast("EmbeddingRequest", request)
        as_base64 = asked.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else list(vector)} for index, vector in enumerate(found.vectors)
        ]
        told = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.total_tokens}
        return {"object": "list", "data": data, "model": found.model, "usage": told}


FACE = EmbeddingsFace()


def _inputs(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """One text, one list of tokens, or a list of either."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value:
        raise InvalidRequest("'input' is missing, or neither a text nor a list of texts or tokens", param="input", code="missing_required_parameter")
    if all(_is_token(item) for item in value):
        return (tuple(value),)
    if len(value) > MOST_INPUTS:
        raise InvalidRequest(f"'input' has more than {MOST_INPUTS} entries", param="input")
    found: list[str | tuple[int, ...]] = []
    for index, item in enumerate(value):
        if isinstance(item, str) and item:
            found.append(item)
        elif isinstance(item, list) and item and all(_is_token(token) for token in item):
            found.append(tuple(item))
        else:
            raise InvalidRequest(f"'input[{index}]' must be a text that is not empty, or a list of tokens", param=f"input[{index}]")
    return tuple(found)


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _base64(vector: tuple[float, ...]) -> str:
    """Little-endian 32-bit floats, as OpenAI writes them."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


ROUTES = (Route("/v1/embeddings", ("POST",), Access.CLIENT, None, "embeddings", is_completion=True, hot=complete(FACE), summary="Vectors for texts."),)
