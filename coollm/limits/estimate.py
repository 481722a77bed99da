"""How many tokens a request will cost, before anybody knows: counted once, when it is admitted."""

from __future__ import annotations

from collections.abc import Iterator

from coollm.core.types import (
    AudioPart,
    ChatRequest,
    DocumentPart,
    EmbeddingRequest,
    ImagePart,
    ModelRequest,
    Part,
    PassThroughRequest,
    ReasoningPart,
    RerankRequest,
    ServiceTier,
    TextPart,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
    Value,
)

CHARACTERS_PER_TOKEN = 4

# What is reserved is on the safe side: code, JSON and texts that are not English have more tokens than four characters each.
RESERVED_CHARACTERS_PER_TOKEN = 3
TOKENS_PER_FILE = 800
TOKENS_PER_MESSAGE = 4

# The dearest that vendors count an image: small models of OpenAI's take tens of thousands of tokens for a large one.
MOST_TOKENS_PER_FILE = 50_000
MOST_TOKENS_PER_MESSAGE = 16

# Output of a request that gives no limit, for a model of which nothing is known yet.
DEFAULT_OUTPUT_TOKENS = 500

File = ImagePart | AudioPart | DocumentPart


class Estimate(Value, frozen=True):
    """What is known of a request's size before it is sent.

    `reserved_input_tokens` are on the safe side, `most_input_tokens` an upper bound, which is counted where money needs it and 0 elsewhere. `expected` is the
    usual output of an answer whose request gives no limit, None where nothing is known. Vectors and rankings have no output: `choices` is 0.
    """

    reserved_input_tokens: int
    most_input_tokens: int = 0
    max_output_tokens: int | None = None
    expected: int | None = None
    choices: int = 0
    service_tier: ServiceTier | None = None
    is_bounded: bool = True

    def reserved_tokens(self, key_limit: int | None = None) -> int:
        """Input, and output: the request's own limit, else what is usual for the model, within the limit of the key; for each choice."""
        usual = self.expected if self.expected is not None else key_limit or DEFAULT_OUTPUT_TOKENS
        output = self.max_output_tokens or (min(usual, key_limit) if key_limit else usual)
        return self.reserved_input_tokens + output * self.choices


def estimate_of(request: ModelRequest, *, with_most: bool, expected: int | None = None) -> Estimate:
    """The estimate of a request; `with_most` counts its upper bound too."""
    chat = request if isinstance(request, ChatRequest) else None
    return Estimate(
        reserved_input_tokens=input_tokens(request, RESERVED_CHARACTERS_PER_TOKEN),
        most_input_tokens=most_input_tokens(request) if with_most else 0,
        max_output_tokens=request.max_output_tokens,
        expected=expected,
        choices=0 if chat is None else chat.choices,
        service_tier=None if chat is None else chat.service_tier,
        is_bounded=chat is not None or not isinstance(request, PassThroughRequest),
    )


def text_tokens(characters: int, per_token: int = CHARACTERS_PER_TOKEN) -> int:
    """Tokens of a text, rounded up."""
    return (characters + per_token - 1) // per_token


def input_tokens(request: ModelRequest, per_token: int = CHARACTERS_PER_TOKEN) -> int:
    """Input tokens: text by its length, images, sounds and files by a flat count. Inline data is not text and is not counted as such."""
    if not isinstance(request, ChatRequest):
        if isinstance(request, EmbeddingRequest):
            return sum(text_tokens(len(one), per_token) if isinstance(one, str) else len(one) for one in request.inputs)
        if isinstance(request, RerankRequest):
            return sum(text_tokens(len(request.query) + len(one), per_token) for one in request.documents)
        return 0
    characters = files = 0
    for message in request.messages:
        for part in message.parts:
            if type(part) is TextPart:  # most are
                characters += len(part.text)
                continue
            for piece in _pieces(part):
                if isinstance(piece, str):
                    characters += len(piece)
                else:
                    files += 1
    if request.tools:
        characters += sum(len(text) for tool in request.tools for text in _texts(tool))
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
    most += sum(_bytes(text) for tool in request.tools for text in _texts(tool))
    for piece in (piece for message in request.messages for part in message.parts for piece in _pieces(part)):
        if isinstance(piece, str):
            most += _bytes(piece)
        else:
            most += max(MOST_TOKENS_PER_FILE, piece.data.size if piece.data and not isinstance(piece, ImagePart) else 0)
    return most


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _pieces(part: Part) -> Iterator[str | File]:
    """What a part gives to the model, its texts and its files."""
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


def _texts(tool: Tool) -> tuple[str, ...]:
    return tool.name, tool.description or "", str(tool.parameters or "")


def counted_usage(request: ModelRequest, output_characters: int) -> Usage:
    """Usage of an answer for which the vendor gave none: flagged as estimated."""
    return Usage(input_tokens=input_tokens(request), output_tokens=text_tokens(output_characters), estimated=True)
