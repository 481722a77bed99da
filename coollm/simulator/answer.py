"""What the simulated model says: deterministic text, tool calls and JSON that follow the schemas they were given."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import msgspec
import orjson

from coollm.simulator.behaviour import Behaviour

_WORDS = tuple(
    "the gateway spreads traffic over many vendors and keys inside exact limits and loses no request while it does so".split()  # noqa: SIM905  prose
)
_DEEPEST = 12
_MOST_DIMENSIONS = 4096


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it came: the parts of its address, its key, and what the simulated vendors remember. `origin` is their own address."""

    method: str
    path: str
    groups: tuple[str, ...]
    query: str
    headers: dict[str, str]
    data: bytes
    body: Any
    key: str
    origin: str
    memory: Memory


class Memory(msgspec.Struct):
    """What the simulated vendors keep from one request to the next, by id."""

    responses: dict[str, str] = msgspec.field(default_factory=dict)
    predictions: dict[str, Any] = msgspec.field(default_factory=dict)
    files: dict[str, Any] = msgspec.field(default_factory=dict)
    batches: dict[str, Any] = msgspec.field(default_factory=dict)


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that is no conversation: JSON, or bytes of a type."""

    body: Any
    content_type: str = "application/json"
    status: int = 200


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request in the words that all vendors share. `reply` makes the answer of one that is no conversation."""

    model: str
    key: str
    stream: bool
    body: Any
    text: str
    tools: tuple[tuple[str, Any], ...] = ()
    may_call: bool = True
    forced_tool: str | None = None
    schema: Any = None
    wants_json: bool = False
    max_tokens: int | None = None
    include_usage: bool = True
    choices: int = 1
    logprobs: int | None = None
    kept: dict[str, str] = msgspec.field(default_factory=dict)
    reply: Callable[[Behaviour, str], Reply] | None = None


class Call(msgspec.Struct, frozen=True):
    """A tool call."""

    id: str
    name: str
    arguments: Any


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: reasoning and text as tokens, tool calls, and the counts."""

    reasoning: tuple[str, ...]
    tokens: tuple[str, ...]
    calls: tuple[Call, ...]
    is_truncated: bool
    input_tokens: int
    cached_tokens: int
    output_tokens: int


def answer(asked: Asked, behaviour: Behaviour) -> Said:
    """The answer to a request; the same for the same request."""
    calls = _calls(asked, behaviour)
    tokens = () if calls else _tokens(asked, behaviour)
    limit = asked.max_tokens
    is_truncated = limit is not None and len(tokens) > limit
    if limit is not None:
        tokens = tokens[:limit]
    input_tokens = max(1, len(asked.text) // 4)
    call_tokens = sum(len(orjson.dumps(call.arguments)) // 4 + 5 for call in calls)
    return Said(
        reasoning=tuple(f"step{number} " for number in range(behaviour.reasoning)),
        tokens=tokens,
        calls=calls,
        is_truncated=is_truncated,
        input_tokens=input_tokens,
        cached_tokens=min(behaviour.cached, input_tokens),
        output_tokens=len(tokens) + call_tokens,
    )


def token_logprob(token: str, top: int) -> dict[str, Any]:
    """OpenAI's object of a token, with `top` of the likeliest."""
    chosen = {"token": token, "logprob": -0.25, "bytes": list(token.encode())}
    others = [chosen, *({"token": f"x{number}", "logprob": -2.0 - number, "bytes": None} for number in range(top - 1))]
    return {**chosen, "top_logprobs": others[:top]}


def vector(text: str, dimensions: int) -> list[float]:
    """A vector for a text; the same for the same text. Raises ValueError for one that is too long."""
    if dimensions > _MOST_DIMENSIONS:
        raise ValueError(f"dimensions: at most {_MOST_DIMENSIONS}")
    seed = zlib.crc32(text.encode())
    return [((seed * (place + 1)) % 1009) / 1009 - 0.5 for place in range(dimensions)]


def _calls(asked: Asked, behaviour: Behaviour) -> tuple[Call, ...]:
    if not asked.tools or not asked.may_call:
        return ()
    offered = [tool for tool in asked.tools if asked.forced_tool in (None, tool[0])] or list(asked.tools)
    seed = zlib.crc32(asked.text.encode())
    return tuple(
        Call(id=f"call_{seed:08x}{number}", name=offered[number % len(offered)][0], arguments=instance(offered[number % len(offered)][1]))
        for number in range(behaviour.calls)
    )


def _tokens(asked: Asked, behaviour: Behaviour) -> tuple[str, ...]:
    if behaviour.echo:
        text = orjson.dumps(asked.body).decode()
    elif asked.schema is not None or asked.wants_json:
        text = orjson.dumps(instance(asked.schema or {"type": "object"})).decode()
    else:
        start = zlib.crc32(asked.text.encode())
        return tuple(_WORDS[(start + number) % len(_WORDS)] + ("." if number == behaviour.tokens - 1 else " ") for number in range(behaviour.tokens))
    return tuple(text[place : place + 4] for place in range(0, len(text), 4))


def instance(schema: Any, depth: int = 0) -> Any:
    """A value that a JSON Schema allows, for the parts of it that tools and structured answers use."""
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return None
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for union in ("anyOf", "oneOf", "allOf"):
        if schema.get(union):
            return instance(schema[union][0], depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else None)
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: instance(inner, depth + 1) for name, inner in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [instance(schema.get("items"), depth + 1) for _ in range(schema.get("minItems", 1))]
    return {"string": "simulated", "integer": 1, "number": 1.5, "boolean": True}.get(str(kind))
