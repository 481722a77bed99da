"""`coollm serve`."""

from __future__ import annotations

from typing import Annotated

import typer
from coollm_cli import options, output
from coollm_cli.ops import server


def serve(
    listen: Annotated[str | None, typer.Option("--listen", metavar="HOST:PORT", help="Listen here; beats server.listen.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, metavar="N", help="Worker processes; beats server.workers.")] = None,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
) -> None:
    """Run the gateway in the foreground.

    It is gunicorn with gevent workers, and becomes this very process: signals and exit status are gunicorn's own.

    Example: coollm serve --listen :2906 --workers 4
    """
    plan = server.plan_server(config, state_dir, listen, workers)
    for warning in plan.warnings:
        output.warn(str(warning))
    output.progress(f"gateway on {plan.url} with {plan.workers} workers, configuration {plan.config}, log {plan.log or 'standard error'}")
    server.become_server(plan)
