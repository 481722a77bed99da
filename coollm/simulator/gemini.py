"""Gemini on the wire. Source: https://ai.google.dev/api/generate-content and the types of the `google-genai` package."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import orjson

from coollm.core.types import Json
from coollm.simulator.answer import Asked, Heard, Reply, Said, token_logprob, vector
from coollm.simulator.openai import event

STREAM_TYPE = "text/event-stream"
BROKEN = b"data: {broken\n\n"

_ERRORS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def key(headers: dict[str, str]) -> str:
    """The key of a request; on Vertex, an access token in its place."""
    return headers.get("x-goog-api-key", "") or headers.get("authorization", "").removeprefix("Bearer ").strip()


def read(heard: Heard) -> Asked:
    """A request to a model. Raises ValueError for what the API refuses."""
    method = heard.groups[1]
    if method == "batchEmbedContents":
        return _read_embeddings(heard)
    if method in ("predict", "embedContent"):
        return _read_vertex_embeddings(heard, method)
    if method == "countTokens":
        return _read_count(heard)
    return _read_content(heard, stream=method == "streamGenerateContent")


def _read_content(heard: Heard, *, stream: bool) -> Asked:
    body = heard.body
    contents = body.get("contents")
    if not contents:
        raise ValueError("contents is not specified")
    config = body.get("generationConfig") or {}
    declared = [one for tool in body.get("tools") or () for one in tool.get("functionDeclarations") or ()]
    calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    allowed = calling.get("allowedFunctionNames") or []
    return Asked(
        model=heard.groups[0],
        key=heard.key,
        stream=stream,
        body=body,
        text=orjson.dumps([body.get("systemInstruction"), contents]).decode(),
        tools=tuple((one["name"], _lower_types(_either(one, "parametersJsonSchema", "parameters_json_schema") or one.get("parameters"))) for one in declared),
        may_call=calling.get("mode") != "NONE" and not any("functionResponse" in part for part in contents[-1].get("parts") or ()),
        forced_tool=allowed[0] if allowed else None,
        schema=_lower_types(_either(config, "responseJsonSchema", "response_json_schema") or config.get("responseSchema")),
        wants_json=config.get("responseMimeType") == "application/json",
        max_tokens=config.get("maxOutputTokens"),
        choices=config.get("candidateCount") or 1,
        logprobs=(config.get("logprobs") or 0) if config.get("responseLogprobs") else None,
    )


def _read_count(heard: Heard) -> Asked:
    text = orjson.dumps(heard.body.get("contents")).decode()
    return Asked(
        model=heard.groups[0],
        key=heard.key,
        stream=False,
        body=heard.body,
        text=text,
        reply=lambda how, _: Reply(body={"totalTokens": max(1, len(text) // 4)}),  # noqa: ARG005
    )


def _read_vertex_embeddings(heard: Heard, method: str) -> Asked:
    body = heard.body
    if method == "predict":
        texts = [str(one["content"]) for one in body["instances"]]
        if heard.groups[0].startswith("gemini") and len(texts) > 1:
            raise ValueError("this model takes one instance in a request")
        size = (body.get("parameters") or {}).get("outputDimensionality") or 8
        told = [{"values": vector(text, size), "statistics": {"truncated": False, "token_count": max(1, len(text) // 4)}} for text in texts]
        made: Json = {"predictions": [{"embeddings": one} for one in told]}
    else:
        texts = ["".join(part.get("text", "") for part in body["content"]["parts"])]
        size = (body.get("embedContentConfig") or {}).get("outputDimensionality") or 8
        made = {"embedding": {"values": vector(texts[0], size)}, "usageMetadata": {"promptTokenCount": max(1, len(texts[0]) // 4)}}
    return Asked(
        model=heard.groups[0],
        key=heard.key,
        stream=False,
        body=body,
        text=" ".join(texts),
        reply=lambda how, _: Reply(body=made),  # noqa: ARG005
    )


def _read_embeddings(heard: Heard) -> Asked:
    body = heard.body
    asked = body.get("requests")
    if not asked:
        raise ValueError("requests is not specified")
    embeds = tuple("".join(part.get("text", "") for part in one["content"]["parts"]) for one in asked)
    dimensions = _either(asked[0], "outputDimensionality", "output_dimensionality") or 8
    made: Json = {"embeddings": [{"values": vector(text, int(str(dimensions)))} for text in embeds]}
    counted = {"usageMetadata": {"promptTokenCount": max(1, len(" ".join(embeds)) // 4)}}
    return Asked(
        model=heard.groups[0],
        key=heard.key,
        stream=False,
        body=body,
        text=" ".join(embeds),
        reply=lambda how, _: Reply(body={**made, **(counted if how.usage else {})}),
    )


def _either(container: Json, camel: str, snake: str) -> object:
    """A field under either of its names: the API takes both, as protobuf's JSON mapping says, and Google's own SDK sends some in snake case."""
    return container.get(camel) or container.get(snake)


def _lower_types(schema: object) -> object:
    """Gemini's own schemas write types in capitals."""
    if isinstance(schema, dict):
        return {name: value.lower() if name == "type" and isinstance(value, str) else _lower_types(value) for name, value in schema.items()}
    return [_lower_types(item) for item in schema] if isinstance(schema, list) else schema


def _usage(asked: Asked, said: Said) -> Json:
    output = said.output_tokens * asked.choices
    usage: Json = {"promptTokenCount": said.input_tokens, "candidatesTokenCount": output}
    if said.cached_tokens:
        usage["cachedContentTokenCount"] = said.cached_tokens
    if said.reasoning:
        usage["thoughtsTokenCount"] = len(said.reasoning)
    usage["totalTokenCount"] = said.input_tokens + output + len(said.reasoning)
    return usage


def _finish(said: Said) -> str:
    return "MAX_TOKENS" if said.is_truncated else "STOP"


def _call_parts(said: Said) -> list[Json]:
    return [
        {
            "functionCall": {"id": call.id, "name": call.name, "args": call.arguments},
            **({"thoughtSignature": "c2ltdWxhdGVk"} if number == 0 else {}),
        }
        for number, call in enumerate(said.calls)
    ]


def _logprobs(tokens: tuple[str, ...], top: int) -> Json:
    told = [token_logprob(token, top) for token in tokens]
    chosen = [{"token": one["token"], "logProbability": one["logprob"]} for one in told]
    likeliest = [{"candidates": [{"token": other["token"], "logProbability": other["logprob"]} for other in one["top_logprobs"]]} for one in told]
    return {"chosenCandidates": chosen, "topCandidates": likeliest}


def _response(asked: Asked, request_id: str, parts: list[Json], finish: str | None, usage: Json | None, tokens: tuple[str, ...] = ()) -> Json:
    candidates: list[Json] = []
    for index in range(asked.choices):
        candidate: Json = {"content": {"parts": parts, "role": "model"}, "index": index}
        if finish:
            candidate["finishReason"] = finish
        if asked.logprobs is not None and tokens:
            candidate["logprobsResult"] = _logprobs(tokens, asked.logprobs)
        candidates.append(candidate)
    made: Json = {"candidates": candidates, "modelVersion": asked.model, "responseId": request_id}
    if usage is not None:
        made["usageMetadata"] = usage
    return made


def whole(asked: Asked, said: Said, request_id: str, *, usage: bool) -> Json:
    """A `GenerateContentResponse`."""
    parts: list[Json] = [{"text": "".join(said.reasoning), "thought": True}] if said.reasoning else []
    if said.tokens:
        parts.append({"text": "".join(said.tokens)})
    return _response(asked, request_id, parts + _call_parts(said), _finish(said), _usage(asked, said) if usage else None, said.tokens)


def frames(asked: Asked, said: Said, request_id: str, *, usage: bool) -> Iterator[tuple[bytes, bool]]:
    """The frames of a stream, each with whether it holds content and with the usage so far. No event is terminal: the last frame has the finish reason."""
    pieces: list[Json] = [{"text": token, "thought": True} for token in said.reasoning]
    pieces += [{"text": token} for token in said.tokens]
    pieces += _call_parts(said)
    for number, part in enumerate(pieces, 1):
        reasoning = min(number, len(said.reasoning))
        so_far = msgspec.structs.replace(said, reasoning=said.reasoning[:reasoning], output_tokens=min(number - reasoning, said.output_tokens))
        tokens = (part["text"],) if "text" in part and not part.get("thought") else ()
        yield event(_response(asked, request_id, [part], None, _usage(asked, so_far) if usage else None, tokens)), True
    yield event(_response(asked, request_id, [{"text": ""}], _finish(said), _usage(asked, said) if usage else None)), False


def error(status: int, message: str, retry_after: float = 0) -> Json:
    """An error body."""
    details: list[Json] = []
    if status == 400 and "API key" in message:
        details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"})
    if retry_after:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{retry_after:g}s"})
    return {"error": {"code": status, "message": message, "status": _ERRORS.get(status, "INTERNAL"), "details": details}}


def error_frame(message: str) -> bytes:
    """An error inside a stream."""
    return event(error(500, message))
