"""`coollm secrets`: what is kept encrypted, for `${secret:NAME}` in the configuration."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops import secrets as ops
from coollm_cli.ops.host import change_host
from coollm_cli.ops.operation import Options
from coollm_cli.ops.secret_input import read_secret
from coollm_cli.output import Result, Table

from coollm.core.errors import UsageError
from coollm.core.paths import find_config, state_directory

app = typer.Typer(help="Set, list and import encrypted secrets; change the master key.", no_args_is_help=True, add_completion=False)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name in ${secret:NAME}.")]
File = Annotated[Path | None, typer.Option("--file", metavar="FILE", help="Read it from a file; else from a prompt, or from standard input.")]
Passphrase = Annotated[bool, typer.Option("--passphrase", help="The new master key is a passphrase, typed at each start of `coollm serve`.")]
PassphraseFile = Annotated[Path | None, typer.Option("--passphrase-file", metavar="FILE", help="The same, read from a file.")]


@app.callback()
def secrets() -> None:
    """Set, list and import encrypted secrets; change the master key."""


@app.command("set")
def set_secret(
    name: Name,
    file: File = None,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Set a secret, or change it: gateways that use it have it within a second.

    Example: sudo coollm secrets set openai --file key.txt
    """
    value = "" if dry_run else read_secret(f"the secret '{name}'", file, twice=True)
    return change_host(config, state_dir, lambda path, state: ops.set_plan(path, state, name, value, dry_run=dry_run), Options(dry_run, yes, json, quiet))


@app.command("list")
def list_secrets(config: options.Config = None, state_dir: options.StateDirectory = None, json: options.Json = False) -> Result:
    """List the secrets by name, with when they were set, by whom, and where they are used. Their values are never shown.

    Example: sudo coollm secrets list
    """
    path = find_config(config).absolute()
    found = ops.list_secrets(path, state_directory(path, state_dir))
    rows = [(row["name"], row["set"], row["by"], ", ".join(row["used_by"])) for row in found]
    return Result({"secrets": found}, [Table(("name", "set", "by", "used by"), rows, "there is no secret")], as_json=json)


@app.command(hidden=True)
def share(config: options.Config = None, state_dir: options.StateDirectory = None) -> None:
    """Write what the hosts of a fleet have to have in common to standard output, which must be no terminal: `coollm fleet secrets` reads it.

    Example: coollm secrets share | ssh gw2 coollm secrets accept --yes
    """
    if sys.stdout.isatty():
        raise UsageError("secrets are not shown on a terminal", "coollm fleet secrets --from HOST")
    path = find_config(config).absolute()
    json.dump(ops.shared(path, state_directory(path, state_dir)), sys.stdout)


@app.command(hidden=True)
def accept(
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Set the secrets that another host has written (`secrets share`), from standard input.

    Example: coollm secrets share | ssh gw2 coollm secrets accept --yes
    """
    try:
        given = json.load(sys.stdin)
    except ValueError as error:
        raise UsageError("standard input holds no secrets", "coollm secrets share writes them") from error
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise UsageError("standard input holds no secrets", "coollm secrets share writes them")
    return change_host(config, state_dir, lambda path, state: ops.accept_plan(path, state, given, dry_run=dry_run), Options(dry_run, yes, as_json, quiet))


@app.command("delete")
def delete(
    name: Name,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Remove a secret that nothing uses.

    Example: sudo coollm secrets delete openai --yes
    """
    return change_host(config, state_dir, lambda path, state: ops.delete_plan(path, state, name), Options(dry_run, yes, json))


@app.command("import")
def import_secrets(
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Move the keys and passwords that stand in the configuration in clear to the secret store, and let it refer to them.

    Example: sudo coollm secrets import --dry-run
    """
    return change_host(config, state_dir, lambda path, state: ops.import_plan(path, state, dry_run=dry_run), Options(dry_run, yes, json, quiet))


@app.command("rotate-master")
def rotate_master(
    passphrase: Passphrase = False,
    passphrase_file: PassphraseFile = None,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Put all secrets under a new master key. Gateways go on; a command that was killed is finished by giving it again.

    Example: sudo coollm secrets rotate-master --yes
    """
    words = None
    if (passphrase or passphrase_file) and not dry_run:
        words = read_secret("the new passphrase", passphrase_file, twice=True)
    return change_host(config, state_dir, lambda path, state: ops.rotate_plan(path, state, words), Options(dry_run, yes, json, quiet))
