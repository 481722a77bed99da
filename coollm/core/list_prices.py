"""The vendors' list prices, for models whose provider has no `pricing` in the configuration: a dated table, which `scripts/prices` renews."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

import orjson

from coollm.core.pricing import Price, Rates, Schedule, Tier

FILE_NAME = "prices.json"

# Vertex hosts models of two makers, and Azure's are OpenAI's where it has no price of its own.
TABLES = {"claude": ("anthropic",), "gemini": ("google",), "vertex": ("google", "anthropic"), "azure": ("azure", "openai")}


def list_price(vendor: str, model: str) -> Price | None:
    """The list price of a vendor's model; None where the table has none."""
    if vendor == "vertex":
        model = model.partition("@")[0]
    for name in TABLES.get(vendor, (vendor,)):
        for match, schedule, services in _table()["vendors"].get(name, ()):
            if matches(match, model):
                tiers = {tier: _schedule(rows) for tier, rows in services.items()}
                return Price(standard=_schedule(schedule), services=tiers, source=f"list price of {_table()['date']}")
    return None


def matches(match: Sequence[Any], model: str) -> bool:
    """Whether a rule of the table is for a name. Rules are made for lower-case names; those by pattern take the name as it is."""
    kind, *rest = match
    if kind in ("or", "and"):
        found = (matches(one, model) for one in rest)
        return any(found) if kind == "or" else all(found)
    text, name = str(rest[0]), model.lower()
    if kind == "regex":
        return re.search(text, model) is not None
    wanted = text.lower()
    return {"equals": name == wanted, "starts_with": name.startswith(wanted), "ends_with": name.endswith(wanted), "contains": wanted in name}[str(kind)]


@functools.cache
def _table() -> Any:
    return orjson.loads((resources.files("coollm.core") / FILE_NAME).read_bytes())


def _schedule(rows: Sequence[Any]) -> Schedule:
    first, *longer = rows
    return Schedule(rates=Rates(*first), tiers=tuple(Tier(above=above, rates=Rates(*rates)) for above, rates in longer))
