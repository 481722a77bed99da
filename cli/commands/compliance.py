"""`coollm compliance`."""

from __future__ import annotations

from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops import compliance as ops
from coollm_cli.ops.host import change_host
from coollm_cli.ops.operation import Options
from coollm_cli.output import Result

from coollm.core.paths import find_config, state_directory

app = typer.Typer(help="Report evidence; export and erase what is kept of a client.", no_args_is_help=True, add_completion=False)

Client = Annotated[str, typer.Argument(metavar="CLIENT", help="The client, by its id.")]
Days = Annotated[int, typer.Option("--days", min=1, metavar="N", help="Of the last so many days.")]


@app.callback()
def compliance() -> None:
    """Report evidence; export and erase what is kept of a client."""


@app.command()
def report(days: Days = 90, config: options.Config = None, state_dir: options.StateDirectory = None, json: options.Json = False) -> Result:
    """Report who has access, what was changed, how old keys are and what is kept for how long, as Markdown or JSON. Exit 4 if an auditor would ask.

    Example: sudo coollm compliance report --days 90 > evidence.md
    """
    path = find_config(config).absolute()
    found = ops.report(path, state_directory(path, state_dir), days)
    return Result(found, ops.markdown(found), as_json=json, exit_code=4 if found["findings"] else 0)


@app.command()
def export(client: Client, config: options.Config = None) -> Result:
    """Print all that is kept of a client, one JSON line each. Neither prompts nor answers are kept.

    Example: sudo coollm compliance export web > web.jsonl
    """
    lines = ops.export(config, client)
    return Result(lines, lines)


@app.command()
def erase(client: Client, config: options.Config = None, yes: options.Yes = False, dry_run: options.DryRun = False, json: options.Json = False) -> Result:
    """Replace the name of a client that was removed, in ledger and logs; every sum stays as it is.

    Example: sudo coollm compliance erase web --yes
    """
    return change_host(config, None, lambda path, _: ops.erase_plan(path, client), Options(dry_run, yes, json))
