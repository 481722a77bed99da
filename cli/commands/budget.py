"""`coollm budget`: what is spent of each budget, and what may be."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer
from coollm_cli import options
from coollm_cli.ops.gateway_client import find_gateway
from coollm_cli.ops.host import change_host
from coollm_cli.ops.limits import read, set_plan
from coollm_cli.ops.operation import Options
from coollm_cli.output import Result, Table

from coollm.core.errors import UsageError

app = typer.Typer(help="List, set and verify budgets.", no_args_is_help=True, add_completion=False)

COLUMNS = ("budget of", "id", "period", "until", "limit_usd", "used_usd", "reserved_usd", "left_usd", "ledger_usd")
FIELDS = ("budget_usd", "budget_period", "budget_timezone")

Of = Annotated[Literal["client", "team", "model"], typer.Argument(metavar="client|team|model", help="Whose budget.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The client or team by its id, or models as provider:model or a pattern.")]


@app.command("list")
def list_budgets(config: options.Config = None, json: options.Json = False) -> Result:
    """List the budgets of clients, teams, models and second requests: what is used of each, what of that is reserved by what runs, and what the ledger has.

    Example: coollm budget list
    """
    found = find_gateway(config).ask("/admin/v1/budgets")
    rows = [_cells(row) for row in found["budgets"]]
    return Result(found, [Table(COLUMNS, rows, "nobody and nothing has a budget")], as_json=json)


@app.command("set")
def set_budget(
    of: Of,
    identity: Id,
    usd: Annotated[str | None, typer.Option("--usd", metavar="AMOUNT", help="US dollars in each period; none lifts the budget.")] = None,
    period: Annotated[Literal["day", "week", "month", "total"] | None, typer.Option("--period", help="When it begins anew.")] = None,
    timezone: Annotated[str | None, typer.Option("--timezone", metavar="ZONE", help="Whose midnight a period begins at.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Begin anew now: what was spent until now counts no more.")] = False,
    as_configured: Annotated[bool, typer.Option("--as-configured", help="Back to what the configuration says.")] = False,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Set a budget in every worker within a second, without a restart. It holds until it is set again, over restarts too.

    Example: coollm budget set client web --usd 50 --period month --yes
    """
    given = {"budget_usd": read(usd, "usd", float), "budget_period": period, "budget_timezone": timezone}
    wanted = {name: value for name, value in given.items() if value is not None or (name == "budget_usd" and usd is not None)}
    if (as_configured and wanted) or not (as_configured or wanted or reset):
        raise UsageError("say what to set (--usd, --period, --timezone), --reset, or --as-configured alone", "coollm budget set --help")
    asked: dict[str, Any] = {"set": wanted, "configured": list(FIELDS) if as_configured else [], "reset_budget": reset}
    return change_host(config, None, lambda *_: set_plan(config, of, identity, asked), Options(dry_run, yes, json))


@app.command()
def verify(config: options.Config = None, json: options.Json = False, quiet: options.Quiet = False) -> Result:
    """Prove that the counters of all budgets are what the ledger has, with what runs, to a billionth of a dollar. Exit 4 if not.

    Example: coollm budget verify --quiet
    """
    found = find_gateway(config).ask("/admin/v1/budgets/verify")
    text = [f"{len(found['budgets'])} budgets: the counters are what the ledger has"]
    wrong = [row for row in found["budgets"] if row["exact"] and row["difference_nano_usd"] != 0]
    if wrong:
        text = [
            f"{row['scope']} '{row['id']}': the counter has {row['used_usd']:.9f}, of which {row['reserved_usd']:.9f} are reserved, "
            f"the ledger {row['ledger_usd']:.9f} US dollars"
            for row in wrong
        ]
    return Result(found, [] if quiet and not wrong else text, as_json=json, exit_code=4 if wrong else 0)


def _cells(row: dict[str, Any]) -> list[Any]:
    until = "-" if row["ends"] is None else datetime.fromtimestamp(row["ends"], UTC).isoformat(timespec="minutes")
    money = [f"{row[name]:.6f}" for name in COLUMNS[4:]]
    return [row["scope"], row["id"], row["period"], until, *money]
