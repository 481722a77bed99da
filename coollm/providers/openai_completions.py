"""OpenAI's old completions as vendors speak them: answers to a prompt.

Source: https://platform.openai.com/docs/api-reference/completions and the types of the `openai` package.
"""

from __future__ import annotations

from coollm.core.types import Choice, Completion, FinishDelta, FinishReason, Json, ModelRequest, StreamEvent, TextDelta, TextPart
from coollm.providers.base import WireFormat
from coollm.providers.openai_chat import ChunkDecoder, read_completion

_FINISH: dict[str, FinishReason] = {"length": "length", "content_filter": "content_filter"}


def _finish(reason: object) -> FinishReason:
    return _FINISH.get(str(reason), "stop")


def _choice(choice: Json) -> Choice:
    return Choice(parts=(TextPart(text=str(choice.get("text") or "")),), finish_reason=_finish(choice.get("finish_reason")))


def _decode(request: ModelRequest, body: bytes) -> Completion:  # noqa: ARG001  the answer says all
    return read_completion(body, _choice)


def _events(choice: Json, index: int) -> list[StreamEvent]:
    found: list[StreamEvent] = []
    if isinstance(choice.get("text"), str) and choice["text"]:
        found.append(TextDelta(text=choice["text"], choice=index))
    if choice.get("finish_reason"):
        found.append(FinishDelta(reason=_finish(choice["finish_reason"]), choice=index))
    return found


COMPLETIONS = WireFormat(wire="completions", read=_decode, decoder=lambda: ChunkDecoder(_events))
