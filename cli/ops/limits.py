"""Limits that are set while the gateway runs: they hold in every worker within a second."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from coollm_cli import output
from coollm_cli.ops.gateway_client import GatewayClient
from coollm_cli.output import Result

from coollm.core.errors import OperationFailed, UsageError

WORDS_FOR_LIFTED = ("none", "unlimited")


def read(text: str | None, name: str, kind: type) -> Any:
    """A limit as an option gives it: a number, or none to lift it. Raises UsageError."""
    if text is None or text.lower() in WORDS_FOR_LIFTED:
        return None
    try:
        value = kind(text)
    except ValueError:
        raise UsageError(f"--{name}: expected a number, or none to lift the limit, got '{text}'") from None
    if not value >= (0 if kind is float else 1):
        raise UsageError(f"--{name}: {text} is too small", "say none to lift the limit")
    return value


def change(client: GatewayClient, kind: str, identity: str, asked: dict[str, Any], *, yes: bool, dry_run: bool, as_json: bool) -> Result:
    """Shows what will change, asks, and sets it. The answer says what it was before."""
    path = f"/admin/v1/limits/{quote(kind)}/{quote(identity, safe='')}"
    plan = client.put(path, {**asked, "dry_run": True})
    lines = _differences(plan)
    if not lines:
        return Result({**plan, "done": False}, [f"{kind} '{identity}': nothing to change"], as_json=as_json)
    if dry_run:
        return Result({**plan, "done": False}, [f"{kind} '{identity}' would change:", *lines], as_json=as_json)
    if not yes:
        output.progress(f"{kind} '{identity}':\n" + "\n".join(lines))
        if not output.ask("set this in every worker?"):
            raise OperationFailed("nothing was changed", "say --yes where nobody can be asked")
    done = client.put(path, asked)
    return Result({**done, "done": True}, [f"{kind} '{identity}' is changed:", *_differences(done)], as_json=as_json)


def _differences(answer: dict[str, Any]) -> list[str]:
    before, after = answer["before"], answer["after"]
    changed = [name for name in after["limits"] if before["limits"][name] != after["limits"][name]]
    lines = [f"  {name}: {_word(before['limits'][name])} -> {_word(after['limits'][name])}" for name in changed]
    if before["budget_since"] != after["budget_since"]:
        lines.append("  the budget begins anew now")
    return lines


def _word(value: Any) -> str:
    return "none" if value is None else str(value)
