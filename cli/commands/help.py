"""`coollm help`: topics that belong to no single command."""

from __future__ import annotations

from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.output import Result, Table

from coollm.core.errors import UsageError
from coollm.core.registry import did_you_mean

EXIT_CODES = (
    (0, "done, or nothing to do"),
    (1, "the operation failed; what was changed is said, and how to go on"),
    (2, "usage error"),
    (3, "the configuration is invalid"),
    (4, "a check found a fault"),
    (5, "a gateway, store, host or vendor cannot be reached"),
    (130, "interrupted; nothing left half done"),
)

TOPICS = ("exit-codes",)


def help_topic(topic: Annotated[str, typer.Argument(help="The topic: exit-codes.")], json: options.Json = False) -> Result:
    """Explain a topic, such as exit-codes.

    Example: coollm help exit-codes
    """
    if topic not in TOPICS:
        raise UsageError(f"no topic '{topic}'{did_you_mean(topic, TOPICS)}", f"topics: {', '.join(TOPICS)}; a command's help is `coollm COMMAND --help`")
    data = {"exit_codes": [{"code": code, "meaning": meaning} for code, meaning in EXIT_CODES]}
    return Result(data, [Table(("exit", "meaning"), EXIT_CODES)], as_json=json)
