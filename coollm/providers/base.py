"""What a vendor dialect is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import orjson

from coollm.core.types import ChatRequest, Content, Json, Message, ModelRequest, Part, StreamEvent, Target, ToolCall, Usage, Value
from coollm.providers.payload import Body
from coollm.providers.sse import EventStream, SseEvent
from coollm.providers.verdict import Cause, VendorError, Verdict


class StreamDecoder(Protocol):
    """Decodes one stream; it may keep what it needs from one event for the next."""

    @property
    def is_whole(self) -> bool:
        """Whether the vendor has said that the answer is complete: what ends before that was cut."""

    def decode_event(self, event: SseEvent) -> tuple[StreamEvent, ...]:
        """The events that one frame holds. Raises VendorError for an error frame, also inside a 200, and for a frame that makes no sense."""


class Framing(Protocol):
    """Cuts the bytes of a stream into frames."""

    @property
    def is_between(self) -> bool:
        """Whether all that came so far were whole frames."""

    def feed(self, data: bytes) -> Iterable[SseEvent]:
        """The frames that `data` completes. Raises EventTooLarge, and VendorError for bytes that are no frames."""


class AnswerFormat(Protocol):
    """How the answer to a request is written."""

    @property
    def wire(self) -> str:
        """Name of the format. Where it is the client's own, bytes are forwarded as they come."""

    def decode(self, request: ModelRequest, body: bytes) -> Content:
        """A whole answer to `request`. Raises VendorError if it is none."""

    def usage(self, body: bytes) -> Usage | None:
        """The vendor's count in a whole answer that nobody here needs to read; None where it must be decoded to know."""

    def is_plain(self, piece: bytes) -> bool:
        """Whether a piece of a stream is whole frames of plain text and nothing else, which nobody here needs to read. It may say no to what is."""

    def stream_decoder(self) -> StreamDecoder:
        """A decoder for one stream."""

    def framing(self) -> Framing:
        """What cuts a stream into the frames of its decoder."""


class WireFormat(Value, frozen=True):
    """An AnswerFormat made of its three parts; the frames of its streams are server-sent events unless told otherwise."""

    wire: str
    read: Callable[[ModelRequest, bytes], Content]
    decoder: Callable[[], StreamDecoder]
    framer: Callable[[], Framing] = EventStream
    glance: Callable[[bytes], Usage | None] | None = None
    plain: Callable[[bytes], bool] | None = None

    def usage(self, body: bytes) -> Usage | None:
        """The vendor's count, at a glance."""
        return None if self.glance is None else self.glance(body)

    def is_plain(self, piece: bytes) -> bool:
        """Whether a piece is plain text, at a glance."""
        return self.plain is not None and self.plain(piece)

    def decode(self, request: ModelRequest, body: bytes) -> Content:
        """A whole answer."""
        return self.read(request, body)

    def stream_decoder(self) -> StreamDecoder:
        """A decoder for one stream."""
        return self.decoder()

    def framing(self) -> Framing:
        """What cuts a stream into frames."""
        return self.framer()


class VendorRequest(Value, frozen=True, gc=True):
    """An HTTP request for a vendor, and how its answer is written. The body is what is sent, byte for byte.

    Where an answer comes in steps (a job that is begun, then asked for), `follow` makes the next request from the answer to this one, or None if that was
    the last. `abandon` is sent, and its answer not waited for, when nobody wants the answer any more.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | Body
    answer: AnswerFormat
    follow: Callable[[bytes], FollowUp | None] | None = None
    abandon: VendorRequest | None = None


class FollowUp(Value, frozen=True, gc=True):
    """The next request of an answer in steps, to be sent after `wait_seconds`."""

    request: VendorRequest
    wait_seconds: float = 0.0


CONTENT_PARAMS = ("messages", "input", "prompt", "suffix", "system", "previous_response_id", "conversation", "model")


class Losses:
    """What a vendor's dialect cannot say of a request: refused by its name, or dropped and remembered where the configuration says so."""

    def __init__(self, *, may_drop: bool = False) -> None:
        self._may_drop = may_drop
        self.dropped: list[str] = []

    def lose(self, param: str, vendor: str, way_out: str = "") -> None:
        """Raises VendorError (UNSUPPORTED), or drops `param`. What was said is never dropped: an answer without it would be one to another question."""
        if not self._may_drop or param.startswith(CONTENT_PARAMS):
            raise unsupported(param, vendor, way_out)
        if param not in self.dropped:
            self.dropped.append(param)


class Dialect(Protocol):
    """One vendor's language, without any I/O."""

    @property
    def wire(self) -> str:
        """Name of its wire format for chats."""

    @property
    def has_chat(self) -> bool:
        """Whether it converses."""

    @property
    def counts_tokens(self) -> bool:
        """Whether it counts the tokens of a request."""

    @property
    def operations(self) -> frozenset[str]:
        """The routes that it is passed through, by the first part of their address."""

    @property
    def base_url(self) -> str | None:
        """Where the vendor's API is, unless the configuration says otherwise."""

    @property
    def families(self) -> tuple[str, ...]:
        """Patterns of the models served where the configuration lists none."""

    def encode(self, request: ModelRequest, target: Target, base_url: str, key: str, losses: Losses) -> VendorRequest:
        """The vendor's request. Raises VendorError (UNSUPPORTED) naming what this dialect cannot say, unless `losses` lets it be dropped."""

    def verdict(self, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """The judgement on an answer whose status is no success."""


def unsupported(param: str, vendor: str, way_out: str = "") -> VendorError:
    """The error for a parameter that a dialect cannot express."""
    message = f"'{param}' is not supported by {vendor}" + (f": {way_out}" if way_out else "")
    return VendorError(Verdict(cause=Cause.UNSUPPORTED, message=message, status=400, param=param, code="unsupported_parameter"))


def bad_answer(message: str) -> VendorError:
    """The error for an answer that makes no sense."""
    return VendorError(Verdict(cause=Cause.BAD_ANSWER, message=message, status=200))


def parse_object(data: bytes, what: str) -> Json:
    """A JSON object of a vendor. Raises VendorError (BAD_ANSWER)."""
    try:
        parsed: Any = orjson.loads(data)
    except ValueError:
        raise bad_answer(f"{what} is not valid JSON") from None
    if not isinstance(parsed, dict):
        raise bad_answer(f"{what} is not a JSON object")
    return parsed


def error_body(data: bytes) -> Json:
    """The JSON object of a refusal, alone or in a list of one; empty if there is none, since a proxy on the way may answer with HTML."""
    try:
        parsed: Any = orjson.loads(data)
    except ValueError:
        return {}
    if isinstance(parsed, list) and parsed:
        parsed = parsed[0]
    return parsed if isinstance(parsed, dict) else {}


def count(container: Any, name: str) -> int:
    """A token count of a vendor; 0 where it is missing, null or nonsense."""
    value = container.get(name) if isinstance(container, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


OPTIONS: dict[str, str] = {
    "choices": "n",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop": "stop",
    "seed": "seed",
    "logprobs": "logprobs",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "tools": "tools",
    "tool_choice": "tool_choice",
    "output_schema": "response_format",
    "reasoning_effort": "reasoning_effort",
}
"""What a request may ask for beside its messages: the neutral word, and OpenAI's name of it."""


def lose_inexpressible(request: ChatRequest, losses: Losses, vendor: str, says: frozenset[str]) -> None:
    """Loses what the neutral words could not hold of the client's body, and what this vendor, which `says` some of the OPTIONS, cannot be told."""
    for place in request.inexpressible:
        losses.lose(place, vendor)
    for option, name in OPTIONS.items():
        value = getattr(request, option)
        if option not in says and value not in (None, (), 1 if option == "choices" else None):
            losses.lose(name, vendor)


def turns(messages: tuple[Message, ...], assistant: str, content: str, write: Callable[[Part], list[Json]], vendor: str) -> list[Json]:
    """Turns of user and `assistant`, as several vendors want them: neighbours of one role are one turn, and tool results are the user's.

    `content` is the name of a turn's list, to which `write` gives what a part becomes. Raises VendorError where nobody has said anything.
    """
    made: list[Json] = []
    for message in messages:
        if message.role == "system":
            continue
        role = assistant if message.role == "assistant" else "user"
        written = [piece for part in message.parts for piece in write(part)]
        if made and made[-1]["role"] == role:
            made[-1][content].extend(written)
        elif written:
            made.append({"role": role, content: written})
    if not made:
        raise unsupported("messages", vendor, "it needs at least one message of a user")
    return made


def arguments_object(call: ToolCall, vendor: str) -> orjson.Fragment:
    """The arguments of a tool call as a JSON object, byte for byte as the model wrote them. Raises VendorError if they are none."""
    try:
        is_object = isinstance(orjson.loads(call.arguments), dict)
    except ValueError:
        is_object = False
    if not is_object:
        raise unsupported("messages", vendor, f"the arguments of tool call '{call.id}' are not a JSON object")
    return orjson.Fragment(call.arguments)


def no_such_kind(request: ModelRequest, vendor: str) -> VendorError:
    """The error for a kind of request that a vendor has nothing for."""
    kinds = {"EmbeddingRequest": "embeddings", "RerankRequest": "rerank", "PassThroughRequest": "this route", "ChatRequest": "chat"}
    return unsupported("model", vendor, f"it does not serve {kinds.get(type(request).__name__, 'this')}")


def no_stream() -> StreamDecoder:
    """Stands where an answer is never a stream."""
    raise bad_answer("this kind of answer has no stream")
