"""How many tokens a request will cost, before anybody knows."""

from __future__ import annotations

from collections.abc import Iterator

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

CHARACTERS_PER_TOKEN = 4

# What is reserved is on the safe side: code, JSON and texts that are not English have more tokens than four characters each.
RESERVED_CHARACTERS_PER_TOKEN = 3
TOKENS_PER_FILE = 800
TOKENS_PER_MESSAGE = 4

# The dearest that vendors count an image: small models of OpenAI's take tens of thousands of tokens for a large one.
MOST_TOKENS_PER_FILE = 50_000
MOST_TOKENS_PER_MESSAGE = 16

# Output of a request that gives no limit: it is replaced by the actual usage when the request has ended.
DEFAULT_OUTPUT_TOKENS = 500

File = ImagePart | AudioPart | DocumentPart


def text_tokens(characters: int, per_token: int = CHARACTERS_PER_TOKEN) -> int:
    """Tokens of a text, rounded up."""
    return (characters + per_token - 1) // per_token


def input_tokens(request: ModelRequest, per_token: int = CHARACTERS_PER_TOKEN) -> int:
    """Input tokens: text by its length, images, sounds and files by a flat count. Inline data is not text and is not counted as such."""
    if isinstance(request, EmbeddingRequest):
        return sum(text_tokens(len(one), per_token) if isinstance(one, str) else len(one) for one in request.inputs)
    if isinstance(request, RerankRequest):
        return sum(text_tokens(len(request.query) + len(one), per_token) for one in request.documents)
    if not isinstance(request, ChatRequest):
        return 0
    characters = files = 0
    for piece in _pieces(request):
        if isinstance(piece, str):
            characters += len(piece)
        else:
            files += 1
    return request.prompt_tokens + text_tokens(characters, per_token) + files * TOKENS_PER_FILE + len(request.messages) * TOKENS_PER_MESSAGE


def most_input_tokens(request: ModelRequest) -> int:
    """An upper bound of the input tokens, for money: no tokenizer makes more tokens of a text than it has bytes, and a file is counted at its dearest."""
    if isinstance(request, EmbeddingRequest):
        return sum(_bytes(one) if isinstance(one, str) else len(one) for one in request.inputs)
    if isinstance(request, RerankRequest):
        return sum(_bytes(request.query) + _bytes(one) for one in request.documents)
    if not isinstance(request, ChatRequest):
        return 0
    most = request.prompt_tokens + MOST_TOKENS_PER_MESSAGE * (len(request.messages) + len(request.tools) + 1)
    for piece in _pieces(request):
        if isinstance(piece, str):
            most += _bytes(piece)
        else:
            most += max(MOST_TOKENS_PER_FILE, piece.data.size if piece.data and not isinstance(piece, ImagePart) else 0)
    return most


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _pieces(request: ChatRequest) -> Iterator[str | File]:
    """Everything that a chat gives to the model, its texts and its files."""
    for message in request.messages:
        for part in message.parts:
            for inner in part.content if isinstance(part, ToolResult) else (part,):
                if isinstance(inner, DocumentPart):
                    yield inner if inner.text is None else inner.text
                elif isinstance(inner, TextPart | ReasoningPart):
                    yield inner.text
                elif isinstance(inner, ToolCall):
                    yield inner.name
                    yield inner.arguments
                elif isinstance(inner, File):
                    yield inner
    for tool in request.tools:
        yield tool.name
        yield tool.description or ""
        yield str(tool.parameters or "")


def output_tokens(request: ModelRequest, key_limit: int | None = None) -> int:
    """Output tokens to reserve: the request's own limit, else that of the key, else a default; for each choice. Vectors are no tokens."""
    if not isinstance(request, ChatRequest):
        return 0
    return (request.max_output_tokens or key_limit or DEFAULT_OUTPUT_TOKENS) * request.choices


def counted_usage(request: ModelRequest, output_characters: int) -> Usage:
    """Usage of an answer for which the vendor gave none: flagged as estimated."""
    return Usage(input_tokens=input_tokens(request), output_tokens=text_tokens(output_characters), estimated=True)
