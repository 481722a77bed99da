"""`coollm demo`."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from coollm_cli import output
from coollm_cli.ops import conversation
from coollm_cli.ops.demo import client_key, demo_gateway
from coollm_cli.ops.gateway_client import GatewayClient
from coollm_cli.output import Result

QUESTION = "In one sentence: what does a gateway do?"
# The simulated model speaks 60 tokens a second, so that one sees it stream.
MODELS = ("openai:gpt-sim", "claude:claude-sim", "gemini:gemini-sim")
PACE = "~rate=60~tokens=20"


def demo(once: Annotated[bool, typer.Option("--once", help="End after the two completions.")] = False) -> Result:
    """Show the gateway at work in front of simulated vendors.

    A real gateway on loopback; a plain and two streamed completions through it, with what they cost and which key served them.

    Example: coollm demo --once
    """
    output.progress("starting a gateway (gunicorn, 2 gevent workers) in front of simulated OpenAI, Anthropic and Gemini …")
    with demo_gateway(workers=2) as plan:
        client = GatewayClient(url=plan.url, key=client_key(plan))
        output.write(f"\n1. A plain completion: POST {plan.url}/v1/chat/completions, model {MODELS[0]}\n   ")
        plain = conversation.ask(client, MODELS[0], QUESTION, output.write, stream=False)
        output.write(f"\n   {plain.summary()}\n")
        for number, model in enumerate(MODELS[1:], 2):
            output.write(f"\n{number}. A streamed one, OpenAI's API in front of another vendor: model {model}\n   ")
            streamed = conversation.ask(client, model + PACE, QUESTION, output.write)
            conversation.add_cost(streamed, plan.log)
            output.write(f"\n   {streamed.summary()}\n")
        _where_next(plan.url, once)
        if not once:
            output.write(
                f"\nThe gateway goes on until Ctrl-C. Try it:\n\n  curl {plan.url}/v1/chat/completions -H 'authorization: Bearer {client_key(plan)}' \\\n"
            )
            output.write(f'    -d \'{{"model": "{MODELS[1]}", "messages": [{{"role": "user", "content": "Hello"}}]}}\'\n\n')
            while True:
                time.sleep(3600)
    return Result(None)


def _where_next(url: str, once: bool) -> None:
    live = "" if once else f"  {url}/health, {url}/metrics\n"
    output.write(f"\nWhere to look next:\n{live}  coollm init      a gateway of your own\n  coollm serve     run it\n  coollm --help    everything else\n")
