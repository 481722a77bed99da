"""`coollm explain`."""

from __future__ import annotations

from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops.codes import ALL
from coollm_cli.ops.monitoring.alerts import BY_NAME
from coollm_cli.ops.story import story
from coollm_cli.output import Result

from coollm.core.errors import UsageError
from coollm.core.registry import did_you_mean

REQUEST_ID = "req_"


def explain(
    code: Annotated[str, typer.Argument(metavar="CODE", help="An exit code, a finding of `coollm doctor`, the code of an error, an alert, or a request's id.")],
    config: options.Config = None,
    json: options.Json = False,
) -> Result:
    """Explain a code and say what to do; of a request's id, tell its whole story.

    Example: coollm explain 7
    """
    if code.startswith(REQUEST_ID):
        return story(code, config, as_json=json)
    alert = BY_NAME.get(code)
    if alert is not None:
        told = {"code": alert.name, "severity": alert.severity, "means": alert.means, "remedy": alert.remedy, "expression": alert.expression}
        lines = [
            f"{alert.name}: {alert.means}",
            f"severity: {alert.severity}",
            f"fires: {alert.expression}; for {alert.lasting}",
            f"what to do: {alert.remedy}",
        ]
        return Result(told, lines, as_json=json)
    found = ALL.get(code)
    if found is None:
        known = [*ALL, *BY_NAME]
        raise UsageError(f"'{code}' is no code of coollm{did_you_mean(code, known)}", "codes: " + ", ".join(known))
    lines = [f"{found.code}: {found.means}", *([f"what to do: {found.remedy}"] if found.remedy else [])]
    return Result({"code": found.code, "means": found.means, "remedy": found.remedy}, lines, as_json=json)
