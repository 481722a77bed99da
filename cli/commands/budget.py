"""`coollm budget`: what is spent of each budget."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import typer
from coollm_cli import options
from coollm_cli.ops.gateway_client import GatewayClient, find_gateway
from coollm_cli.output import Result, Table

app = typer.Typer(help="List budgets, and verify what was spent.", no_args_is_help=True, add_completion=False)

COLUMNS = ("budget of", "id", "period", "until", "limit_usd", "used_usd", "left_usd", "ledger_usd")

# The ledger follows its log within a second or two, and what runs has its most reserved.
PATIENCE_SECONDS = 6.0


@app.command("list")
def list_budgets(config: options.Config = None, json: options.Json = False) -> Result:
    """List the budgets of clients, teams and models: what is used of each, reservations included, and what the ledger has.

    Example: coollm budget list
    """
    found = find_gateway(config).ask("/admin/v1/budgets")
    rows = [_cells(row) for row in found["budgets"]]
    return Result(found, [Table(COLUMNS, rows, "no client, team or model has a budget")], as_json=json)


@app.command()
def verify(config: options.Config = None, json: options.Json = False, quiet: options.Quiet = False) -> Result:
    """Prove that the counters of all budgets are what the ledger has, to a billionth of a dollar. Exit 4 if not.

    Requests that run have what they may cost at most reserved: on a gateway that is never idle the counters are above the ledger by that.

    Example: coollm budget verify --quiet
    """
    client = find_gateway(config)
    found = _settled(client)
    wrong = [row for row in found["budgets"] if row["difference_nano_usd"] != 0]
    text = [f"{len(found['budgets'])} budgets: the counters are what the ledger has"]
    if wrong:
        text = [f"{row['scope']} '{row['id']}': the counter has {row['used_usd']:.9f}, the ledger {row['ledger_usd']:.9f} US dollars" for row in wrong]
    return Result({**found, "ok": not wrong}, [] if quiet and not wrong else text, as_json=json, exit_code=4 if wrong else 0)


def _settled(client: GatewayClient) -> Any:
    """The budgets once counters and ledger agree, or as they are after some seconds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = client.ask("/admin/v1/budgets")
        if all(row["difference_nano_usd"] == 0 for row in found["budgets"]) or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def _cells(row: dict[str, Any]) -> list[Any]:
    until = "-" if row["ends"] is None else datetime.fromtimestamp(row["ends"], UTC).isoformat(timespec="minutes")
    money = [f"{row[name]:.6f}" for name in COLUMNS[4:]]
    return [row["scope"], row["id"], row["period"], until, *money]
