"""What a vendor dialect is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import orjson

from coollm.core.types import ChatRequest, Completion, Embeddings, Json, ModelRequest, StreamEvent, Target, ToolCall, Value
from coollm.providers.sse import SseEvent
from coollm.providers.verdict import Cause, VendorError, Verdict


class VendorRequest(Value, frozen=True):
    """An HTTP request for a vendor. The body is what is sent, byte for byte."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class StreamDecoder(Protocol):
    """Decodes one stream; it may keep what it needs from one event for the next."""

    @property
    def is_whole(self) -> bool:
        """Whether the vendor has said that the answer is complete: what ends before that was cut."""

    def decode_event(self, event: SseEvent) -> tuple[StreamEvent, ...]:
        """The events that one frame holds. Raises VendorError for an error frame, also inside a 200, and for a frame that makes no sense."""


class Dialect(Protocol):
    """One vendor's language, without any I/O."""

    @property
    def wire(self) -> str:
        """Name of the wire format. Where it is the client's own, bytes are forwarded as they come."""

    @property
    def base_url(self) -> str | None:
        """Where the vendor's API is, unless the configuration says otherwise."""

    @property
    def families(self) -> tuple[str, ...]:
        """Patterns of the models served where the configuration lists none."""

    def encode(self, request: ModelRequest, target: Target, base_url: str, key: str) -> VendorRequest:
        """The vendor's request. Raises VendorError (UNSUPPORTED) naming the parameter that this dialect cannot say."""

    def decode(self, request: ModelRequest, body: bytes) -> Completion | Embeddings:
        """A whole answer to `request`. Raises VendorError if it is none."""

    def stream_decoder(self) -> StreamDecoder:
        """A decoder for one stream."""

    def verdict(self, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """The judgement on an answer whose status is not 200."""


OPENAI_WIRE = "openai"


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


def refuse_inexpressible(request: ChatRequest, supported: frozenset[str], neutral: Mapping[str, tuple[Any, ...]], vendor: str) -> None:
    """Raises VendorError for the first thing in the client's body that a translation would lose.

    `supported` are the parameters that the dialect translates or may drop without changing the answer; `neutral` the values with which others mean nothing.
    """
    if request.inexpressible:
        raise unsupported(request.inexpressible[0], vendor)
    if request.dialect != OPENAI_WIRE:
        return  # the names of another dialect have been read by its own parser, which knows what is inexpressible
    for name, value in request.source.items():
        if name not in supported and value is not None and value not in neutral.get(name, ()):
            raise unsupported(name, vendor)


def arguments_object(call: ToolCall, vendor: str) -> orjson.Fragment:
    """The arguments of a tool call as a JSON object, byte for byte as the model wrote them. Raises VendorError if they are none."""
    try:
        is_object = isinstance(orjson.loads(call.arguments), dict)
    except ValueError:
        is_object = False
    if not is_object:
        raise unsupported("messages", vendor, f"the arguments of tool call '{call.id}' are not a JSON object")
    return orjson.Fragment(call.arguments)


HARMLESS = frozenset({"model", "messages", "stream", "stream_options", "user", "metadata", "store", "safety_identifier", "prompt_cache_key", "service_tier"})
"""Parameters that say nothing about the answer's content."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "functions": ([],),
}
"""Values that mean the same as leaving the parameter out."""
