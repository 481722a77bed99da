"""`coollm models`."""

from __future__ import annotations

from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.commands.health import Url
from coollm_cli.ops.gateway_client import find_gateway
from coollm_cli.output import Result, Table

Prices = Annotated[bool, typer.Option("--prices", help="What they cost, and where that is known from.")]


def models(prices: Prices = False, config: options.Config = None, url: Url = None, json: options.Json = False) -> Result:
    """List the models that the running gateway serves.

    Example: coollm models --prices
    """
    if prices:
        told = find_gateway(config, url).ask("/admin/v1/prices")
        columns = ("model", "input", "cached", "output", "source")
        cells = [(row["model"], row["input"], row["cached_input"], row["output"], row["source"] or "unknown: cost is not counted") for row in told["prices"]]
        return Result(told, [Table(columns, cells, "no provider lists its models"), "US dollars per million tokens"], as_json=json)
    found = find_gateway(config, url).ask("/v1/models")
    rows = [(model["id"], model["owned_by"]) for model in found["data"]]
    return Result(found, [Table(("model", "owned by"), rows, "no provider lists its models; any name of its families is served")], as_json=json)
