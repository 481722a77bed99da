"""Reasoning between dialects, whose signatures only the vendor that made them can read.

OpenAI's chat format has no standard for it: `reasoning_content` is its text, and `reasoning_details` hold it signed.

Source: https://openrouter.ai/docs/use-cases/reasoning-tokens, whose `reasoning_details` clients give back as they got them.
"""

from __future__ import annotations

from coollm.core.types import Json, ReasoningDelta, ReasoningPart

_FORMATS = {"claude": "anthropic-claude-v1", "gemini": "google-gemini-v1", "responses": "openai-responses-v1"}
_ORIGINS = {name: origin for origin, name in _FORMATS.items()}


MINTED = "coollm:"
"""What a signature begins with that a client of another dialect was given: `coollm:ORIGIN:SIGNATURE`."""


def mint(part: ReasoningPart | ReasoningDelta, dialect: str) -> str:
    """The signature as a client of `dialect` gets it: as it is where it comes from a vendor of the same dialect, else with its origin."""
    if not part.signature or part.origin == dialect:
        return part.signature or ""
    return f"{MINTED}{part.origin or ''}:{part.signature}"


def unmint(signature: str, dialect: str) -> tuple[str | None, str | None]:
    """The signature and its origin, as a client of `dialect` gives them back."""
    if not signature.startswith(MINTED):
        return (signature, dialect) if signature else (None, None)
    origin, _, original = signature.removeprefix(MINTED).partition(":")
    return original, origin or None


def read_reasoning(message: Json) -> list[ReasoningPart]:
    """The reasoning of a message or a delta, signed where it can be."""
    details = message.get("reasoning_details")
    if isinstance(details, list) and details:
        return [part for detail in details if isinstance(detail, dict) for part in _read_detail(detail)]
    text = message.get("reasoning_content") or message.get("reasoning")
    return [ReasoningPart(text=text)] if isinstance(text, str) else []


def _read_detail(detail: Json) -> list[ReasoningPart]:
    kind, origin = detail.get("type"), _ORIGINS.get(str(detail.get("format")))
    if kind == "reasoning.encrypted" and isinstance(detail.get("data"), str):
        return [ReasoningPart(text="", signature=detail["data"], origin=origin, is_redacted=True)]
    text = detail.get("text") if kind == "reasoning.text" else detail.get("summary")
    signature = detail.get("signature")
    return [ReasoningPart(text=str(text or ""), signature=signature if isinstance(signature, str) and signature else None, origin=origin)]


def write_detail(part: ReasoningPart | ReasoningDelta, index: int) -> Json:
    """One of `reasoning_details`."""
    told = {"format": _FORMATS.get(part.origin or "", "unknown"), "index": index}
    if part.is_redacted:
        return {"type": "reasoning.encrypted", "data": part.signature, **told}
    return {"type": "reasoning.text", "text": part.text, "signature": part.signature, **told}
