"""Options that many commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="The configuration: beats $COOLLM_CONFIG, ./coollm.yaml and /etc/coollm/config.yaml."),
]


def _state_directory(given: Path | None) -> Path | None:
    """Whatever of this process looks for the state finds it there."""
    if given is not None:
        os.environ["COOLLM_STATE_DIR"] = str(given.absolute())
    return given


StateDirectory = Annotated[
    Path | None, typer.Option("--state-dir", metavar="DIR", callback=_state_directory, help="Where state is kept; beats $COOLLM_STATE_DIR.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing if there is nothing to say.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
Wheelhouse = Annotated[Path | None, typer.Option("--wheelhouse", metavar="DIR", help="Install from the wheels of this directory alone, without a network.")]
MaxFailures = Annotated[int, typer.Option("--max-failures", min=0, metavar="N", help="So many instances may be unhealthy before all is stopped.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
