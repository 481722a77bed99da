"""OpenAI's old completions as vendors speak them: answers to a prompt.

Source: https://platform.openai.com/docs/api-reference/completions and the types of the `openai` package.
"""

from __future__ import annotations

from coollm.core.types import Choice, Completion, FinishDelta, FinishReason, Json, ModelRequest, StreamEnd, StreamEvent, TextDelta, TextPart, UsageUpdate
from coollm.providers.base import WireFormat, bad_answer, count, parse_object
from coollm.providers.openai_chat import decode_usage
from coollm.providers.openai_errors import judge
from coollm.providers.sse import SseEvent
from coollm.providers.verdict import VendorError

_FINISH: dict[str, FinishReason] = {"length": "length", "content_filter": "content_filter"}


def _finish(reason: object) -> FinishReason:
    return _FINISH.get(str(reason), "stop")


def _decode(request: ModelRequest, body: bytes) -> Completion:  # noqa: ARG001  the answer says all
    answer = parse_object(body, "the answer")
    if answer.get("error"):
        raise VendorError(judge(200, {}, answer))
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        raise bad_answer("the answer has no choices")
    return Completion(
        id=str(answer.get("id") or ""),
        model=str(answer.get("model") or ""),
        choices=tuple(Choice(parts=(TextPart(text=str(one.get("text") or "")),), finish_reason=_finish(one.get("finish_reason"))) for one in choices),
        usage=decode_usage(answer.get("usage")),
    )


class _Decoder:
    """Decodes the chunks of a stream."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._done = False

    @property
    def is_whole(self) -> bool:
        return self._done or (bool(self._finished) and self._open <= self._finished)

    def decode_event(self, event: SseEvent) -> tuple[StreamEvent, ...]:
        if not event.data:
            return ()
        if event.data == b"[DONE]":
            self._done = True
            return (StreamEnd(),)
        chunk = parse_object(event.data, "a chunk of the stream")
        if chunk.get("error"):
            raise VendorError(judge(200, {}, chunk))
        found: list[StreamEvent] = []
        for choice in chunk.get("choices") or ():
            if isinstance(choice, dict):
                self._decode_choice(choice, found)
        usage = decode_usage(chunk.get("usage"))
        if usage is not None:
            found.append(UsageUpdate(usage=usage))
        return tuple(found)

    def _decode_choice(self, choice: Json, found: list[StreamEvent]) -> None:
        index = count(choice, "index")
        self._open.add(index)
        if isinstance(choice.get("text"), str) and choice["text"]:
            found.append(TextDelta(text=choice["text"], choice=index))
        if choice.get("finish_reason"):
            self._finished.add(index)
            found.append(FinishDelta(reason=_finish(choice["finish_reason"]), choice=index))


COMPLETIONS = WireFormat(wire="completions", read=_decode, decoder=_Decoder)
