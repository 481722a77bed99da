"""`coollm providers`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from coollm_cli import options
from coollm_cli.commands.health import Url
from coollm_cli.ops.gateway_client import find_gateway
from coollm_cli.output import Result, Table

app = typer.Typer(help="List the providers and their keys; test every key with a live request.", add_completion=False)


@app.callback(invoke_without_command=True)
def providers(ctx: typer.Context, config: options.Config = None, url: Url = None, json: options.Json = False) -> Result | None:
    """List the providers and their keys; test every key with a live request.

    Example: coollm providers
    """
    if ctx.invoked_subcommand is not None:
        return None
    found = find_gateway(config, url).ask("/admin/v1/providers")
    rows = [
        (
            provider["id"],
            provider["type"],
            key["id"],
            key["state"] + (f": {key['cause']}" if key["cause"] else ""),
            key["in_flight"],
            key["latency_ms"],
        )
        for provider in found["providers"]
        for key in provider["keys"]
    ]
    return Result(found, [Table(("provider", "type", "key", "state", "in flight", "latency ms"), rows, "no provider is configured")], as_json=json)


@app.command("test")
def probe(
    provider: Annotated[str | None, typer.Argument(help="Only this provider.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Ask for this model of the vendor.")] = None,
    config: options.Config = None,
    url: Url = None,
    json: options.Json = False,
) -> Result:
    """Send one live request with every vendor key, past routing and limits. Exit 4 if a key does not work.

    Example: coollm providers test openai --model gpt-4o-mini
    """
    asked: dict[str, Any] = {name: value for name, value in (("provider", provider), ("model", model)) if value is not None}
    found = find_gateway(config, url).ask("/admin/v1/providers/test", asked)
    rows = [(row["provider"], row["key"], row["model"], "ok" if row["ok"] else "FAILED", row["latency_ms"], row["detail"]) for row in found["results"]]
    table = Table(("provider", "key", "model", "result", "ms", "detail"), rows)
    return Result(found, [table], as_json=json, exit_code=0 if found["ok"] else 4)
