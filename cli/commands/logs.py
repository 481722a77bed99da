"""`coollm logs`."""

from __future__ import annotations

from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops.logs import follow, last_lines
from coollm_cli.output import Result

from coollm.core.paths import find_config

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")]
Lines = Annotated[int, typer.Option("--lines", "-n", min=0, metavar="N", help="How many lines to begin with.")]
Request = Annotated[str | None, typer.Option("--id", metavar="REQUEST_ID", help="Only lines of this request.")]
Level = Annotated[str | None, typer.Option("--level", metavar="LEVEL", help="Only lines of this level: debug, info, warning or error.")]


def logs(
    follow_on: Follow = False,
    lines: Lines = 20,
    request_id: Request = None,
    level: Level = None,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    json: options.Json = False,
) -> Result:
    """Show the gateway's log, a line for each request and each event. With --json the lines as they are.

    Example: coollm logs -f --level error
    """
    path = find_config(config).absolute()
    if follow_on:
        return follow(path, state_dir, lines, request_id, level, as_json=json)
    return last_lines(path, state_dir, lines, request_id, level, as_json=json)
