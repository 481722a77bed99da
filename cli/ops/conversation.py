"""One chat request through a running gateway."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coollm_cli.ops.gateway_client import GatewayClient, Reply, error_text

from coollm.core.errors import OperationFailed
from coollm.core.request_log import find_request

LOG_WAIT_SECONDS = 2.0


@dataclass
class Spoken:
    """An answer and what it took. `cost_usd` is None where the price is not known."""

    text: str
    model: str
    provider: str
    key: str
    request_id: str
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    latency_ms: float
    time_to_first_token_ms: float | None

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)

    def summary(self) -> str:
        """One line for a person."""
        cost = "price not configured" if self.cost_usd is None else f"${self.cost_usd:.6f}"
        first = "" if self.time_to_first_token_ms is None else f" (first token {self.time_to_first_token_ms:.0f} ms)"
        return (
            f"{self.provider} {self.model}, key {self.key}: {self.input_tokens} + {self.output_tokens} tokens, {cost}, "
            f"{self.latency_ms:.0f} ms{first}, {self.request_id}"
        )


def first_model(client: GatewayClient) -> str:
    """The first model that is served. Raises OperationFailed if none is listed."""
    models = client.ask("/v1/models")["data"]
    if not models:
        raise OperationFailed("no provider lists its models", "name one with --model")
    return str(models[0]["id"])


def ask(client: GatewayClient, model: str, text: str, show: Callable[[str], None] | None, *, stream: bool = True) -> Spoken:
    """Sends `text` and shows the answer as it comes. Raises OperationFailed if the gateway refuses or the stream breaks."""
    started = time.monotonic()
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}]}
    if not stream:
        return _whole(client.post("/v1/chat/completions", body), started, show)
    body.update(stream=True, stream_options={"include_usage": True})
    refused, headers, events = client.stream("/v1/chat/completions", body)
    if refused is not None:
        raise OperationFailed(error_text(refused))
    first: float | None = None
    pieces: list[str] = []
    usage: dict[str, Any] = {}
    answered = model
    for event in events:
        if event.get("error"):
            raise OperationFailed(f"the stream broke: {event['error'].get('message')}")
        answered = event.get("model") or answered
        usage = event.get("usage") or usage
        for choice in event.get("choices") or ():
            piece = (choice.get("delta") or {}).get("content") or ""
            if piece and first is None:
                first = time.monotonic() - started
            pieces.append(piece)
            if show and piece:
                show(piece)
    return _spoken("".join(pieces), answered, headers, usage, time.monotonic() - started, first)


def _whole(reply: Reply, started: float, show: Callable[[str], None] | None) -> Spoken:
    if reply.status != 200:
        raise OperationFailed(error_text(reply))
    text = reply.body["choices"][0]["message"]["content"] or ""
    if show:
        show(text)
    return _spoken(text, reply.body.get("model", ""), reply.headers, reply.body.get("usage") or {}, time.monotonic() - started, None)


def _spoken(text: str, model: str, headers: dict[str, str], usage: dict[str, Any], seconds: float, first: float | None) -> Spoken:
    return Spoken(
        text=text,
        model=model,
        provider=headers.get("x-coollm-provider", ""),
        key=headers.get("x-coollm-key", ""),
        request_id=headers.get("x-request-id", ""),
        input_tokens=usage.get("prompt_tokens", 0),
        output_tokens=usage.get("completion_tokens", 0),
        cost_usd=float(headers["x-coollm-cost-usd"]) if "x-coollm-cost-usd" in headers else None,
        latency_ms=round(seconds * 1000, 1),
        time_to_first_token_ms=None if first is None else round(first * 1000, 1),
    )


def add_cost(spoken: Spoken, log: Path | None) -> None:
    """Takes the cost of a stream from its log line: the headers went out before it was known."""
    deadline = time.monotonic() + LOG_WAIT_SECONDS
    while spoken.cost_usd is None and spoken.request_id and log is not None:
        try:
            spoken.cost_usd = find_request(spoken.request_id, log)[0]["cost_usd"]
        except OperationFailed:
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)
        else:
            return
