"""`coollm fleet`: many hosts over ssh."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from coollm_cli import options, output
from coollm_cli.ops.fleet import bootstrap, configuration, execute
from coollm_cli.ops.fleet import status as ops
from coollm_cli.ops.fleet.inventory import Inventory, destination, find_inventory
from coollm_cli.output import Result, Table

from coollm.core.config.fleet import FleetHost
from coollm.core.errors import OperationFailed, UsageError

app = typer.Typer(help="Operate many hosts over ssh.", no_args_is_help=True, add_completion=False)
config_app = typer.Typer(help="Put one configuration in force on every host, or on none.", no_args_is_help=True, add_completion=False)
app.add_typer(config_app, name="config")

File = Annotated[Path | None, typer.Option("--inventory", metavar="FILE", help="Where the hosts are named; beats fleet.yaml and the configuration.")]
Hosts = Annotated[list[str] | None, typer.Option("--host", metavar="NAME", help="Only this host; give it again for more.")]
Groups = Annotated[list[str] | None, typer.Option("--group", metavar="NAME", help="Only the hosts of this group; give it again for more.")]
ONE_FAULT, UNREACHABLE_ALL = 4, 5


@app.callback()
def fleet() -> None:
    """Operate many hosts over ssh."""


@config_app.callback()
def fleet_config() -> None:
    """Put one configuration in force on every host, or on none."""


def _chosen(inventory: Path | None, config: Path | None, hosts: list[str] | None, groups: list[str] | None) -> tuple[Inventory, list[FleetHost]]:
    found = find_inventory(inventory, config)
    return found, found.hosts(hosts or (), groups or ())


@app.command()
def status(inventory: File = None, host: Hosts = None, group: Groups = None, config: options.Config = None, json: options.Json = False) -> Result:
    """Show how every host is, and where their configurations or versions differ. Exit 4 if one is not well, 5 if none answers.

    Example: coollm fleet status --group frankfurt
    """
    found, hosts = _chosen(inventory, config, host, group)
    told = ops.fleet_status(found, hosts)
    lines: list[str | Table] = [Table(ops.COLUMNS, ops.rows(told)), *ops.drift_lines(told)]
    reached = [one for one in told["hosts"] if one["status"] != ops.UNREACHABLE]
    return Result(told, lines, as_json=json, exit_code=0 if told["ok"] else ONE_FAULT if reached else UNREACHABLE_ALL)


@app.command("exec", context_settings={"allow_interspersed_args": False})
def execute_(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="A program and its arguments; `sh -c '…'` for a line of the shell.")],
    inventory: File = None,
    host: Hosts = None,
    group: Groups = None,
    data: Annotated[Path | None, typer.Option("--input", metavar="FILE", help="What the command reads; `-` is standard input.")] = None,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=1, help="How long it may take on a host.")] = 60.0,
    config: options.Config = None,
    json: options.Json = False,
) -> Result:
    """Run a command on every host at once. Exit 1 if it fails on one, 5 if one cannot be reached.

    Example: coollm fleet exec --group frankfurt -- coollm backup list
    """
    found, hosts = _chosen(inventory, config, host, group)
    told = execute.execute(found, hosts, command, _read(data), timeout)
    unreachable, failed = any("unreachable" in row for row in told), any(row["exit_code"] for row in told)
    return Result({"hosts": told}, execute.lines(told), as_json=json, exit_code=5 if unreachable else 1 if failed else 0)


@app.command()
def install(
    wheelhouse: Annotated[Path, typer.Option("--wheelhouse", metavar="DIR", help="The wheels, as scripts/release makes them.")],
    configuration_file: Annotated[
        Path | None, typer.Option("--with-config", metavar="FILE", help="The configuration of hosts that have none; a first one if not given.")
    ] = None,
    environment: Annotated[Path | None, typer.Option("--with-environment", metavar="FILE", help="The environment file of hosts that have none.")] = None,
    instances: Annotated[int, typer.Option("--instances", min=1, max=64, metavar="N", help="How many instances each host runs.")] = 2,
    inventory: File = None,
    host: Hosts = None,
    group: Groups = None,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Install coollm on hosts that have nothing but ssh and Python. A host on which it is installed stays as it is.

    Example: coollm fleet install --wheelhouse wheelhouse --with-config gateway.yaml --dry-run
    """
    found, hosts = _chosen(inventory, config, host, group)
    wheels = bootstrap.pack(wheelhouse)
    given = {bootstrap.CONFIGURATION: configuration_file, bootstrap.ENVIRONMENT: environment}
    files = {path: _need(file) for path, file in given.items() if file is not None}
    plan = [f"{one.name} ({destination(one)}): {len(wheels) // 1_000_000} MB of wheels, {instances} instances" for one in hosts]
    if dry_run:
        return Result({"ok": True, "done": False, "plan": plan}, ["plan:", *(f"  {line}" for line in plan)], as_json=json)
    _ask(plan, yes)
    told = bootstrap.install(found, hosts, wheels, files, instances)
    failed = [row for row in told if not row["ok"]]
    lines = [f"{len(told) - len(failed)} of {len(told)} hosts are installed", *(f"{row['host']}: {row['what']}" for row in failed)]
    return Result({"ok": not failed, "done": True, "hosts": told}, lines, as_json=json, exit_code=1 if failed else 0)


@config_app.command("apply")
def config_apply(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The configuration.")],
    message: Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="Why, for `config history`.")] = None,
    inventory: File = None,
    host: Hosts = None,
    group: Groups = None,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Put a configuration in force on every host, or on none: all check it first, and keep it when all of them have it.

    Example: coollm fleet config apply gateway.yaml --message 'a key more'
    """
    found, hosts = _chosen(inventory, config, host, group)
    if not dry_run:
        _ask([f"{one.name} ({destination(one)})" for one in hosts], yes)
    told = configuration.apply(found, hosts, file, message, dry_run=dry_run)
    if dry_run:
        lines = [f"{row['host']}: {'would change' if row['changes'] else 'has it already'}" for row in told["hosts"]]
    elif not told["changed"]:
        lines = ["every host has this configuration: nothing to do"]
    else:
        lines = [f"{len(hosts)} hosts have configuration {told['digest'][:8]}"]
    return Result(told, lines, as_json=json)


def _read(file: Path | None) -> bytes | None:
    if file is None:
        return None
    return sys.stdin.buffer.read() if str(file) == "-" else _need(file)


def _need(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error


def _ask(plan: list[str], yes: bool) -> None:
    for line in plan:
        output.progress(f"  {line}")
    if not yes and not output.ask("go on?"):
        raise OperationFailed("nothing was changed", "say --yes where nobody can be asked")
