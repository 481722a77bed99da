"""`coollm incident`: what whoever looks into one needs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops.incident import Bundle
from coollm_cli.output import Result

from coollm.core.config.values import parse_instant
from coollm.core.errors import UsageError
from coollm.core.paths import find_config, state_directory

app = typer.Typer(help="Collect what is needed to look into an incident, without secrets.", no_args_is_help=True, add_completion=False)


@app.callback()
def incident() -> None:
    """Collect what is needed to look into an incident, without secrets."""


@app.command()
def collect(
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="When it was, UTC unless it says; now if not given. Half an hour around it counts.")
    ] = None,
    output_file: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Where to; ./coollm-incident-TIME.tar.gz if not given.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Show what would be in it, and write nothing.")] = False,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    json: options.Json = False,
) -> Result:
    """Collect status, findings, logs, metrics, configuration, processes, changes and a timeline: redacted, and searched for secrets.

    Example: sudo coollm incident collect --at 2026-11-25T14:05
    """
    path = find_config(config).absolute()
    bundle = Bundle(path, state_directory(path, state_dir), _moment(at))
    bundle.collect()
    level, why = bundle.level()
    name = output_file or Path(time.strftime("coollm-incident-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime(bundle.at)))
    sizes = {file: len(text.encode()) for file, text in bundle.files.items()}
    leaks = bundle.leaks()
    told = {"level": level, "why": why, "files": sizes, "leaks": leaks, "written": None if preview else str(name)}
    lines = [f"{level}: {why}", *(f"  {file}: {size} bytes" for file, size in sizes.items())]
    if preview:
        return Result(told, [*lines, *(f"a secret would be in {leak}" for leak in leaks)], as_json=json, exit_code=4 if leaks else 0)
    bundle.write(name)
    return Result(told, [*lines, f"{name} has all of it, and none of this host's secrets"], as_json=json)


def _moment(text: str | None) -> float:
    if text is None:
        return time.time()
    try:
        return parse_instant(text).timestamp()
    except ValueError as error:
        raise UsageError(f"--at {text}: {error}") from error
