"""Limits that an administrator has set since the configuration was read. What they do not name is as it is configured."""

from __future__ import annotations

from typing import Any

import msgspec

from coollm.core.config.schema import Limits
from coollm.core.types import Value


class Override(Value, frozen=True):
    """What was set for a client, a team or a model: fields of Limits, None for one that is lifted. A budget counts from `budget_since`, if that is later
    than its period's beginning. `set_ms` is when, in milliseconds of the epoch.
    """

    kind: str
    id: str
    fields: dict[str, Any] = msgspec.field(default_factory=dict)
    budget_since: int = 0
    set_ms: int = 0


class Overrides(Value, frozen=True):
    """All that is set, at a revision, which goes up with each change."""

    revision: int
    rows: tuple[Override, ...]


NOTHING_SET = Overrides(revision=0, rows=())

FIELDS = Limits.__struct_fields__


def merged(configured: Limits, override: Override) -> Limits:
    """The limits that hold. Raises msgspec.ValidationError for a field or a value that Limits does not take."""
    lifted = {name: getattr(Limits(), name) for name, value in override.fields.items() if value is None and name in FIELDS}
    return msgspec.convert({**msgspec.structs.asdict(configured), **override.fields, **lifted}, Limits)
