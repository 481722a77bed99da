"""A tree of nodes → frozen settings. Every fault is collected with its place; a faulty value becomes its default so that the walk goes on."""

from __future__ import annotations

import types
import typing
from datetime import datetime
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import orjson
from msgspec import NODEFAULT, Meta

from coollm.core.config.document import Node
from coollm.core.config.faults import Fault, Place
from coollm.core.config.values import Address, Duration, parse_instant
from coollm.core.registry import did_you_mean
from coollm.core.secrets import Secret

FAULTY: Any = object()

_PLAIN_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_PARSERS: dict[Any, Any] = {Duration: Duration.parse, Address: Address.parse, datetime: parse_instant}


class Converter:
    """Converts nodes to the types of the schema, remembering where each value came from."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.origins: dict[str, Node] = {}
        self.secrets: list[tuple[str, Node]] = []

    def convert(self, node: Node, kind: Any, path: str, metas: tuple[Meta, ...] = ()) -> Any:
        """The value of `node` as `kind`, or FAULTY after the fault was recorded."""
        origin = get_origin(kind)
        if origin is Annotated:
            inner, *more = get_args(kind)
            return self.convert(node, inner, path, (*metas, *(meta for meta in more if isinstance(meta, Meta))))
        self.origins[path] = node
        if origin in (Union, types.UnionType):
            if node.value is None and not node.variables:
                return None
            return self.convert(node, next(arm for arm in get_args(kind) if arm is not type(None)), path, metas)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self._struct(node, kind, path)
        if origin is tuple:
            return self._sequence(node, get_args(kind)[0], path, metas)
        if origin is dict:
            return self._mapping(node, get_args(kind)[1], path)
        return self._leaf(node, kind, path, metas)

    def _fault(self, node: Node, path: str, message: str, hint: str = "") -> Any:
        self.faults.append(Fault(node.place, path, message, hint))
        return FAULTY

    def _struct(self, node: Node, kind: type[msgspec.Struct], path: str) -> Any:
        if node.value is None:
            node = Node({}, node.place)
        if not isinstance(node.value, dict):
            return self._fault(node, path, f"expected a section of keys, got {describe(node.value)}")
        hints = typing.get_type_hints(kind, include_extras=True)
        for name in node.value:
            if name not in hints:
                place: Place = node.key_places[name]
                message = f"unknown key '{name}'{did_you_mean(name, tuple(hints))}"
                self.faults.append(Fault(place, _join(path, name), message, f"known keys: {', '.join(sorted(hints))}"))
        values: dict[str, Any] = {}
        complete = True
        for field in msgspec.structs.fields(kind):
            if field.name in node.value:
                value = self.convert(node.value[field.name], hints[field.name], _join(path, field.name))
                if value is not FAULTY:
                    values[field.name] = value
                elif field.required:
                    complete = False
            elif field.required:
                complete = False
                self._fault(node, _join(path, field.name), f"the key '{field.name}' is missing", _hint_for(hints[field.name]))
        return kind(**values) if complete else FAULTY

    def _sequence(self, node: Node, inner: Any, path: str, metas: tuple[Meta, ...]) -> Any:
        if isinstance(node.value, str) and any((meta.extra or {}).get("one_or_many") for meta in metas):
            node = _listed(node)
        if node.value is None and not node.variables:
            return ()
        if not isinstance(node.value, list):
            return self._fault(node, path, f"expected a list, got {describe(node.value)}")
        values = [self.convert(child, inner, f"{path}[{index}]") for index, child in enumerate(node.value)]
        return tuple(value for value in values if value is not FAULTY)

    def _mapping(self, node: Node, inner: Any, path: str) -> Any:
        if node.value is None:
            return {}
        if not isinstance(node.value, dict):
            return self._fault(node, path, f"expected names and values, got {describe(node.value)}")
        values = {name: self.convert(child, inner, _join(path, name)) for name, child in node.value.items()}
        return {name: value for name, value in values.items() if value is not FAULTY}

    def _leaf(self, node: Node, kind: Any, path: str, metas: tuple[Meta, ...]) -> Any:
        value = node.value
        if kind is Secret:
            self.secrets.append((path, node))
        if value is None and node.variables:
            return FAULTY  # the undefined variable has been reported
        if isinstance(value, dict | list) or value is None:
            return self._fault(node, path, f"expected {expected(kind)}, got {describe(value)}")
        try:
            return self._parse(value, kind, metas, lax=bool(node.variables))
        except (ValueError, msgspec.ValidationError) as error:
            shown = "a value from " + ", ".join(node.variables) if node.variables else describe(value)
            if kind is Secret:
                shown = "a value that is not shown"
            return self._fault(node, path, f"{_reason(error, kind, metas)}, got {shown}{_nearest(value, kind)}")

    @staticmethod
    def _parse(value: Any, kind: Any, metas: tuple[Meta, ...], *, lax: bool) -> Any:
        if kind is Secret:
            if not isinstance(value, str):
                raise ValueError("expected a key as text: put it into quotes")
            if not value:
                raise ValueError("expected a key that is not empty")
            if any((meta.extra or {}).get("password") for meta in metas):
                return Secret(value)
            if value.lstrip().startswith("{"):
                return Secret(_compact(value))
            if any(character <= " " or character > "~" for character in value):
                raise ValueError("expected a key of printable ASCII characters without spaces")
            return Secret(value)
        if kind in _PARSERS:
            return _PARSERS[kind](value)
        if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError("expected text: put it into quotes")
        if get_origin(kind) is Literal and isinstance(value, float):
            value = str(value)  # `version: 1.0` without its quotes
        constraints = Annotated[(kind, *metas)] if metas else kind
        return msgspec.convert(value, constraints, strict=not lax)


def _compact(text: str) -> str:
    """The JSON of a service account's key file on one line. Raises ValueError."""
    try:
        return orjson.dumps(orjson.loads(text)).decode()
    except orjson.JSONDecodeError:
        raise ValueError("expected a key, or the whole JSON text of a service account's key file") from None


def _listed(node: Node) -> Node:
    wrapped = Node([node], node.place)
    wrapped.variables = node.variables
    return wrapped


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def describe(value: Any) -> str:
    """A value as it is named in a message."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a section of keys"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return f"'{text if len(text) <= 60 else text[:57] + '...'}'"


def expected(kind: Any) -> str:
    """What a value should have been."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(kind))
    named = {Secret: "a key", Duration: "a duration such as 30s", Address: "HOST:PORT", datetime: "a date and time"}
    return named.get(kind) or _PLAIN_NAMES.get(kind, "a value")


def _reason(error: Exception, kind: Any, metas: tuple[Meta, ...]) -> str:
    if isinstance(error, ValueError) and not isinstance(error, msgspec.ValidationError):
        return str(error)
    for meta in metas:
        if meta.gt is not None and meta.le is not None:
            return f"expected {expected(kind)} above {meta.gt} and up to {meta.le}"
        if meta.ge is not None and meta.le is not None:
            return f"expected {expected(kind)} from {meta.ge} to {meta.le:,}"
        if meta.ge is not None:
            return f"expected {expected(kind)} of at least {meta.ge}"
        if meta.pattern is not None:
            return f"expected {meta.title}" if meta.title else "expected letters, digits, '.', '_' and '-', at most 64, the first a letter or digit"
    return f"expected {expected(kind)}"


def _nearest(value: Any, kind: Any) -> str:
    return did_you_mean(str(value), tuple(str(choice) for choice in get_args(kind))) if get_origin(kind) is Literal else ""


def _hint_for(kind: Any) -> str:
    for meta in get_args(kind)[1:] if get_origin(kind) is Annotated else ():
        if isinstance(meta, Meta) and meta.examples:
            return f"{meta.description} Example: {meta.examples[0]}"
    return ""


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    """The default of a field of the schema."""
    if field.default is not NODEFAULT:
        return field.default
    return field.default_factory() if field.default_factory is not NODEFAULT else None
