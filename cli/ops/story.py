"""The whole story of a request: who asked for what, what was tried in which order and why it moved on, how long each step took, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coollm_cli.ops import request_log
from coollm_cli.ops.codes import ALL
from coollm_cli.output import Result, Table

from coollm.core.errors import OperationFailed
from coollm.core.request_log import find_request

COLUMNS = ("step", "after ms", "provider", "key", "model", "outcome", "status", "ms", "reason")


def story(request_id: str, config: Path | None, *, as_json: bool) -> Result:
    """From the log. Raises OperationFailed where it has nothing of it."""
    log = request_log.log_path(config)
    if log is None:
        raise OperationFailed("the log goes to standard error (logging.file is '-'), so nothing can be looked up in it", "journalctl -u 'coollm@*'")
    line, others = find_request(request_id, log)
    table = Table(COLUMNS, [_row(number, attempt) for number, attempt in enumerate(line["attempts"], 1)], "no vendor was asked")
    return Result({**line, "other_lines": others}, [*_before(line), table, *_after(line), *_others(others)], as_json=as_json)


def _row(number: int, attempt: dict[str, Any]) -> tuple[Any, ...]:
    return (
        number,
        attempt.get("after_ms"),
        attempt["provider"],
        attempt["key_id"],
        attempt["model"],
        attempt["outcome"],
        attempt["status"] or None,
        attempt["ms"],
        attempt["reason"],
    )


def _before(line: dict[str, Any]) -> Iterator[str]:
    how = "a stream" if line["stream"] else "a whole answer"
    yield f"{line['request_id']} at {line.get('time')}: client {line['client']} asked {line['route']} for {how} of {line['requested_model'] or 'no model'}"


def _after(line: dict[str, Any]) -> Iterator[str]:
    first = line.get("time_to_first_token_ms")
    took = f"{line['latency_ms']} ms" + (f", the first content after {first} ms" if first is not None else "")
    yield f"status {line['status']}, {line['ending']}, in {took}"
    if line["provider"]:
        yield f"answered for by {line['provider']} key {line['key_id']} as {line['model']}"
    cached = f" ({line['cached_input_tokens']} of them from the vendor's cache)" if line["cached_input_tokens"] else ""
    guessed = "; the vendor told no usage: this is an estimate" if line["estimated"] else ""
    cost = "no price is known" if line["cost_usd"] is None else f"${line['cost_usd']:.6f}"
    saved = f"; the cache answered, which saved ${line['saved_usd']:.6f}" if line.get("cache") == "hit" else ""
    yield f"{line['input_tokens']} input{cached} + {line['output_tokens']} output tokens, {cost}{saved}{guessed}"
    if line["dropped"]:
        yield f"parameters that the vendor cannot be told were dropped: {', '.join(line['dropped'])}"
    if line["error"]:
        known = ALL.get(line["error"])
        yield f"error {line['error']}" + (f": {known.means} What to do: {known.remedy}" if known else "")


def _others(lines: list[dict[str, Any]]) -> Iterator[str]:
    for one in lines:
        yield f"also logged, {one.get('time')} {one.get('level')}: {one.get('message')} {one.get('reason') or ''}".rstrip()
