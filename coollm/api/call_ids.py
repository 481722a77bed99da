"""What a vendor wants back with a tool call, carried in the call's id for clients whose dialect has no other place for it.

Every client gives the id back as it came. Gemini's thought signatures travel so: https://ai.google.dev/gemini-api/docs/thought-signatures.
"""

from __future__ import annotations

import base64
import binascii

import orjson

from coollm.core.types import Json

_MARK = "__with_"


def pack(call_id: str, extra: Json | None) -> str:
    """The id with what belongs to it, of letters, digits, `_` and `-` as Anthropic's clients want ids."""
    if not extra:
        return call_id
    return call_id + _MARK + base64.urlsafe_b64encode(orjson.dumps(extra)).decode().rstrip("=")


def unpack(packed: str) -> tuple[str, Json | None]:
    """The id, and what belongs to it."""
    call_id, mark, carried = packed.rpartition(_MARK)
    if not mark:
        return packed, None
    try:
        extra = orjson.loads(base64.urlsafe_b64decode(carried + "=" * (-len(carried) % 4)))
    except (binascii.Error, ValueError):
        return packed, None
    return (call_id, extra) if isinstance(extra, dict) else (packed, None)
