"""`coollm capacity`."""

from __future__ import annotations

from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops.capacity import report
from coollm_cli.ops.capacity.guide import SIZES
from coollm_cli.output import Result, Table

from coollm.core.paths import find_config, state_directory


def capacity(
    what_if: Annotated[str | None, typer.Option("--what-if", metavar="rps=N,streams=N", help="What another load would need.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1, max=600, metavar="N", help="How long the workers are looked at.")] = 5.0,
    table: Annotated[bool, typer.Option("--table", help="The guide's sizing table, and nothing else.")] = False,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    json: options.Json = False,
) -> Result:
    """Say how much load this host can take. Also: which limits come nearer, how the load grows, and what another load would need.

    What a request costs is measured while the gateway works; of one that idles the figures of another machine are used, and it says so.

    Example: coollm capacity --what-if rps=500,streams=300
    """
    if table:
        rows = [size.as_json() for size in SIZES]
        return Result({"guide": rows}, [Table(("requests/s", "cores", "memory", "storage"), [tuple(row.values()) for row in rows])], as_json=json)
    path = find_config(config).absolute()
    told = report.examine(path, state_directory(path, state_dir), seconds, report.parse_what_if(what_if))
    limits = Table(("who", "what", "busiest hour", "limit", "used", "days left"), report.limit_rows(told))
    return Result(told, [*report.lines(told), *([limits] if told["limits"] else [])], as_json=json)
