"""`coollm models`."""

from __future__ import annotations

from coollm_cli import options
from coollm_cli.commands.health import Url
from coollm_cli.ops.gateway_client import find_gateway
from coollm_cli.output import Result, Table


def models(config: options.Config = None, url: Url = None, json: options.Json = False) -> Result:
    """List the models that the running gateway serves.

    Example: coollm models
    """
    found = find_gateway(config, url).ask("/v1/models")
    rows = [(model["id"], model["owned_by"]) for model in found["data"]]
    return Result(found, [Table(("model", "owned by"), rows, "no provider lists its models; any name of its families is served")], as_json=json)
