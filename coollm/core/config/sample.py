"""A configuration file with every key, its meaning and its default, made from the schema: for `coollm init` and `etc/`."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
import yaml

from coollm.core.config.convert import default_of
from coollm.core.config.explain import describe_schema, plain
from coollm.core.config.schema import Settings

INDENT = "  "

_Lines = list[str]


def render_sample(values: dict[str, Any], title: str) -> str:
    """YAML text in which `values` (nested as in the file) are set and every other key stands as a comment with its default or an example."""
    lines = [f"# {line}" if line else "#" for line in title.splitlines()]
    lines += ["# Every key is shown; one behind a # has the value that applies without it, or an example where there is none.", ""]
    for field in msgspec.structs.fields(Settings):
        lines += [*_field(Settings, field, field.name, values, "", is_live=True), ""]
    return "\n".join(lines).rstrip() + "\n"


def _field(owner: type[msgspec.Struct], field: msgspec.structs.FieldInfo, path: str, values: dict[str, Any], indent: str, *, is_live: bool) -> _Lines:
    """The lines of one key; `is_live` is false inside a section that is itself a comment."""
    described = describe_schema()[path]
    section, is_list = _section_of(typing.get_type_hints(owner, include_extras=True)[field.name])
    is_set = field.name in values
    lead = "" if is_live and is_set else "# "
    note = f"{indent}# {described.description}"
    if section is None:
        value = values[field.name] if is_set else _default(field)
        shown = value if value is not None and value not in ([], {}) else described.example
        return [note, *(f"{indent}{lead}{line}" for line in _yaml(field.name, plain(shown)))]
    if is_list:
        items = values.get(field.name) or [{}]
        lines = [note, f"{indent}{lead}{field.name}:"]
        for item in items:
            lines += _item(section, path + "[]", item, indent + INDENT, is_live=is_live and is_set)
        return lines
    inner = values.get(field.name, {})
    body = [
        line
        for one in msgspec.structs.fields(section)
        for line in _field(section, one, f"{path}.{one.name}", inner, indent + INDENT, is_live=is_live and is_set)
    ]
    return [note, f"{indent}{lead}{field.name}:", *body]


def _item(section: type[msgspec.Struct], path: str, item: dict[str, Any], indent: str, *, is_live: bool) -> _Lines:
    lines: _Lines = []
    for one in msgspec.structs.fields(section):
        lines += _field(section, one, f"{path}.{one.name}", item, indent + INDENT, is_live=is_live)
    first = next((place for place, line in enumerate(lines) if not line.strip().startswith("#")), None)
    if first is None:
        return [f"{indent}# -", *lines]
    # The dash stands at the first key that is set: comments before it belong to the list.
    return [*lines[:first], f"{indent}- {lines[first].strip()}", *lines[first + 1 :]]


def _section_of(hint: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    is_list = False
    while True:
        origin = get_origin(hint)
        if origin is Annotated:
            hint = get_args(hint)[0]
        elif origin in (Union, types.UnionType):
            hint = next(arm for arm in get_args(hint) if arm is not type(None))
        elif origin is tuple:
            is_list, hint = True, get_args(hint)[0]
        else:
            break
    return (hint, is_list) if isinstance(hint, type) and issubclass(hint, msgspec.Struct) else (None, is_list)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return None if field.required else default_of(field)


def _yaml(name: str, value: Any) -> _Lines:
    if isinstance(value, list):
        written = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
        return [f"{name}: {written}"]
    return yaml.safe_dump({name: value}, sort_keys=False, width=10_000, allow_unicode=True).rstrip().splitlines()
