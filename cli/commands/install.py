"""`coollm install`, `coollm uninstall`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops import releases
from coollm_cli.ops.host import host_of
from coollm_cli.ops.install import install_plan, uninstall_plan
from coollm_cli.ops.operation import Options, change
from coollm_cli.output import Result

from coollm.core.paths import SYSTEM_CONFIG

Instances = Annotated[int, typer.Option("--instances", min=1, metavar="N", help="How many instances this host runs.")]
Scheduler = Annotated[str, typer.Option("--scheduler", metavar="NAME", help="Who runs regular jobs: systemd or cron.")]
Wheel = Annotated[Path | None, typer.Option("--wheel", metavar="FILE", help="The wheel to install; by default the newest of the wheelhouse.")]
Purge = Annotated[bool, typer.Option("--purge", help="Remove configuration, state, logs and the user, too.")]


def install(
    wheelhouse: options.Wheelhouse = None,
    wheel: Wheel = None,
    instances: Instances = 2,
    scheduler: Scheduler = "systemd",
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Install the gateway on this host: user, directories, release, units, a first configuration. A second run changes nothing.

    Example: sudo .venv/bin/coollm install --wheelhouse /media/usb/wheelhouse
    """
    source = releases.source(str(wheel) if wheel else None, wheelhouse)
    return change(host_of(SYSTEM_CONFIG), lambda: install_plan(source, instances, scheduler), Options(dry_run, yes, json, quiet))


def uninstall(
    purge: Purge = False,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Remove the gateway from this host. Configuration, state and logs stay, unless --purge is given.

    Example: sudo coollm uninstall --purge --dry-run
    """
    return change(host_of(SYSTEM_CONFIG), lambda: uninstall_plan(purge=purge), Options(dry_run, yes, json, quiet))
