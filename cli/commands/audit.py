"""`coollm audit`: who changed what on this host."""

from __future__ import annotations

from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops.audit import matching, read_log, rows, verify_host
from coollm_cli.ops.host import host_of
from coollm_cli.output import Result, Table

from coollm.core.paths import find_config

app = typer.Typer(help="Show, search and verify the audit log.", no_args_is_help=True, add_completion=False)

COLUMNS = ("time", "actor", "action", "state", "command")

Lines = Annotated[int, typer.Option("--lines", "-n", min=1, metavar="N", help="How many lines.")]
Actor = Annotated[str | None, typer.Option("--actor", metavar="NAME", help="Only what this person did.")]
Action = Annotated[str | None, typer.Option("--action", metavar="NAME", help="Only this kind of change, such as config-apply.")]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Only from then on: 2027-01-31, or 2027-01-31T10:00.")]
Text = Annotated[str | None, typer.Argument(metavar="TEXT", help="Only lines that hold this text.")]


@app.callback()
def audit() -> None:
    """Show, search and verify the audit log."""


@app.command("tail")
def tail(lines: Lines = 20, config: options.Config = None, state_dir: options.StateDirectory = None, json: options.Json = False) -> Result:
    """Show the last changes of this host.

    Example: sudo coollm audit tail -n 5
    """
    found = read_log(host_of(find_config(config).absolute(), state_dir))[-lines:]
    return Result({"entries": found}, [Table(COLUMNS, rows(found), "nothing was changed yet")], as_json=json)


@app.command("search")
def search(
    text: Text = None,
    actor: Actor = None,
    action: Action = None,
    since: Since = None,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    json: options.Json = False,
) -> Result:
    """Find changes by who made them, by their kind, by time, or by a text in them.

    Example: sudo coollm audit search --action upgrade --since 2027-01-01
    """
    found = matching(read_log(host_of(find_config(config).absolute(), state_dir)), text, actor, action, since)
    return Result({"entries": found}, [Table(COLUMNS, rows(found), "no change is like that")], as_json=json)


@app.command("verify")
def verify(config: options.Config = None, state_dir: options.StateDirectory = None, json: options.Json = False, quiet: options.Quiet = False) -> Result:
    """Prove that no line of the audit log was changed, removed, inserted or put elsewhere, and that its end is there. Exit 4 if not.

    Example: sudo coollm audit verify --quiet
    """
    host = host_of(find_config(config).absolute(), state_dir)
    lines, faults = verify_host(host)
    told = faults or [f"{lines} lines, each as it was written"]
    return Result({"ok": not faults, "lines": lines, "faults": faults}, [] if quiet and not faults else told, as_json=json, exit_code=4 if faults else 0)
