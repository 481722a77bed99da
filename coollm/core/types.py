"""The neutral words between client dialects and vendor dialects: request, completion, stream events, usage, target.

All are frozen. Client dialects (`coollm/api`) make a ChatRequest and render a Completion or StreamEvents; vendor dialects (`coollm/providers`) do the reverse.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from coollm.core.pricing import Price

Json = dict[str, Any]
"""A JSON object as orjson decodes it."""

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
ServiceTier = Literal["auto", "default", "flex", "priority", "batch"]
"""How urgently a vendor serves a request, in OpenAI's words."""


AdminRole = Literal["viewer", "operator", "admin"]

ADMIN_ROLES: tuple[AdminRole, ...] = ("viewer", "operator", "admin")
"""Of administrators: each may do what those before it may."""


class Value(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of the frozen value objects. They are trees: Python's collector of cycles need not look at them."""


class TextPart(Value, frozen=True, tag="text"):
    """Plain text. `cache_control` is Anthropic's marker: what stands up to here may be cached by the vendor."""

    text: str
    cache_control: Json | None = None


class Base64(Value, frozen=True):
    """Inline data: what follows `start` in `text`, which may be a `data:` URL of many megabytes that nobody copies until it is sent."""

    text: str
    start: int = 0

    @property
    def size(self) -> int:
        """Characters of base64."""
        return len(self.text) - self.start

    def read(self) -> str:
        """The base64 text."""
        return self.text[self.start :] if self.start else self.text


class ImagePart(Value, frozen=True, tag="image"):
    """An image, by URL or inline. Exactly one of `url` and `data` is set; `data` has a `media_type`."""

    url: str | None = None
    data: Base64 | None = None
    media_type: str | None = None
    detail: str | None = None
    cache_control: Json | None = None


class DocumentPart(Value, frozen=True, tag="document"):
    """A document: by URL, inline as base64 with its `media_type`, or as plain text. Exactly one of `url`, `data` and `text` is set."""

    url: str | None = None
    data: Base64 | None = None
    text: str | None = None
    media_type: str = "application/pdf"
    name: str | None = None
    cache_control: Json | None = None


class AudioPart(Value, frozen=True, tag="audio"):
    """Speech or sound, inline. `format` is wav or mp3, as OpenAI names them."""

    data: Base64
    format: str


class ToolCall(Value, frozen=True, tag="tool_call"):
    """The model asks for a tool. `arguments` is JSON text as the model wrote it. `extra` is what a vendor wants back unchanged with the call."""

    id: str
    name: str
    arguments: str
    extra: Json | None = None


class ToolResult(Value, frozen=True, tag="tool_result"):
    """What a tool returned for the call `call_id` of the tool `name`, if known."""

    call_id: str
    content: tuple[TextPart | ImagePart | DocumentPart, ...]
    name: str | None = None
    is_error: bool = False
    cache_control: Json | None = None


class ReasoningPart(Value, frozen=True, tag="reasoning"):
    """Reasoning that the vendor chose to show, with its signature where there is one.

    `origin` is the wire format of the vendor that signed it: nobody else can read the signature. With `is_redacted` the signature is all there is: the
    encrypted thought.
    """

    text: str
    signature: str | None = None
    origin: str | None = None
    is_redacted: bool = False


Part = TextPart | ImagePart | DocumentPart | AudioPart | ToolCall | ToolResult | ReasoningPart


class Message(Value, frozen=True):
    """One turn. Tool results form turns of role "tool"."""

    role: Role
    parts: tuple[Part, ...]


class Tool(Value, frozen=True):
    """A function the model may call; `parameters` is JSON Schema."""

    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None
    cache_control: Json | None = None


class ToolChoice(Value, frozen=True):
    """Whether the model may, must or must not call a tool; `name` is set with "named"."""

    mode: Literal["auto", "none", "required", "named"]
    name: str | None = None


class OutputSchema(Value, frozen=True):
    """The answer must be JSON; of this schema, if one is given."""

    name: str = "answer"
    schema: Json | None = None
    strict: bool | None = None


class ModelRequest(Value, frozen=True):
    """What every request to a model has.

    `model` is the name as the client wrote it. `source` is the client's body as parsed, in the dialect `dialect`: a vendor of the same dialect gets it back
    with nothing but the model and the usage option changed. `inexpressible` names the places of `source` that these neutral words cannot say: a vendor of
    another dialect must refuse them. `forwarded_headers` are those that a vendor of the same dialect wants to see. `pinned_key` is the one vendor key that can
    serve it, as `provider/key id`, where it goes on from an earlier answer.
    """

    model: str
    max_output_tokens: int | None = None
    choices: int = 1
    stream: bool = False
    include_usage: bool = False
    user: str | None = None
    dialect: str = "openai"
    source: Json = msgspec.field(default_factory=dict)
    inexpressible: tuple[str, ...] = ()
    forwarded_headers: tuple[tuple[str, str], ...] = ()
    pinned_key: str | None = None


class ChatRequest(ModelRequest, frozen=True, kw_only=True):
    """A chat completion that a client asks for.

    `prompt_tokens` is input that came as the numbers of tokens, beside the messages. `logprobs` is how many of the likeliest tokens are wanted at each place,
    0 for the chosen one alone.
    """

    messages: tuple[Message, ...]
    prompt_tokens: int = 0
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    output_schema: OutputSchema | None = None
    reasoning_effort: str | None = None
    top_k: int | None = None
    logprobs: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    service_tier: ServiceTier | None = None


class EmbeddingRequest(ModelRequest, frozen=True, kw_only=True):
    """Vectors for texts. An input is a text, or the numbers of its tokens."""

    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] = "float"


class RerankRequest(ModelRequest, frozen=True, kw_only=True):
    """Documents in the order in which they answer a query. Those that are objects are given to the vendor as their text."""

    query: str
    documents: tuple[str, ...]
    top_n: int | None = None
    return_documents: bool = False


class CountRequest(ModelRequest, frozen=True, kw_only=True):
    """How many tokens `chat` would have as input."""

    chat: ChatRequest


class UploadedBody(Protocol):
    """A client's body that is not held in memory, with a place for the vendor's name of the model. It can be read more than once."""

    def size_with(self, model: str) -> int:
        """Bytes with this name of the model in its place."""

    def pieces_with(self, model: str) -> Iterator[bytes]:
        """The body, piece by piece."""


class PassThroughRequest(ModelRequest, frozen=True, kw_only=True):
    """A request that a vendor of OpenAI's dialect gets as it is, with its own name of the model: `operation` is the first part of the address `path`.

    With `any_model` the operation names no model: any provider of the dialect that the client may use will do.
    """

    method: str
    operation: str
    path: str
    query: str = ""
    content_type: str = ""
    accept: str = "*/*"
    upload: UploadedBody | None = None
    any_model: bool = False


class Usage(Value, frozen=True):
    """Tokens of one request, in disjoint buckets: their sum is all that was processed.

    What is written to a vendor's cache for an hour costs more than what is for minutes, and has a bucket of its own. `service_tier` is the one that served,
    where the vendor names it. `estimated` is true where the vendor did not say and the gateway counted.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    service_tier: ServiceTier | None = None
    estimated: bool = False

    @property
    def all_cache_write_tokens(self) -> int:
        """Input that was written to the vendor's cache, for however long."""
        return self.cache_write_tokens + self.cache_write_1h_tokens

    @property
    def prompt_tokens(self) -> int:
        """All input, cached or not."""
        return self.input_tokens + self.cached_input_tokens + self.cache_write_tokens + self.cache_write_1h_tokens

    @property
    def completion_tokens(self) -> int:
        """All output, reasoning included."""
        return self.output_tokens + self.reasoning_tokens

    @property
    def total_tokens(self) -> int:
        """Input and output."""
        return self.prompt_tokens + self.completion_tokens


class Choice(Value, frozen=True):
    """One answer: its parts and why it ended. `logprobs` are OpenAI's objects of a token, one for each that was asked for."""

    parts: tuple[TextPart | ToolCall | ReasoningPart, ...]
    finish_reason: FinishReason
    refusal: str | None = None
    logprobs: tuple[Json, ...] = ()


class Completion(Value, frozen=True, tag="completion"):
    """A whole answer of a vendor."""

    id: str
    model: str
    choices: tuple[Choice, ...]
    usage: Usage | None
    service_tier: ServiceTier | None = None


class Embeddings(Value, frozen=True, tag="embeddings"):
    """Vectors, one for each input in its order."""

    model: str
    vectors: tuple[tuple[float, ...], ...]
    usage: Usage | None


class Ranked(Value, frozen=True):
    """One document of a ranking: its place in the request, and how well it answers, from 0 to 1."""

    index: int
    score: float


class Ranking(Value, frozen=True, tag="ranking"):
    """Documents, the best first."""

    id: str
    ranked: tuple[Ranked, ...]
    usage: Usage | None


class TokenCount(Value, frozen=True, tag="token_count"):
    """Input tokens, as a vendor counts them. Counting costs nothing."""

    input_tokens: int
    usage: Usage | None = Usage()


Content = Completion | Embeddings | Ranking | TokenCount
"""What an answer can hold."""


class TextDelta(Value, frozen=True, tag="text_delta"):
    """More text of choice `choice`."""

    text: str
    choice: int = 0
    logprobs: tuple[Json, ...] = ()


class ReasoningDelta(Value, frozen=True, tag="reasoning_delta"):
    """More reasoning, or its signature: see ReasoningPart."""

    text: str = ""
    signature: str | None = None
    origin: str | None = None
    is_redacted: bool = False
    choice: int = 0


class RefusalDelta(Value, frozen=True, tag="refusal_delta"):
    """More of a refusal."""

    text: str
    choice: int = 0


class ToolCallDelta(Value, frozen=True, tag="tool_call_delta"):
    """More of tool call number `index`: `id` and `name` with its first delta, then pieces of the argument's JSON text."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    extra: Json | None = None
    choice: int = 0


class FinishDelta(Value, frozen=True, tag="finish"):
    """Choice `choice` is complete."""

    reason: FinishReason
    choice: int = 0


class UsageUpdate(Value, frozen=True, tag="usage"):
    """The vendor's count so far; a later one replaces an earlier one."""

    usage: Usage


class StreamEnd(Value, frozen=True, tag="end"):
    """The vendor's own terminal event: the stream is whole."""


StreamEvent = TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta | FinishDelta | UsageUpdate | StreamEnd

CONTENT = (TextDelta, ReasoningDelta, RefusalDelta, ToolCallDelta, FinishDelta)
"""Events after which a client has seen something of the answer: from the first of them on there is no fallback."""


class RateLimit(Value, frozen=True):
    """One limit: of what (requests, tokens), how much, what is left, and the seconds until all of it is there again."""

    of: str
    limit: int
    remaining: int
    reset_seconds: float


class Used(Value, frozen=True):
    """How full a counter is after a decision."""

    counter: str
    used: int
    limit: int


class Target(Value, frozen=True):
    """One way to serve a request: a provider, one of its keys, and the vendor's name of the model. `key` is the vendor key's name in stores and logs:
    `provider/key id`.
    """

    provider: str
    type: str
    key_id: str
    model: str
    weight: float = 1.0
    price: Price | None = None
    req_per_min: int | None = None
    tokens_per_min: int | None = None
    max_tokens: int | None = None
    concurrent: int | None = None
    session_tokens: int | None = None
    session_seconds: int = 0
    fallback: bool = False
    key: str = ""

    def __post_init__(self) -> None:
        # It is asked for dozens of times in a request.
        msgspec.structs.force_setattr(self, "key", f"{self.provider}/{self.key_id}")

    def cost_usd(self, usage: Usage) -> float | None:
        """US dollars for `usage`, None where the price is not known."""
        return None if self.price is None else self.price.cost_usd(usage)
