"""`coollm clients`: the applications that may use the gateway."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from coollm_cli import options
from coollm_cli.ops import identities
from coollm_cli.ops.host import change_host
from coollm_cli.ops.limits import read, set_plan
from coollm_cli.ops.operation import Options
from coollm_cli.ops.times import moment
from coollm_cli.output import Result, Table

from coollm.core.config.values import parse_instant
from coollm.core.errors import UsageError

app = typer.Typer(help="Make, change, rotate and revoke the keys of clients, and set their limits.", no_args_is_help=True, add_completion=False)

Id = Annotated[str, typer.Argument(metavar="ID", help="The client, by its id.")]
Providers = Annotated[list[str] | None, typer.Option("--provider", metavar="ID", help="A provider that it may use; give it again for more. All if none.")]
Models = Annotated[list[str] | None, typer.Option("--model", metavar="PATTERN", help="A model that it may use, * allowed; give it again for more.")]
Addresses = Annotated[list[str] | None, typer.Option("--from", metavar="NETWORK", help="Where it may ask from; give it again for more.")]
Description = Annotated[str | None, typer.Option("--description", metavar="TEXT", help="For people.")]
Expires = Annotated[str | None, typer.Option("--expires", metavar="TIME", help="When its keys end: 2027-01-31, or 2027-01-31T10:00:00Z; never with none.")]
Team = Annotated[str | None, typer.Option("--team", metavar="ID", help="The team whose limits hold too; none takes it out.")]
Overlap = Annotated[str, typer.Option("--overlap", metavar="TIME", help="How long the old keys go on; 0 ends them at once.")]
COLUMNS = ("client", "source", "status", "team", "keys", "last used", "description")

Requests = Annotated[str | None, typer.Option("--req-per-min", metavar="N", help="Requests in any 60 seconds; none lifts the limit.")]
Tokens = Annotated[str | None, typer.Option("--tokens-per-min", metavar="N", help="Tokens in any 60 seconds; none lifts the limit.")]
Concurrent = Annotated[str | None, typer.Option("--concurrent", metavar="N", help="Requests at the same time; none lifts the limit.")]
Budget = Annotated[str | None, typer.Option("--budget-usd", metavar="AMOUNT", help="US dollars in each month.")]
AsConfigured = Annotated[bool, typer.Option("--as-configured", help="Back to what the configuration says, for all three.")]
FIELDS = ("req_per_min", "tokens_per_min", "concurrent")


@app.callback()
def clients() -> None:
    """Make, change, rotate and revoke the keys of clients, and set their limits."""


@app.command()
def create(
    client: Id,
    provider: Providers = None,
    model: Models = None,
    network: Addresses = None,
    description: Description = None,
    expires: Expires = None,
    team: Team = None,
    req_per_min: Requests = None,
    tokens_per_min: Tokens = None,
    concurrent: Concurrent = None,
    budget_usd: Budget = None,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Make a client. Its key is shown this once, and kept as a keyed hash.

    Example: sudo coollm clients create web --model 'gpt-4o*' --req-per-min 100 --budget-usd 50
    """
    limits = {"req_per_min": req_per_min, "tokens_per_min": tokens_per_min, "concurrent": concurrent, "budget_usd": budget_usd}
    fields = _fields(provider, model, network, description, expires, team)
    given = {name: read(text, name, float if name == "budget_usd" else int) for name, text in limits.items() if text is not None}
    if given:
        fields["limits"] = given
    return change_host(config, None, lambda path, _: identities.create_plan(path, "client", client, fields), Options(dry_run, yes, json))


@app.command("list")
def list_clients(config: options.Config = None, json: options.Json = False) -> Result:
    """List the clients, those of the configuration and those that were made.

    Example: coollm clients list
    """
    found = identities.rows_of(config, "client")
    return Result({"clients": found}, [Table(COLUMNS, [_cells(row) for row in found], "there is no client")], as_json=json)


@app.command()
def show(client: Id, config: options.Config = None, json: options.Json = False) -> Result:
    """Show a client, with its keys and who of them is still used.

    Example: coollm clients show web
    """
    found = identities.find(config, "client", client)
    said = [(name, value) for name, value in found.items() if name not in ("keys", "limits") and value not in (None, [], False)]
    said = [
        ("created", moment(value / 1000)) if name == "created_ms" else (name, ", ".join(value) if isinstance(value, list) else value) for name, value in said
    ]
    said += [(f"limits.{name}", value) for name, value in found["limits"].items() if value is not None]
    return Result(found, [Table(("field", "value"), said), *identities.key_lines(found)], as_json=json)


@app.command()
def update(
    client: Id,
    provider: Providers = None,
    model: Models = None,
    network: Addresses = None,
    description: Description = None,
    expires: Expires = None,
    team: Team = None,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Change what is said of a client; `coollm clients limit` sets its limits.

    Example: sudo coollm clients update web --model 'gpt-4o*' --model 'claude-*'
    """
    fields = _fields(provider, model, network, description, expires, team)
    if not fields:
        raise UsageError("nothing to change was given", "coollm clients update --help lists what can be")
    return change_host(config, None, lambda path, _: identities.change_plan(path, "client", client, fields), Options(dry_run, yes, json))


@app.command()
def rotate(
    client: Id,
    overlap: Overlap = "24h",
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Give a client another key; the old ones go on for a while.

    Example: sudo coollm clients rotate web --overlap 24h
    """
    return change_host(config, None, lambda path, _: identities.rotate_plan(path, "client", client, overlap), Options(dry_run, yes, json))


@app.command()
def revoke(
    client: Id,
    undo: Annotated[bool, typer.Option("--undo", help="Let it in again.")] = False,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Shut a client out of every worker, within a second. What it has running goes on.

    Example: sudo coollm clients revoke web
    """
    return change_host(config, None, lambda path, _: identities.change_plan(path, "client", client, {"revoked": not undo}), Options(dry_run, yes, json))


@app.command()
def delete(client: Id, config: options.Config = None, yes: options.Yes = False, dry_run: options.DryRun = False, json: options.Json = False) -> Result:
    """Remove a client with its keys; what it used and cost stays in the ledger.

    Example: sudo coollm clients delete web --yes
    """
    return change_host(config, None, lambda path, _: identities.delete_plan(path, "client", client), Options(dry_run, yes, json))


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
    return change_host(config, None, lambda *_: set_plan(config, "client", client, asked), Options(dry_run, yes, json))


def _fields(
    providers: list[str] | None, models: list[str] | None, networks: list[str] | None, description: str | None, expires: str | None, team: str | None
) -> dict[str, Any]:
    """What was given, as the gateway wants it. Raises UsageError."""
    given: dict[str, Any] = {
        "allowed_providers": providers or None,
        "allowed_models": models or None,
        "allowed_addresses": networks or None,
        "description": description,
        "team": team,
    }
    fields = {name: value for name, value in given.items() if value is not None}
    if team == "none":
        fields["team"] = None
    if expires is not None:
        try:
            fields["expires_at"] = None if expires == "none" else parse_instant(expires).isoformat()
        except ValueError as error:
            raise UsageError(f"--expires {expires}: {error}") from error
    return fields


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    live = [key for key in row["keys"] if not key["expired"]]
    last = max((key["last_used_ms"] or 0 for key in row["keys"]), default=0)
    status = "shadowed" if row.get("shadowed") else "revoked" if row["revoked"] else "active"
    used = moment(last / 1000)
    keys = ", ".join(key["prefix"] for key in live)
    return (row["id"], row["source"], status, row["team"], keys, used, row["description"])
