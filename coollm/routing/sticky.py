"""Which requests belong together, so that they go to the same key and find the vendor's prompt cache warm.

The key is chosen by rendezvous hashing: every worker and host comes to the same without asking anybody, each key gets its share by weight, and when a key goes
only its own requests move. It is tried first while it is usable; the algorithm orders the others.
"""

from __future__ import annotations

import hashlib
import math

from coollm.core.config.schema import Sticky
from coollm.core.types import ChatRequest, ModelRequest, Target, TextPart
from coollm.routing.base import Ranked

# Of a long prompt so much tells it from others.
PREFIX_CHARACTERS = 4096


def stickiness(settings: Sticky, request: ModelRequest, session: str | None) -> str | None:
    """The name of what the request belongs to; None if it stands alone. `session` is what the header says."""
    if settings.by == "session":
        told = session or request.source.get("prompt_cache_key") or request.user
        return str(told) if told else None
    if settings.by == "prefix" and isinstance(request, ChatRequest):
        return _prefix(request)
    return None


def _prefix(request: ChatRequest) -> str:
    """The beginning of the prompt: tools, system prompts and the first turn of the user."""
    pieces = [tool.name for tool in request.tools]
    for message in request.messages:
        pieces += [part.text for part in message.parts if isinstance(part, TextPart)]
        if message.role != "system":
            break
    return "\n".join(pieces)[:PREFIX_CHARACTERS]


def stick(ranked: list[Ranked], name: str) -> list[Ranked]:
    """The ranking with the key that `name` belongs to in front."""
    if len(ranked) < 2:
        return ranked
    scores = {one.target.key: _score(name, one.target) for one in ranked}
    chosen = max(ranked, key=lambda one: scores[one.target.key])
    first = Ranked(target=chosen.target, score=1.0, components={**chosen.components, "sticky": 1.0})
    return [first, *(one for one in ranked if one is not chosen)]


def _score(name: str, target: Target) -> float:
    digest = hashlib.blake2b(f"{name}\0{target.key}".encode(), digest_size=8).digest()
    share = (int.from_bytes(digest) + 0.5) / 2**64
    return -target.weight / math.log(share)
