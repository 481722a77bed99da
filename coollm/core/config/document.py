"""YAML text → a tree whose every node knows its line and column."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from coollm.core.config.faults import Fault, Place

# A file of aliases to aliases grows without bound when it is walked; no honest configuration comes near.
MOST_NODES = 200_000

_PROPERTIES = re.compile(r"(?:[&!]\S*\s+)+")

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Node:
    """A scalar, list or mapping with its place. `variables` are the references a scalar was made from, `span` the characters of the text that it is."""

    __slots__ = ("key_places", "place", "span", "value", "variables")

    def __init__(self, value: Any, place: Place, span: tuple[int, int] = (0, 0)) -> None:
        self.value = value
        self.span = span
        self.place = place
        self.key_places: dict[str, Place] = {}
        self.variables: tuple[str, ...] = ()

    def get(self, *steps: str) -> Node | None:
        """The node below, or None if anything on the way is missing or not a mapping."""
        node: Node | None = self
        for step in steps:
            node = node.value.get(step) if node is not None and isinstance(node.value, dict) else None
        return node

    def items(self) -> list[Node]:
        """The elements of a list, none if this is not a list."""
        return self.value if isinstance(self.value, list) else []

    def pairs(self) -> list[tuple[str, Node]]:
        """The entries of a mapping, none if this is not a mapping."""
        return list(self.value.items()) if isinstance(self.value, dict) else []

    def text(self) -> str | None:
        """The text of a string, None otherwise."""
        return self.value if isinstance(self.value, str) else None


class Reader:
    """Reads one document and collects its faults."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.faults: list[Fault] = []
        self._nodes = 0
        self._text = ""

    def read(self, text: str) -> Node:
        """The tree of `text`; an empty mapping for an empty file. Faults of syntax are collected and end the reading."""
        self._text = text
        loader = None
        empty = Node({}, Place(self.file, 1, 1))
        try:
            loader = _SafeLoader(text)
            root = loader.get_single_node()
            return empty if root is None else self._convert(loader, root, ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = Place(self.file, mark.line + 1, mark.column + 1) if mark else empty.place
            self.faults.append(Fault(place, "", f"not valid YAML: {error.problem or error.context}"))
        except yaml.YAMLError as error:
            place = Place(self.file, *_position(text, getattr(error, "position", 0)))
            self.faults.append(Fault(place, "", "not valid YAML: it holds a character that YAML does not allow"))
        except RecursionError:
            self.faults.append(Fault(empty.place, "", "not valid YAML: it is nested too deep, or refers to itself"))
        finally:
            if loader is not None:
                loader.dispose()
        return empty

    def _convert(self, loader: Any, node: yaml.Node, inside: tuple[yaml.Node, ...]) -> Node:
        place = Place(self.file, node.start_mark.line + 1, node.start_mark.column + 1)
        self._nodes += 1
        if node in inside or self._nodes > MOST_NODES:
            raise RecursionError
        if isinstance(node, yaml.SequenceNode):
            return Node([self._convert(loader, child, (*inside, node)) for child in node.value], place)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(loader, node, place, (*inside, node))
        try:
            return Node(loader.construct_object(node, deep=True), place, self._span(node))
        except (yaml.YAMLError, ValueError):
            return Node(node.value, place, self._span(node))

    def _span(self, node: yaml.Node) -> tuple[int, int]:
        """The characters of a value, without the anchor or the tag before it."""
        begin, end = node.start_mark.index, node.end_mark.index
        properties = _PROPERTIES.match(self._text, begin, end) if self._text[begin : begin + 1] in ("&", "!") else None
        return (properties.end() if properties else begin), end

    def _mapping(self, loader: Any, node: yaml.MappingNode, place: Place, inside: tuple[yaml.Node, ...]) -> Node:
        written = [key for key, _ in node.value]
        loader.flatten_mapping(node)
        made = Node({}, place, self._span(node))
        for key, child in node.value:
            key_place = Place(self.file, key.start_mark.line + 1, key.start_mark.column + 1)
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is None:
                self.faults.append(Fault(key_place, "", "a key must be plain text"))
                continue
            if name in made.value and key in written and made.key_places[name] != key_place:
                first = made.key_places[name]
                if first.line > 0 and any(other.value == name for other in written if other is not key):
                    self.faults.append(Fault(key_place, name, f"this key is given twice; the first is at line {first.line}", "remove one of the two"))
            made.value[name] = self._convert(loader, child, inside)
            made.key_places[name] = key_place
        return made


def _position(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Every node below and including this one, with its path such as `llm_providers[1].type`."""
    yield path, node
    for name, child in node.pairs():
        yield from walk(child, f"{path}.{name}" if path else name)
    for index, child in enumerate(node.items()):
        yield from walk(child, f"{path}[{index}]")
