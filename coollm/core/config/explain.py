"""Effective values, masked, each with what it means and where it came from."""

from __future__ import annotations

import functools
import re
import typing
from datetime import datetime
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Meta

from coollm.core.config.load import Loaded
from coollm.core.config.schema import Settings
from coollm.core.config.values import Address, Duration
from coollm.core.errors import UsageError
from coollm.core.registry import did_you_mean
from coollm.core.secrets import MASK, Secret


class SchemaField(msgspec.Struct, frozen=True):
    """A key of the schema: its description and an example."""

    description: str
    example: Any


@functools.cache
def describe_schema() -> dict[str, SchemaField]:
    """Every key of the schema by its path; list elements are written `[]`."""
    found: dict[str, SchemaField] = {}
    _describe(Settings, "", found)
    return found


def _describe(kind: Any, path: str, found: dict[str, SchemaField]) -> None:
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        below = f"{path}.{name}" if path else name
        inner, metas = _unwrap(hint)
        meta = next((meta for meta in metas if meta.description), None)
        example = meta.examples[0] if meta and meta.examples else None
        found[below] = SchemaField((meta.description if meta else "") or "", example)
        if get_origin(inner) is tuple:
            inner, below = _unwrap(get_args(inner)[0])[0], below + "[]"
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            _describe(inner, below, found)


def _unwrap(hint: Any) -> tuple[Any, list[Meta]]:
    metas: list[Meta] = []
    while True:
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            metas += [meta for meta in more if isinstance(meta, Meta)]
        elif type(None) in get_args(hint):
            hint = next(arm for arm in get_args(hint) if arm is not type(None))
        else:
            return hint, metas


class Explained(msgspec.Struct, frozen=True):
    """One effective value: `origin` is file, variable, environment or default."""

    path: str
    value: Any
    origin: str
    where: str
    description: str


def plain(value: Any) -> Any:
    """Settings as plain data for YAML or JSON. Secrets are masked."""
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, Duration | Address):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def explain_all(loaded: Loaded) -> list[Explained]:
    """Every effective value with its origin, in the order of the schema. `loaded` must be without faults."""
    rows: list[Explained] = []
    _explain(loaded, loaded.settings, "", rows)
    return rows


def _explain(loaded: Loaded, value: Any, path: str, rows: list[Explained]) -> None:
    if isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            _explain(loaded, getattr(value, field.name), f"{path}.{field.name}" if path else field.name, rows)
    elif isinstance(value, tuple) and not isinstance(value, Address) and value and isinstance(value[0], msgspec.Struct):
        for index, item in enumerate(value):
            _explain(loaded, item, f"{path}[{index}]", rows)
    elif isinstance(value, dict) and value:
        for name, item in value.items():
            _explain(loaded, item, f"{path}.{name}", rows)
    else:
        rows.append(_row(loaded, path, value))


def _row(loaded: Loaded, path: str, value: Any) -> Explained:
    field = describe_schema().get(re.sub(r"\[\d+\]", "[]", path))
    description = field.description if field else ""
    node = loaded.origins.get(path)
    if node is None:
        variable = _environment_variable(loaded, path)
        origin, where = ("environment", variable) if variable else ("default", "the built-in default")
        return Explained(path, plain(value), origin, where, description)
    variables = node.variables or tuple(name for item in node.items() for name in item.variables)
    if variables:
        return Explained(path, plain(value), "variable", f"{', '.join(variables)} at {node.place}", description)
    return Explained(path, plain(value), "file", str(node.place), description)


def _environment_variable(loaded: Loaded, path: str) -> str:
    match = re.match(r"llm_providers\[(\d+)\]\.(?:id|type|api_keys)", path)
    if match is None or loaded.settings is None:
        return ""
    return loaded.environment_vendors.get(loaded.settings.llm_providers[int(match[1])].id, "")


def explain_path(loaded: Loaded, path: str) -> list[Explained]:
    """The value at `path`, or all values below it. Raises UsageError with the nearest path if there is none."""
    rows = explain_all(loaded)
    found = [row for row in rows if row.path == path or row.path.startswith((path + ".", path + "["))]
    if found:
        return found
    if path in describe_schema():
        return [Explained(path, None, "default", "not set", describe_schema()[path].description)]
    known = tuple({row.path for row in rows} | set(describe_schema()))
    raise UsageError(f"no key '{path}' in the configuration{did_you_mean(path, known)}", "`coollm config show` lists all")
