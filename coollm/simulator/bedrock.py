"""Bedrock on the wire: Converse with its binary event stream, InvokeModel of embedding models, Rerank, and its signatures.

Sources: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html, https://smithy.io/2.0/aws/amazon-eventstream.html,
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html.

The secret of the access key `AKIAX` is `secret-of-AKIAX`; a request that is not signed with it is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib
from collections.abc import Iterator
from urllib.parse import quote, unquote

import orjson

from coollm.core.types import Json
from coollm.simulator.answer import Asked, Heard, Reply, Said, vector
from coollm.simulator.cohere import ranking

STREAM_TYPE = "application/vnd.amazon.eventstream"
BROKEN = b"\x00\x00\x00\x20broken frame of an event stream."

_ERRORS = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}


def key(headers: dict[str, str]) -> str:
    """The access key of a signed request, or its bearer token."""
    authorization = headers.get("authorization", "")
    if authorization.startswith("AWS4-HMAC-SHA256 "):
        return authorization.partition("Credential=")[2].partition("/")[0]
    return authorization.removeprefix("Bearer ").strip()


def read(heard: Heard) -> Asked:
    """A Converse request. Raises ValueError for what the API refuses, and PermissionError for a wrong signature."""
    _verify(heard)
    body = heard.body
    messages = body.get("messages")
    if not messages or messages[0]["role"] != "user":
        raise ValueError("A conversation must start with a user message.")
    tools = (body.get("toolConfig") or {}).get("tools") or ()
    choice = (body.get("toolConfig") or {}).get("toolChoice") or {}
    specs = [tool["toolSpec"] for tool in tools if "toolSpec" in tool]
    return Asked(
        model=unquote(heard.groups[0]),
        key=heard.key,
        stream=heard.groups[1] == "converse-stream",
        body=body,
        text=orjson.dumps([body.get("system"), messages]).decode(),
        tools=tuple((spec["name"], spec["inputSchema"]["json"]) for spec in specs),
        may_call=not any("toolResult" in block for block in messages[-1]["content"]),
        forced_tool=(choice.get("tool") or {}).get("name"),
        max_tokens=(body.get("inferenceConfig") or {}).get("maxTokens"),
        schema=_schema(body.get("outputConfig") or {}),
    )


def _schema(output: Json) -> Json | None:
    form = output.get("textFormat")
    if form is None:
        return None
    if form["type"] != "json_schema":
        raise ValueError("outputConfig.textFormat.type must be json_schema")
    return dict(orjson.loads(form["structure"]["jsonSchema"]["schema"]))


def read_invoke(heard: Heard) -> Asked:
    """An InvokeModel of an embedding model. Raises ValueError for what the API refuses, and PermissionError for a wrong signature."""
    _verify(heard)
    body, model = heard.body, unquote(heard.groups[0])
    if "cohere.embed" in model:
        texts = body["texts"]
        if not 0 < len(texts) <= 96 or "input_type" not in body:
            raise ValueError("#/texts: expected 1 to 96 texts, and an input_type")
        vectors = [vector(text, body.get("output_dimension") or 8) for text in texts]
        made: Json = {"id": "simulated", "response_type": "embeddings_by_type", "embeddings": {"float": vectors}, "texts": texts}
        return _reply(heard, model, " ".join(texts), made)
    if "nova" in model:
        asked = body["singleEmbeddingParams"]
        text = asked["text"]["value"]
        found = {"embeddingType": "TEXT", "embedding": vector(text, asked.get("embeddingDimension") or 8)}
        return _reply(heard, model, text, {"embeddings": [found]})
    text = body["inputText"]
    return _reply(heard, model, text, {"embedding": vector(text, body.get("dimensions") or 8), "inputTextTokenCount": max(1, len(text) // 4)})


def read_rerank(heard: Heard) -> Asked:
    """A Rerank request. Raises ValueError for what the API refuses, and PermissionError for a wrong signature."""
    _verify(heard)
    body = heard.body
    asked = body["rerankingConfiguration"]["bedrockRerankingConfiguration"]
    query = body["queries"][0]["textQuery"]["text"]
    documents = [source["inlineDocumentSource"]["textDocument"]["text"] for source in body["sources"]]
    rows = [{"index": index, "relevanceScore": score} for index, score in ranking(query, documents, asked.get("numberOfResults"))]
    return _reply(heard, asked["modelConfiguration"]["modelArn"].rpartition("/")[2], query, {"results": rows})


def _reply(heard: Heard, model: str, text: str, made: Json) -> Asked:
    return Asked(
        model=model,
        key=heard.key,
        stream=False,
        body=heard.body,
        text=text,
        reply=lambda how, _: Reply(body=made),  # noqa: ARG005
    )


def _verify(heard: Heard) -> None:
    if not heard.headers.get("authorization", "").startswith("AWS4-"):
        return
    fields = dict(part.strip().split("=", 1) for part in heard.headers["authorization"].removeprefix("AWS4-HMAC-SHA256 ").split(","))
    access, date, region, service, terminator = fields["Credential"].split("/")
    path = "/".join(quote(segment, safe="-_.~") for segment in heard.path.split("/"))
    names = fields["SignedHeaders"].split(";")
    lines = "".join(f"{name}:{heard.headers[name].strip()}\n" for name in names)
    body = hashlib.sha256(heard.data).hexdigest()
    canonical = "\n".join([heard.method, path, heard.query, lines, fields["SignedHeaders"], body])
    scope = f"{date}/{region}/{service}/{terminator}"
    text = "\n".join(["AWS4-HMAC-SHA256", heard.headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()])
    signing = b"AWS4secret-of-" + access.encode()
    for step in (date, region, service, terminator):
        signing = hmac.new(signing, step.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(hmac.new(signing, text.encode(), hashlib.sha256).hexdigest(), fields["Signature"]):
        raise PermissionError("The request signature we calculated does not match the signature you provided.")


def _stop(said: Said) -> str:
    return "tool_use" if said.calls else "max_tokens" if said.is_truncated else "end_turn"


def _usage(said: Said) -> Json:
    output = said.output_tokens + len(said.reasoning)
    given = said.input_tokens - said.cached_tokens
    return {
        "inputTokens": given,
        "outputTokens": output,
        "totalTokens": said.input_tokens + output,
        "cacheReadInputTokens": said.cached_tokens,
        "cacheWriteInputTokens": 0,
    }


def _blocks(said: Said) -> list[Json]:
    blocks: list[Json] = []
    if said.reasoning:
        blocks.append({"reasoningContent": {"reasoningText": {"text": "".join(said.reasoning), "signature": "simulated-signature"}}})
    if said.tokens:
        blocks.append({"text": "".join(said.tokens)})
    return blocks + [{"toolUse": {"toolUseId": call.id, "name": call.name, "input": call.arguments}} for call in said.calls]


def whole(asked: Asked, said: Said, request_id: str, *, usage: bool) -> Json:  # noqa: ARG001
    """A ConverseResponse."""
    made: Json = {"output": {"message": {"role": "assistant", "content": _blocks(said)}}, "stopReason": _stop(said), "metrics": {"latencyMs": 1}}
    return {**made, "usage": _usage(said)} if usage else made


def frames(asked: Asked, said: Said, request_id: str, *, usage: bool) -> Iterator[tuple[bytes, bool]]:  # noqa: ARG001
    """The events of a stream, each with whether it holds content."""
    yield event("messageStart", {"role": "assistant"}), False
    for index, block in enumerate(_blocks(said)):
        yield from _block_frames(index, block, said)
        yield event("contentBlockStop", {"contentBlockIndex": index}), False
    yield event("messageStop", {"stopReason": _stop(said)}), False
    yield event("metadata", {"metrics": {"latencyMs": 1}, **({"usage": _usage(said)} if usage else {})}), False


def _block_frames(index: int, block: Json, said: Said) -> Iterator[tuple[bytes, bool]]:
    def delta(payload: Json) -> bytes:
        return event("contentBlockDelta", {"contentBlockIndex": index, "delta": payload})

    if "text" in block:
        for token in said.tokens:
            yield delta({"text": token}), True
    elif "reasoningContent" in block:
        for thought in said.reasoning:
            yield delta({"reasoningContent": {"text": thought}}), True
        yield delta({"reasoningContent": {"signature": "simulated-signature"}}), False
    else:
        call = block["toolUse"]
        start = {"toolUse": {"toolUseId": call["toolUseId"], "name": call["name"]}}
        yield event("contentBlockStart", {"contentBlockIndex": index, "start": start}), True
        text = orjson.dumps(call["input"]).decode()
        for place in range(0, len(text), 8):
            yield delta({"toolUse": {"input": text[place : place + 8]}}), True


def event(name: str, payload: Json, kind: str = "event") -> bytes:
    """One message of an event stream: prelude, headers, payload, each with its checksum."""
    told = {f":{kind}-type": name, ":content-type": "application/json", ":message-type": kind}
    headers = b"".join(struct.pack("!B", len(title)) + title.encode() + struct.pack("!BH", 7, len(value)) + value.encode() for title, value in told.items())
    body = orjson.dumps(payload)
    prelude = struct.pack("!II", 12 + len(headers) + len(body) + 4, len(headers))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + body
    return message + struct.pack("!I", zlib.crc32(message))


def error(status: int, message: str, retry_after: float = 0) -> Json:  # noqa: ARG001
    """An error body."""
    return {"message": message, "__type": _ERRORS.get(status, "InternalServerException")}


def error_frame(message: str) -> bytes:
    """An error inside a stream."""
    return event("modelStreamErrorException", {"message": message}, kind="exception")
