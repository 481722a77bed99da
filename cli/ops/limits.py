"""Limits that are set while the gateway runs: they hold in every worker within a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from coollm_cli.ops.gateway_client import find_gateway
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step

from coollm.core.errors import UsageError

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


def set_plan(config: Path | None, kind: str, identity: str, asked: dict[str, Any]) -> Plan:
    """What will change. Raises OperationFailed with what the gateway says, and Unreachable."""
    path = f"/admin/v1/limits/{quote(kind)}/{quote(identity, safe='')}"
    answer = find_gateway(config).put(path, {**asked, "dry_run": True})
    lines = _differences(answer)
    parameters = {"config": str(config) if config else None, "path": path, "asked": asked, "before": answer["override"], "what": f"{kind} '{identity}'"}
    back = {**parameters, "asked": {"replace": answer["override"]}}
    steps = set_steps(parameters) if lines else ()
    nothing = f"{kind} '{identity}': nothing to change"
    told = {"before": answer["before"], "after": answer["after"]}
    return Plan("limits", parameters, steps, notes=lines, nothing=nothing, reverse=("limits", back), asks=True, told=told)


def set_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `clients limit` and `budget set`."""
    config = Path(parameters["config"]) if parameters["config"] else None
    what = parameters["what"]

    def put(entry: Entry) -> None:
        answer = find_gateway(config).put(parameters["path"], parameters["asked"])
        entry.kept["told"] = {"before": answer["before"], "after": answer["after"]}
        entry.kept["lines"] = [f"{what} is changed:", *_differences(answer)]

    def back(_: Entry) -> None:
        find_gateway(config).put(parameters["path"], {"replace": parameters["before"]})

    return [Step("set", f"set the limits of {what} in every worker", put, back)]


def _differences(answer: dict[str, Any]) -> list[str]:
    before, after = answer["before"], answer["after"]
    changed = [name for name in after["limits"] if before["limits"][name] != after["limits"][name]]
    lines = [f"{name}: {_word(before['limits'][name])} -> {_word(after['limits'][name])}" for name in changed]
    if before["budget_since"] != after["budget_since"]:
        lines.append("the budget begins anew now")
    return lines


def _word(value: Any) -> str:
    return "none" if value is None else str(value)
