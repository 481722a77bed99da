"""`coollm doctor`."""

from __future__ import annotations

from coollm_cli import options
from coollm_cli.ops.doctor import LOW, examine
from coollm_cli.output import Result, Table

from coollm.core.paths import find_config


def doctor(config: options.Config = None, state_dir: options.StateDirectory = None, json: options.Json = False, quiet: options.Quiet = False) -> Result:
    """Check everything that a healthy production host needs, each finding with its remedy. Exit 4 if one is more than a remark.

    Example: sudo coollm doctor
    """
    found, checks = examine(find_config(config), state_dir)
    told = [one.as_json() for one in found]
    lines: list[str | Table] = [Table(("code", "severity", "what", "remedy"), [(one["code"], one["severity"], one["what"], one["remedy"]) for one in told])]
    if not found and not quiet:
        lines = [f"{checks} checks, nothing found"]
    return Result({"findings": told, "checks": checks}, lines, as_json=json, exit_code=4 if any(one.severity != LOW for one in found) else 0)
