"""`coollm simulate`."""

from __future__ import annotations

from typing import Annotated

import typer
from coollm_cli.ops import server


def simulate(
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Listen here; port 0 takes a free one.")] = "127.0.0.1:2907",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=NUMBER", help="Behaviour of every request, such as latency_ms=200, rate=50, status=429; again for more."),
    ] = None,
) -> None:
    """Run the simulated vendors alone: OpenAI, Anthropic and Gemini on one port.

    A request sets its own behaviour behind tildes in its model or key (gpt-sim~status=429~retry_after=2), or in the header x-simulate.

    Example: coollm simulate --listen 127.0.0.1:2907 --set latency_ms=200
    """
    server.become_simulator(listen, set_ or [])
