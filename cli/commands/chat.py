"""`coollm chat`."""

from __future__ import annotations

from typing import Annotated

import typer
from coollm_cli import options, output
from coollm_cli.commands.health import Url
from coollm_cli.ops import conversation
from coollm_cli.ops.gateway_client import find_gateway
from coollm_cli.ops.request_log import log_path
from coollm_cli.output import Result


def chat(
    text: Annotated[str, typer.Argument(help="What to say; - reads standard input.")],
    model: Annotated[str | None, typer.Option("--model", "-m", metavar="NAME", help="The model; the first one served if not given.")] = None,
    config: options.Config = None,
    url: Url = None,
    json: options.Json = False,
) -> Result:
    """Send one request through the running gateway, streamed, and tell its tokens, cost, key and latency.

    Over the local socket no key is needed; with --url the client key comes from $COOLLM_API_KEY.

    Example: coollm chat --model gpt-4o 'Say hello'
    """
    said = typer.get_text_stream("stdin").read() if text == "-" else text
    client = find_gateway(config, url)
    answer = conversation.ask(client, model or conversation.first_model(client), said, None if json else output.write)
    if not url:
        conversation.add_cost(answer, log_path(config))
    if json:
        return Result(answer.as_json(), as_json=True)
    output.write("\n")
    output.progress(answer.summary())
    return Result(None)
