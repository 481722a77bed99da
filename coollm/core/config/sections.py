"""What the sections of the configuration are made of."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections. An unknown key is an error."""


Positive = Annotated[int, Meta(ge=1)]
Price = Annotated[float, Meta(ge=0)]
Weight = Annotated[float, Meta(ge=0)]
Percent = Annotated[float, Meta(gt=0, le=100)]
Identifier = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$")]


def doc(description: str, example: Any = None, *, one_or_many: bool = False, password: bool = False) -> Meta:
    """What a key means. A `password` is any text; other secrets are keys, which are sent in headers."""
    return Meta(
        description=description,
        examples=None if example is None else [example],
        extra={"one_or_many": one_or_many, "password": password},
    )
