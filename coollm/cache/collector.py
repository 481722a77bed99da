"""A streamed answer put together again, so that it can be kept."""

from __future__ import annotations

from coollm.core.types import (
    Choice,
    Completion,
    FinishDelta,
    FinishReason,
    Json,
    ReasoningDelta,
    ReasoningPart,
    RefusalDelta,
    StreamEvent,
    TextDelta,
    TextPart,
    ToolCall,
    ToolCallDelta,
    Usage,
)


class _Choice:
    """What has come of one choice. Parts are in the order in which they began."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, int, dict[str, list[str]], ReasoningDelta | ToolCallDelta | None]] = []
        self.logprobs: list[Json] = []
        self.refusal: list[str] = []
        self.finish: FinishReason = "stop"

    def texts(self, kind: str, number: int, first: ReasoningDelta | ToolCallDelta | None, *, goes_on: bool) -> dict[str, list[str]]:
        """The texts of the part that goes on, or of a new one."""
        for known, index, texts, _ in reversed(self.parts if kind == "call" else self.parts[-1:]):
            if (known, index) == (kind, number) and goes_on:
                return texts
        made: dict[str, list[str]] = {}
        self.parts.append((kind, number, made, first))
        return made

    def built(self) -> Choice:
        """The choice."""
        parts = tuple(self._part(kind, texts, first) for kind, _, texts, first in self.parts)
        refusal = "".join(self.refusal) or None
        return Choice(parts=parts, finish_reason=self.finish, refusal=refusal, logprobs=tuple(self.logprobs))

    @staticmethod
    def _part(kind: str, texts: dict[str, list[str]], first: ReasoningDelta | ToolCallDelta | None) -> TextPart | ToolCall | ReasoningPart:
        told = {name: "".join(pieces) for name, pieces in texts.items()}
        if isinstance(first, ToolCallDelta):
            return ToolCall(id=told.get("id", ""), name=told.get("name", ""), arguments=told.get("arguments", ""), extra=first.extra)
        if kind == "thought" and isinstance(first, ReasoningDelta):
            signature = told.get("signature") or None
            return ReasoningPart(text=told.get("text", ""), signature=signature, origin=first.origin, is_redacted=first.is_redacted)
        return TextPart(text=told.get("text", ""))


class Collector:
    """Takes the events of one stream."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._choices: dict[int, _Choice] = {}

    def take(self, event: StreamEvent) -> None:
        """One more event."""
        if isinstance(event, TextDelta):
            choice = self._choice(event.choice)
            choice.texts("text", 0, None, goes_on=True).setdefault("text", []).append(event.text)
            choice.logprobs += event.logprobs
        elif isinstance(event, ReasoningDelta):
            texts = self._choice(event.choice).texts("thought", int(event.is_redacted), event, goes_on=not event.is_redacted)
            texts.setdefault("text", []).append(event.text)
            texts.setdefault("signature", []).append(event.signature or "")
        elif isinstance(event, ToolCallDelta):
            texts = self._choice(event.choice).texts("call", event.index, event, goes_on=True)
            for name, piece in (("id", event.id), ("name", event.name), ("arguments", event.arguments)):
                texts.setdefault(name, []).append(piece or "")
        elif isinstance(event, RefusalDelta):
            self._choice(event.choice).refusal.append(event.text)
        elif isinstance(event, FinishDelta):
            self._choice(event.choice).finish = event.reason

    def completion(self, answer_id: str, usage: Usage) -> Completion:
        """The whole answer."""
        choices = tuple(self._choices[number].built() for number in sorted(self._choices))
        return Completion(id=answer_id, model=self._model, choices=choices, usage=usage, service_tier=usage.service_tier)

    def _choice(self, number: int) -> _Choice:
        return self._choices.setdefault(number, _Choice())
