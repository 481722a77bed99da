"""`coollm init`."""

from __future__ import annotations

from coollm_cli import options
from coollm_cli.ops import init as operation
from coollm_cli.output import Result

from coollm.core.paths import LOCAL_CONFIG


def init(config: options.Config = None, dry_run: options.DryRun = False, json: options.Json = False) -> Result:
    """Write a commented configuration that starts as it is.

    It uses the vendors whose keys are in the environment (OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY, …), or simulated ones if there are none.
    Nothing that exists is overwritten.

    Example: coollm init && coollm serve
    """
    plan = operation.plan_init(config or LOCAL_CONFIG)
    if not dry_run:
        operation.write_init(plan)
    vendors = ", ".join(plan.vendors) if plan.vendors else "simulated vendors (no vendor key is in the environment)"
    done = "would write" if dry_run else "wrote"
    lines = [
        f"{done} {plan.config}: {vendors}",
        f"{done} {plan.environment}: the secrets, readable by you alone",
        *(() if dry_run else ("next: coollm serve", "then: coollm chat 'Say hello'")),
    ]
    data = {"config": str(plan.config), "environment": str(plan.environment), "vendors": list(plan.vendors), "written": not dry_run}
    return Result(data, lines, as_json=json)
