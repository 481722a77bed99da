"""`coollm route`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from coollm_cli import options
from coollm_cli.ops import request_log
from coollm_cli.ops.gateway_client import find_gateway
from coollm_cli.ops.story import story
from coollm_cli.output import Result, Table

from coollm.core.errors import UsageError

app = typer.Typer(help="Explain which key serves a request, and why.", add_completion=False)


@app.callback()
def route() -> None:
    """Explain which key serves a request, and why."""


@app.command("explain")
def explain(
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="The model as a client writes it.")] = None,
    request: Annotated[Path | None, typer.Option("--request", metavar="FILE", help="A whole chat request, as JSON.")] = None,
    id_: Annotated[str | None, typer.Option("--id", metavar="REQUEST_ID", help="A request of the past, by its x-request-id.")] = None,
    client: Annotated[str | None, typer.Option("--client", metavar="ID", help="With the permissions of this client.")] = None,
    config: options.Config = None,
    json: options.Json = False,
) -> Result:
    """Show every candidate in order, its score by component, and why it is excluded; or what became of a request of the past.

    Example: coollm route explain --model gpt-4o
    """
    if id_ is not None:
        return story(id_, config, as_json=json)
    if model is None and request is None:
        raise UsageError("nothing to explain", "give --model NAME, --request FILE or --id REQUEST_ID")
    body: dict[str, Any] = request_log.read_request(request) if request else {}
    body.update({name: value for name, value in (("model", model), ("client", client)) if value is not None})
    found = find_gateway(config).ask("/admin/v1/route/explain", body)
    rows = [
        (
            row["place"],
            row["provider"],
            row["key"],
            row["model"],
            f"{row['score']:.3f}",
            _components(row["components"]),
            row["excluded"] or "usable",
        )
        for row in found["candidates"]
    ]
    chosen = found["chosen"]
    last = f"now: {chosen['provider']} key {chosen['key']}" if chosen else "now: none, every candidate is excluded"
    table = Table(("place", "provider", "key", "model", "score", "components", "state"), rows)
    return Result(found, [f"{found['model']}, algorithm {found['algorithm']}", table, last], as_json=json)


def _components(components: dict[str, float]) -> str:
    return " ".join(f"{name}={value:.2f}" for name, value in components.items())
