"""`coollm clients`: the applications that may use the gateway."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from coollm_cli import options
from coollm_cli.ops.host import host_of
from coollm_cli.ops.limits import read, set_plan
from coollm_cli.ops.operation import Options, change
from coollm_cli.output import Result

from coollm.core.errors import UsageError
from coollm.core.paths import find_config

app = typer.Typer(help="Set the limits of clients.", no_args_is_help=True, add_completion=False)

Requests = Annotated[str | None, typer.Option("--req-per-min", metavar="N", help="Requests in any 60 seconds; none lifts the limit.")]
Tokens = Annotated[str | None, typer.Option("--tokens-per-min", metavar="N", help="Tokens in any 60 seconds; none lifts the limit.")]
Concurrent = Annotated[str | None, typer.Option("--concurrent", metavar="N", help="Requests at the same time; none lifts the limit.")]
AsConfigured = Annotated[bool, typer.Option("--as-configured", help="Back to what the configuration says, for all three.")]
FIELDS = ("req_per_min", "tokens_per_min", "concurrent")


@app.callback()
def clients() -> None:
    """Set the limits of clients."""


@app.command()
def limit(
    client: Annotated[str, typer.Argument(metavar="ID", help="The client, by its id.")],
    req_per_min: Requests = None,
    tokens_per_min: Tokens = None,
    concurrent: Concurrent = None,
    as_configured: AsConfigured = False,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Set limits of a client in every worker within a second, without a restart. They hold until they are set again, over restarts too.

    Example: coollm clients limit web --req-per-min 200 --yes
    """
    given = {"req_per_min": req_per_min, "tokens_per_min": tokens_per_min, "concurrent": concurrent}
    wanted = {name: read(text, name.replace("_", "-"), int) for name, text in given.items() if text is not None}
    if bool(wanted) == as_configured:
        raise UsageError("say which limits to set, or --as-configured", "coollm clients limit --help")
    asked: dict[str, Any] = {"configured": list(FIELDS)} if as_configured else {"set": wanted}
    return change(host_of(find_config(config).absolute()), lambda: set_plan(config, "client", client, asked), Options(dry_run, yes, json))
