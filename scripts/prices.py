"""Writes the list prices of the vendors that the gateway knows: {"date", "source", "vendors": {vendor: [model]}}, a model a line.

A model is [match, schedule, {service tier: schedule}]; a schedule is [rates, [above, rates]…]; rates are US dollars per million tokens in the order of RATES.
Where a price depends on the hour of the day, the dearest is taken.
"""

from __future__ import annotations

import datetime
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genai_prices import types
from genai_prices.data import providers

VENDORS = {
    "openai": "openai",
    "anthropic": "anthropic",
    "google": "google",
    "x-ai": "grok",
    "together": "together",
    "openrouter": "openrouter",
    "mistral": "mistral",
    "fireworks": "fireworks",
    "deepseek": "deepseek",
    "groq": "groq",
    "cohere": "cohere",
    "voyageai": "voyage",
    "azure": "azure",
    "aws": "bedrock",
}
RATES = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok", "output_reasoning_mtok")
TODAY = datetime.datetime.now(datetime.UTC).date()


def clause(match: Any) -> list[Any]:
    """A rule for names, as a list."""
    for kind in ("equals", "starts_with", "ends_with", "contains", "regex"):
        if hasattr(match, kind):
            return [kind, getattr(match, kind)]
    kind = "or" if hasattr(match, "or_") else "and"
    return [kind, *(clause(one) for one in getattr(match, f"{kind}_"))]


def value(price: Any, above: int) -> float | None:
    """A rate for a request with more than `above` input tokens."""
    if isinstance(price, types.TieredPrices):
        found = price.base
        for tier in price.tiers:
            if tier.start <= above:
                found = tier.price
        return float(found)
    return None if price is None else float(price)


def rates(price: Any, above: int) -> list[float | None]:
    """The rates in their order, without those that are missing at the end. A model that has no output, such as one of vectors, has it for nothing."""
    found = [value(getattr(price, name, None), above) for name in RATES]
    found[1] = 0.0 if found[1] is None else found[1]
    while found[-1] is None:
        found.pop()
    return found


def schedule(price: Any, standard: Any = None) -> list[Any] | None:
    """A schedule; what a tier does not change is that of the standard. None where the price of input is not told."""
    if standard is not None:
        changed = {name: given for name in RATES if (given := getattr(price, name, None)) is not None}
        price = types.ModelPrice(**{**{name: getattr(standard, name, None) for name in RATES}, **changed})
    if getattr(price, "input_mtok", None) is None:
        return None
    starts = sorted({tier.start for name in RATES if isinstance(one := getattr(price, name, None), types.TieredPrices) for tier in one.tiers})
    return [rates(price, 0), *([start, rates(price, start)] for start in starts)]


def has_begun(constraint: Any) -> bool:
    """Whether a price that begins on a day holds today."""
    return not isinstance(constraint, types.StartDateConstraint) or constraint.start_date <= TODAY


def present(prices: Any) -> Any:
    """The price of today: the last that has begun, or of those by the hour the dearest."""
    if not isinstance(prices, list):
        return prices
    hourly = [one.prices for one in prices if isinstance(one.constraint, types.TimeOfDateConstraint)]
    daily = [one for one in prices if one.constraint is None or (isinstance(one.constraint, types.StartDateConstraint) and has_begun(one.constraint))]
    daily.sort(key=lambda one: one.constraint.start_date if one.constraint else datetime.date.min)
    candidates = [*hourly, *([daily[-1].prices] if daily else [])]
    return max(candidates, key=lambda price: (value(getattr(price, "input_mtok", None), 0) or 0.0) + (value(getattr(price, "output_mtok", None), 0) or 0.0))


def services(model: Any, standard: Any) -> dict[str, Any]:
    """Schedules of the service tiers that differ."""
    found = {}
    for variant in model.price_variants or ():
        tier = "batch" if variant.when == {"processing": "batch"} else variant.when.get("service_tier") if set(variant.when) == {"service_tier"} else None
        if tier in ("flex", "priority", "batch") and has_begun(variant.constraint):
            made = schedule(variant.prices, standard)
            if made:
                found[tier] = made
    return found


def main(path: Path) -> None:
    """Writes the table."""
    vendors: dict[str, list[Any]] = {}
    for provider in providers:
        for model in provider.models if provider.id in VENDORS else ():
            standard = present(model.prices)
            made = schedule(standard)
            if made:
                vendors.setdefault(VENDORS[provider.id], []).append([clause(model.match), made, services(model, standard)])
    lines = [f'"date": "{TODAY}"', f'"source": "genai-prices {version("genai-prices")}"']
    tables = [f'"{vendor}": [\n' + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]" for vendor, rows in vendors.items()]
    path.write_text("{\n" + ",\n".join(lines) + ',\n"vendors": {\n' + ",\n".join(tables) + "\n}\n}\n")


main(Path(sys.argv[1]))
