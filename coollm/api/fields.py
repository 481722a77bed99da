"""Reading the fields of a client's JSON: each check names the field, and says what it should have been."""

from __future__ import annotations

import re
from typing import Any

from coollm.core.errors import InvalidRequest
from coollm.core.types import Base64, Json

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,")


def typed(body: Json, name: str, kind: type, wanted: str, path: str = "") -> Any:
    """The field if it is there and of this type, None if it is missing or null."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidRequest(f"'{path}{name}' must be {wanted}", param=f"{path}{name}")
    return value


def required_text(body: Json, name: str, path: str = "") -> str:
    """A text that must be there and not empty."""
    value = body.get(name)
    if type(value) is str and value:
        return value
    typed(body, name, str, "text", path)
    raise InvalidRequest(f"'{path}{name}' is missing", param=f"{path}{name}", code="missing_required_parameter")


def whole(body: Json, name: str, largest: int = 2**31 - 1) -> int | None:
    """A whole number from 1 on."""
    value = body.get(name)
    if type(value) is int and 1 <= value <= largest:
        return value
    if typed(body, name, int, "a whole number") is not None:
        raise InvalidRequest(f"'{name}' must be a whole number from 1 to {largest}, not {value}", param=name)
    return None


def number(body: Json, name: str, least: float, most: float) -> float | None:
    """A number within a range."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidRequest(f"'{name}' must be a number from {least} to {most}", param=name)
    return float(value)


def inline(url: str) -> tuple[str, Base64] | None:
    """Media type and data of a base64 `data:` URL; None for anything else. The data stay where they are."""
    match = _DATA_URL.match(url)
    return (match[1], Base64(text=url, start=match.end())) if match else None


def an_object(value: Any, path: str) -> Json:
    """A JSON object at `path`."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"'{path}' must be an object", param=path)
    return value
