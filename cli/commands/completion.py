"""`coollm completion`."""

from __future__ import annotations

from typing import Annotated

import typer
from coollm_cli.output import Result
from typer.completion import get_completion_script  # type: ignore[attr-defined]

from coollm.core.errors import UsageError
from coollm.core.registry import did_you_mean

SHELLS = ("bash", "zsh", "fish")


def completion(shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")]) -> Result:
    """Print the completion script for a shell.

    Example: coollm completion bash > /etc/bash_completion.d/coollm
    """
    if shell not in SHELLS:
        raise UsageError(f"no completion for the shell '{shell}'{did_you_mean(shell, SHELLS)}", f"known: {', '.join(SHELLS)}")
    script = get_completion_script(prog_name="coollm", complete_var="_COOLLM_COMPLETE", shell=shell)
    return Result({"shell": shell, "script": script}, [script])
