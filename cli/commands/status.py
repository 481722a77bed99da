"""`coollm status`, `coollm top`: the instances of this host."""

from __future__ import annotations

from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops.status import COLUMNS, host_status, rows, watch
from coollm_cli.output import Result, Table

from coollm.core.errors import UsageError
from coollm.core.paths import find_config

Every = Annotated[float, typer.Option("--every", metavar="SECONDS", help="How often it is shown anew.")]
Times = Annotated[int | None, typer.Option("--times", metavar="N", min=1, help="End after so many times.")]


def status(config: options.Config = None, state_dir: options.StateDirectory = None, json: options.Json = False) -> Result:
    """Show the instances that run on this host. Exit 4 if one is not well, 5 if none runs.

    Example: coollm status --json | jq '.instances[].status'
    """
    found = host_status(find_config(config), state_dir)
    instances = found["instances"]
    running = [one for one in instances if one["status"] != "down"]
    exit_code = 5 if not running else 0 if all(one["status"] == "ok" for one in instances) else 4
    table = Table(COLUMNS, rows(instances), "no gateway of this user runs on this host")
    summary = found["backup"]["summary"]
    lines = [*([summary] if summary else []), *(f"note: {note}" for note in found["notes"])]
    return Result(found, [table, *lines], as_json=json, exit_code=exit_code)


def top(every: Every = 1.0, times: Times = None, config: options.Config = None, json: options.Json = False) -> Result:
    """Watch the instances of this host, each with its rate of requests, latency, streams, errors and memory. With --json a line each time.

    Example: coollm top --every 2
    """
    if every < 0.1:
        raise UsageError(f"--every {every}: at least 0.1 s")
    return watch(find_config(config), every, times, as_json=json)
