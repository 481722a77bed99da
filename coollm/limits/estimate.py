"""How many tokens a request will cost, before anybody knows."""

from __future__ import annotations

from coollm.core.types import (
    AudioPart,
    ChatRequest,
    DocumentPart,
    EmbeddingRequest,
    ImagePart,
    ModelRequest,
    ReasoningPart,
    RerankRequest,
    TextPart,
    ToolCall,
    ToolResult,
    Usage,
)

BYTES_PER_TOKEN = 4
TOKENS_PER_IMAGE = 800
TOKENS_PER_MESSAGE = 4

# Output of a request that gives no limit: it is replaced by the actual usage when the request has ended.
DEFAULT_OUTPUT_TOKENS = 500


def text_tokens(characters: int) -> int:
    """Tokens of a text, rounded up."""
    return (characters + BYTES_PER_TOKEN - 1) // BYTES_PER_TOKEN


def input_tokens(request: ModelRequest) -> int:
    """Input tokens: text by its length, images, sounds and files by a flat count. Inline data is not text and is not counted as such."""
    if isinstance(request, EmbeddingRequest):
        return sum(text_tokens(len(one)) if isinstance(one, str) else len(one) for one in request.inputs)
    if isinstance(request, RerankRequest):
        return sum(text_tokens(len(request.query) + len(one)) for one in request.documents)
    return _chat_tokens(request) if isinstance(request, ChatRequest) else 0


def _chat_tokens(request: ChatRequest) -> int:
    characters = others = 0
    for message in request.messages:
        for part in message.parts:
            more = part.content if isinstance(part, ToolResult) else (part,)
            for inner in more:
                if isinstance(inner, ImagePart | AudioPart) or (isinstance(inner, DocumentPart) and inner.text is None):
                    others += 1
                elif isinstance(inner, DocumentPart):
                    characters += len(inner.text or "")
                elif isinstance(inner, TextPart | ReasoningPart):
                    characters += len(inner.text)
                elif isinstance(inner, ToolCall):
                    characters += len(inner.name) + len(inner.arguments)
    for tool in request.tools:
        characters += len(tool.name) + len(tool.description or "") + len(str(tool.parameters or ""))
    return request.prompt_tokens + text_tokens(characters) + others * TOKENS_PER_IMAGE + len(request.messages) * TOKENS_PER_MESSAGE


def output_tokens(request: ModelRequest, key_limit: int | None = None) -> int:
    """Output tokens to reserve: the request's own limit, else that of the key, else a default; for each choice. Vectors are no tokens."""
    if not isinstance(request, ChatRequest):
        return 0
    return (request.max_output_tokens or key_limit or DEFAULT_OUTPUT_TOKENS) * request.choices


def counted_usage(request: ModelRequest, output_characters: int) -> Usage:
    """Usage of an answer for which the vendor gave none: flagged as estimated."""
    return Usage(input_tokens=input_tokens(request), output_tokens=text_tokens(output_characters), estimated=True)
