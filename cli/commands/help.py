"""`coollm help`: topics that belong to no single command."""

from __future__ import annotations

from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops.codes import EXIT_CODES
from coollm_cli.output import Result, Table

from coollm.core.errors import UsageError
from coollm.core.registry import did_you_mean

TOPICS = ("exit-codes",)


def help_topic(topic: Annotated[str, typer.Argument(help="The topic: exit-codes.")], json: options.Json = False) -> Result:
    """Explain a topic, such as exit-codes.

    Example: coollm help exit-codes
    """
    if topic not in TOPICS:
        raise UsageError(f"no topic '{topic}'{did_you_mean(topic, TOPICS)}", f"topics: {', '.join(TOPICS)}; a command's help is `coollm COMMAND --help`")
    data = {"exit_codes": [{"code": int(one.code), "meaning": one.means} for one in EXIT_CODES]}
    return Result(data, [Table(("exit", "meaning"), [(one.code, one.means) for one in EXIT_CODES])], as_json=json)
