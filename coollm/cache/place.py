"""Where an answer is kept: by who may see it, who may give it, and everything in the request that changes it. Some requests have no place."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from coollm.core.config.schema import Cache
from coollm.core.types import ChatRequest, EmbeddingRequest, ModelRequest, RerankRequest, Target

# What says how an answer is sent, or who asks, and not what it is.
_NO_MATTER = frozenset({"stream", "stream_options", "user", "metadata", "safety_identifier", "prompt_cache_key"})

# Tools that the client runs; those that a vendor runs (a search in the web) give another answer each time.
_CLIENTS_TOOLS = (None, "function", "custom")


def place_of(request: ModelRequest, wire: str, tenant: str | None, targets: Sequence[Target], settings: Cache) -> str | None:
    """The key of a request's answer, a full SHA-256; None if its answer may not be kept. A `tenant` of None shares it with all."""
    if not _may_be_kept(request, settings):
        return None
    asked = {name: value for name, value in request.source.items() if name not in _NO_MATTER}
    whole = [
        tenant,
        wire,
        type(request).__name__,
        sorted({(target.provider, target.model) for target in targets}),
        sorted(request.forwarded_headers),
        asked,
    ]
    try:
        written = orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return None  # a large request, whose long texts were set aside: it is not worth its room
    return hashlib.sha256(written).hexdigest()


def _may_be_kept(request: ModelRequest, settings: Cache) -> bool:
    if isinstance(request, EmbeddingRequest | RerankRequest):
        return True
    if not isinstance(request, ChatRequest):
        return False
    if request.temperature != 0 and not settings.any_temperature:
        return False  # without a word the vendor's temperature is above 0
    source = request.source
    if request.pinned_key is not None or source.get("previous_response_id") or source.get("conversation"):
        return False
    # A response that the vendor keeps is to be found there.
    if source.get("store", request.dialect == "responses"):
        return False
    return "web_search_options" not in source and all(_is_clients(tool) for tool in source.get("tools") or ())


def _is_clients(tool: Any) -> bool:
    return isinstance(tool, dict) and tool.get("type") in _CLIENTS_TOOLS
