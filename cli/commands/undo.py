"""`coollm undo`."""

from __future__ import annotations

from coollm_cli import options
from coollm_cli.ops.host import host_of
from coollm_cli.ops.operation import Options, take_back
from coollm_cli.output import Result

from coollm.core.paths import find_config


def undo(
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Take the last change of this host back: of the configuration, the release, the number of instances, or a drained one.

    Example: sudo coollm undo --dry-run
    """
    return take_back(host_of(find_config(config).absolute(), state_dir), Options(dry_run, yes, json, quiet))
