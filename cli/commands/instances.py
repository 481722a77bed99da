"""`coollm start`, `stop`, `restart`, `scale`, `drain`, `undrain`: the instances of this host."""

from __future__ import annotations

from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops import autoscale, host
from coollm_cli.ops.host import host_of
from coollm_cli.ops.operation import Options, change
from coollm_cli.ops.rollout import restart_plan
from coollm_cli.output import Result

from coollm.core.errors import UsageError
from coollm.core.paths import SYSTEM_CONFIG

Rolling = Annotated[bool, typer.Option("--rolling", help="One after the other, each when its streams have ended.")]
Instance = Annotated[str, typer.Argument(metavar="INSTANCE", help="The instance's number, as in `coollm status`.")]


def start(yes: options.Yes = False, dry_run: options.DryRun = False, json: options.Json = False, quiet: options.Quiet = False) -> Result:
    """Start every instance of this host.

    Example: sudo coollm start
    """
    return change(host_of(SYSTEM_CONFIG), host.start_plan, Options(dry_run, yes, json, quiet))


def stop(yes: options.Yes = False, dry_run: options.DryRun = False, json: options.Json = False, quiet: options.Quiet = False) -> Result:
    """Stop every instance of this host, when its requests have ended. Nothing is served until `coollm start`.

    Example: sudo coollm stop --yes
    """
    return change(host_of(SYSTEM_CONFIG), host.stop_plan, Options(dry_run, yes, json, quiet))


def restart(
    rolling: Rolling = False,
    max_failures: options.MaxFailures = 0,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Restart the instances of this host. With --rolling no request is lost; it ends in a receipt. It stops at the first
    instance that is not healthy: exit 7 if that was brought back, 1 if not.

    Example: sudo coollm restart --rolling
    """
    return change(host_of(SYSTEM_CONFIG), lambda: restart_plan(rolling=rolling, max_failures=max_failures), Options(dry_run, yes, json, quiet))


def scale(
    instances: Annotated[int | None, typer.Argument(metavar="[N]", help="How many instances to run.")] = None,
    auto: Annotated[bool, typer.Option("--auto", help="As many as server.autoscale asks for, by their load.")] = False,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Run so many instances on this host from now on. Those that go end their requests first.

    With --auto it looks at the load for some seconds, decides and says why; a timer does so each minute where server.autoscale.enabled is true.

    Example: sudo coollm scale 4
    """
    how = Options(dry_run, yes, json, quiet)
    if auto == (instances is not None):
        raise UsageError("how many?", "coollm scale N, or coollm scale --auto")
    if instances is None:
        return autoscale.auto(how)
    number = instances
    return change(host_of(SYSTEM_CONFIG), lambda: host.scale_plan(number), how)


def drain(
    instance: Instance,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Close an instance to new connections: what it serves goes on, and its /ready answers 404. `coollm undrain` opens it again.

    Example: sudo coollm drain 2
    """
    return change(host_of(SYSTEM_CONFIG), lambda: host.drain_plan(instance, is_on=True), Options(dry_run, yes, json, quiet))


def undrain(
    instance: Instance,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Open a drained instance to new connections again.

    Example: sudo coollm undrain 2
    """
    return change(host_of(SYSTEM_CONFIG), lambda: host.drain_plan(instance, is_on=False), Options(dry_run, yes, json, quiet))
