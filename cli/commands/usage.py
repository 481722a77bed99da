"""`coollm usage`: what requests used and cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from coollm_cli import options, output
from coollm_cli.ops.gateway_client import find_gateway
from coollm_cli.ops.usage_figures import query, read_figures, trends_of
from coollm_cli.ops.usage_page import page
from coollm_cli.output import Result, Table
from coollm_cli.sparkline import sparkline

from coollm.core.errors import OperationFailed
from coollm.core.files import replace_file

app = typer.Typer(help="Report, export and verify what requests used and cost.", no_args_is_help=True, add_completion=False)

By = Annotated[Literal["client", "provider", "model", "day"], typer.Option("--by", help="What the rows are.")]
Start = Annotated[str | None, typer.Option("--start", metavar="TIME", help="From this date or time on, UTC unless it says; whole hours.")]
End = Annotated[str | None, typer.Option("--end", metavar="TIME", help="Until before this date or time.")]

COLUMNS = ("requests", "errors", "input_tokens", "cached_input_tokens", "output_tokens", "cost_usd", "cached", "saved_usd", "estimated", "unpriced")
MONEY = ("cost_usd", "saved_usd")


@app.command()
def report(
    by: By = "client",
    start: Start = None,
    end: End = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="A page with charts and tables, which needs nothing else.")] = None,
    config: options.Config = None,
    json: options.Json = False,
) -> Result:
    """Add up requests, tokens and cost. What ended within the last second may be missing.

    `cached` counts the requests that the cache answered, and `saved_usd` what that saved. `estimated` counts the requests whose vendor told no usage,
    `unpriced` those whose model has no price: their cost is not in the sum. The last column has the requests of each of the last days.

    Example: coollm usage report --by model --start 2026-11-01
    """
    gateway = find_gateway(config)
    found = gateway.ask("/admin/v1/stats?" + query(group_by=by, start=start, end=end))
    if html is not None:
        _write(html, page(read_figures(gateway, start, end)))
        return Result({**found, "html": str(html)}, [f"{html} is written"], as_json=json)
    trends = trends_of(gateway, by, start, end)
    for row in found["rows"]:
        row["trend"] = trends.get(row[by], [])
    rows = [(row[by], *_cells(row), sparkline(row["trend"])) for row in found["rows"]]
    if rows:
        rows.append(("total", *_cells(found["total"]), sparkline(trends.get("", []))))
    return Result(found, [Table((by, *COLUMNS, "requests by the day"), rows, "nothing was used in this time")], as_json=json)


@app.command()
def export(start: Start = None, end: End = None, config: options.Config = None) -> None:
    """Write every request of a time to standard output, one JSON line each.

    Example: coollm usage export --start 2026-11-01 --end 2026-12-01 > november.jsonl
    """
    for line in find_gateway(config).lines("/admin/v1/usage/export?" + query(start=start, end=end)):
        output.write(line.decode())


@app.command()
def verify(config: options.Config = None, json: options.Json = False, quiet: options.Quiet = False) -> Result:
    """Prove that every line of the usage log is in the ledger, and that its sums are those of the requests. Exit 4 if not.

    Example: coollm usage verify --quiet || mail -s ledger oncall@example.com
    """
    found = find_gateway(config).ask("/admin/v1/usage/verify")
    text = [f"{found['lines']} lines of the usage log, {found['requests']['requests']} requests in the ledger: the same"] if found["ok"] else found["faults"]
    return Result(found, [] if quiet and found["ok"] else text, as_json=json, exit_code=0 if found["ok"] else 4)


@app.command()
def rebuild(
    _from_logs: Annotated[
        bool, typer.Option("--from-logs", help="From the usage logs, also those that are rotated and compressed: it has no other source.")
    ] = False,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Make the ledger anew from the usage logs that are there.

    Example: coollm usage rebuild --from-logs --yes
    """
    client = find_gateway(config)
    if dry_run:
        found = client.ask("/admin/v1/usage/verify")
        return Result({"would_have": found["lines"]}, [f"the ledger would be emptied and made of {found['lines']} lines of the usage logs"], as_json=json)
    _confirm(yes, "empty the ledger, and make it anew from the usage logs?")
    done = client.ask("/admin/v1/usage/rebuild", {})
    return Result(done, [f"the ledger has {done['requests']} requests, from the usage logs"], as_json=json)


@app.command()
def prune(
    before: Annotated[str, typer.Option("--before", metavar="TIME", help="Requests that ended on the days before this date, UTC.")],
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Delete single requests from the ledger; their sums by the hour stay.

    Example: coollm usage prune --before 2026-01-01 --yes
    """
    client = find_gateway(config)
    if dry_run:
        count = sum(1 for _ in client.lines("/admin/v1/usage/export?" + query(end=before)))
        return Result({"would_delete": count}, [f"{count} requests would be deleted"], as_json=json)
    _confirm(yes, f"delete the requests that ended before {before}?")
    done = client.ask("/admin/v1/usage/prune", {"before": before})
    return Result(done, [f"{done['deleted']} requests are deleted; their sums stay"], as_json=json)


def _write(path: Path, text: str) -> None:
    try:
        replace_file(path, text.encode(), mode=0o644)
    except OSError as error:
        raise OperationFailed(f"--html {path}: cannot be written: {error.strerror}", "name another file") from error


def _cells(row: dict[str, Any]) -> list[Any]:
    return [f"{row[name]:.6f}" if name in MONEY else row[name] for name in COLUMNS]


def _confirm(yes: bool, question: str) -> None:
    if not yes and not output.ask(question):
        raise OperationFailed("nothing was changed", "say --yes where nobody can be asked")
