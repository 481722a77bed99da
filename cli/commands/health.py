"""`coollm health`."""

from __future__ import annotations

from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops.fitness import add_instances
from coollm_cli.ops.gateway_client import GatewayClient, find_gateway, listening_url, running_instances
from coollm_cli.output import Result

from coollm.core.errors import Unreachable
from coollm.core.paths import find_config

Url = Annotated[str | None, typer.Option("--url", metavar="URL", help="Ask the gateway at this address instead of the one that runs here.")]


def health(config: options.Config = None, url: Url = None, json: options.Json = False, quiet: options.Quiet = False) -> Result:
    """Say in one word how the gateway is, and why. Exit 0 if it is ok, 4 if it is degraded or down, 5 when nothing answers.

    Example: coollm health || mail -s 'gateway' oncall@example.com
    """
    if url or running_instances(config):
        client = find_gateway(config, url)
    else:
        client = GatewayClient(url=listening_url(config) or "http://127.0.0.1:2906")
    body = client.get("/health").body
    if not isinstance(body, dict) or "status" not in body:
        raise Unreachable(f"{client.where}: what answers there is not a coollm gateway")
    if not url:
        add_instances(body, find_config(config))
    is_ok = body["status"] == "ok"
    lines = [body["status"]] + [f"  {check['name']}: {check['status']}, {check['detail']}" for check in body.get("checks", [])]
    return Result(body, [] if quiet and is_ok else lines, as_json=json, exit_code=0 if is_ok else 4)
