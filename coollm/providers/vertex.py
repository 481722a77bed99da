"""Google's Vertex AI: Gemini in its own format, and Claude in Anthropic's.

Sources: https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference, https://docs.anthropic.com/en/api/claude-on-vertex-ai and
`anthropic.lib.vertex` of the `anthropic` package. The base address names project and place:
https://LOCATION-aiplatform.googleapis.com/v1/projects/PROJECT/locations/LOCATION.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from coollm.core.types import ChatRequest, EmbeddingRequest, ModelRequest, Target, Value
from coollm.providers import claude, gemini
from coollm.providers.base import Losses, VendorRequest, error_body, no_such_kind
from coollm.providers.payload import write_json
from coollm.providers.verdict import Verdict
from coollm.providers.vertex_embeddings import embedding_calls

# What a credential begins with that is an access token, and no API key.
ACCESS_MARK = "access token "

ANTHROPIC_VERSION = "vertex-2023-10-16"


class VertexDialect(Value, frozen=True):
    """Vertex's dialect: that of the model's maker."""

    wire: str = "vertex"
    has_chat: bool = True
    counts_tokens: bool = False
    operations: frozenset[str] = frozenset()
    base_url: str | None = None
    families: tuple[str, ...] = ("gemini-*", "claude-*", "text-embedding-*", "text-multilingual-embedding-*")

    def encode(self, request: ModelRequest, target: Target, base_url: str, key: str, losses: Losses) -> VendorRequest:
        """A `generateContent`, `predict` or `embedContent` of Google's models, or a `rawPredict` of Anthropic's. The key is never in the address."""
        credentials = ("authorization", f"Bearer {key.removeprefix(ACCESS_MARK)}") if key.startswith(ACCESS_MARK) else ("x-goog-api-key", key)
        model = quote(target.model, safe="@")
        if isinstance(request, EmbeddingRequest) and not target.model.startswith("claude-"):
            return embedding_calls(f"{base_url}/publishers/google/models/{model}", target.model, credentials, request)
        if not target.model.startswith("claude-"):
            return gemini.content_request(f"{base_url}/publishers/google/models/{model}", (credentials,), request, target, losses)
        if not isinstance(request, ChatRequest):
            raise no_such_kind(request, "Vertex")
        body = claude.message_body(request, target, losses)
        body.pop("model")
        body["anthropic_version"] = ANTHROPIC_VERSION
        beta = tuple((name, value) for name, value in request.forwarded_headers if name == "anthropic-beta")
        return VendorRequest(
            method="POST",
            url=f"{base_url}/publishers/anthropic/models/{model}:{'streamRawPredict' if request.stream else 'rawPredict'}",
            headers=(("content-type", "application/json"), credentials, *beta),
            body=write_json(body),
            answer=claude.MESSAGES,
        )

    def verdict(self, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """The judgement on an error of Google's, or of Anthropic's where its model answered."""
        maker = claude.DIALECT if error_body(body).get("type") == "error" else gemini.DIALECT
        return maker.verdict(status, headers, body)


DIALECT = VertexDialect()
