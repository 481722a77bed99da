"""`coollm upgrade`, `coollm rollback`."""

from __future__ import annotations

from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops import releases
from coollm_cli.ops.host import host_of
from coollm_cli.ops.operation import Options, change
from coollm_cli.ops.times import duration
from coollm_cli.ops.upgrade import rollback_plan, upgrade_plan
from coollm_cli.output import Result

from coollm.core.paths import SYSTEM_CONFIG

Soak = Annotated[str, typer.Option("--soak", metavar="TIME", help="How long the first instance of the release is watched beside the others.")]


def upgrade(
    release: Annotated[str, typer.Argument(metavar="VERSION|WHEEL", help="The version, or the file of its wheel.")],
    wheelhouse: options.Wheelhouse = None,
    soak: Soak = "30s",
    max_failures: options.MaxFailures = 0,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Go to another release: beside the old one first, then instance by instance, and back by itself if one is not healthy (exit 7).

    Example: sudo coollm upgrade 1.3.0 --wheelhouse /media/usb/wheelhouse
    """
    source = releases.source(release, wheelhouse)
    seconds = duration("--soak", soak)
    return change(host_of(SYSTEM_CONFIG), lambda: upgrade_plan(source, seconds, max_failures), Options(dry_run, yes, json, quiet))


def rollback(
    soak: Soak = "5s",
    max_failures: options.MaxFailures = 0,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Go back to the release that ran before the last upgrade, in the same way.

    Example: sudo coollm rollback
    """
    seconds = duration("--soak", soak)
    return change(host_of(SYSTEM_CONFIG), lambda: rollback_plan(seconds, max_failures), Options(dry_run, yes, json, quiet))
