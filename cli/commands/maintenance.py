"""`coollm maintenance`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from coollm_cli import options
from coollm_cli.ops.maintenance import look
from coollm_cli.output import Result, Table

from coollm.core.paths import find_config, state_directory


def maintenance(
    period: Annotated[Literal["daily", "weekly", "monthly"], typer.Argument(metavar="daily|weekly|monthly", help="Which of the regular tasks.")],
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Do the regular checks and say what there is to look at. Exit 4 if there is something.

    Each day health, errors, budgets and what the doctor finds bad; each week all that the doctor finds, audit log, ledger and backups; each month also what an
    auditor would ask.

    Example: sudo coollm maintenance daily --quiet
    """
    path = find_config(config).absolute()
    remarks, usage = look(path, state_directory(path, state_dir), period)
    told = {"ok": not remarks, "remarks": [one.as_json() for one in remarks], "usage": usage}
    used = [f"{usage['requests']} requests, {usage['errors']} errors, ${usage['cost_usd']:.2f}"] if usage else []
    table = Table(("task", "what", "what to do"), remarks, "nothing to look at")
    lines: list[str | Table] = [*([] if quiet else used), *([table] if remarks or not quiet else [])]
    return Result(told, lines, as_json=json, exit_code=4 if remarks else 0)
