"""The JSON Schema of the configuration, for editors and CI.

msgspec's own generator cannot write the defaults of types with a notation of their own (durations, addresses), so the schema is walked here.
"""

from __future__ import annotations

import types
import typing
from datetime import datetime
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from coollm.core.config.convert import default_of
from coollm.core.config.explain import plain
from coollm.core.config.schema import Settings
from coollm.core.config.values import Address, Duration
from coollm.core.secrets import Secret

_LEAVES: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    Secret: {"type": "string", "writeOnly": True},
    Duration: {"type": ["string", "number"], "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)$"},
    Address: {"type": "string", "pattern": r"^.*:\d+$"},
    datetime: {"type": "string", "format": "date-time"},
}


def json_schema() -> dict[str, Any]:
    """The whole schema, draft 2020-12. Numbers and booleans may also be written as a `${…}` reference."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "COO-LLM configuration", **_schema(Settings)}


def _schema(kind: Any, metas: tuple[Meta, ...] = ()) -> dict[str, Any]:
    origin = get_origin(kind)
    if origin is Annotated:
        inner, *more = get_args(kind)
        return _schema(inner, (*metas, *(meta for meta in more if isinstance(meta, Meta))))
    if origin in (Union, types.UnionType):
        inner = next(arm for arm in get_args(kind) if arm is not type(None))
        return {"anyOf": [_schema(inner, metas), {"type": "null"}], **_described(metas)}
    return {**_bare(kind, origin, metas), **_described(metas)}


def _bare(kind: Any, origin: Any, metas: tuple[Meta, ...]) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _section(kind)
    if origin is tuple:
        items = {"type": "array", "items": _schema(get_args(kind)[0])}
        if any((meta.extra or {}).get("one_or_many") for meta in metas):
            return {"anyOf": [_schema(get_args(kind)[0]), items]}
        return items
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(get_args(kind)[1])}
    if origin is Literal:
        return {"enum": list(get_args(kind))}
    leaf = dict(_LEAVES[kind])
    for meta in metas:
        if meta.ge is not None:
            leaf["minimum"] = meta.ge
        if meta.pattern is not None:
            leaf["pattern"] = meta.pattern
    if leaf["type"] in ("integer", "number", "boolean"):
        return {"anyOf": [leaf, {"type": "string", "pattern": r"^\$\{.+\}$"}]}
    return leaf


def _section(kind: type[msgspec.Struct]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    properties: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        properties[field.name] = _schema(hints[field.name])
        default = default_of(field)
        if not field.required and default is not None and not isinstance(default, msgspec.Struct):
            properties[field.name]["default"] = plain(default)
    required = [field.name for field in msgspec.structs.fields(kind) if field.required]
    return {"type": "object", "properties": properties, "additionalProperties": False, **({"required": required} if required else {})}


def _described(metas: tuple[Meta, ...]) -> dict[str, Any]:
    meta = next((meta for meta in metas if meta.description), None)
    if meta is None:
        return {}
    return {"description": meta.description, **({"examples": list(meta.examples)} if meta.examples else {})}
