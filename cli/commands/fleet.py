"""`coollm fleet`: many hosts over ssh."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from coollm_cli import options, output
from coollm_cli.ops.fleet import bootstrap, changes, configuration, execute, lease, rollout, scale, secrets
from coollm_cli.ops.fleet import status as ops
from coollm_cli.ops.fleet.inventory import Inventory, destination, find_inventory
from coollm_cli.ops.gateway_client import find_gateway
from coollm_cli.ops.operation import Options, change, go_on
from coollm_cli.ops.times import duration
from coollm_cli.output import Result, Table

from coollm.core.config.fleet import FleetHost
from coollm.core.errors import LockHeld, OperationFailed, UsageError

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


Batch = Annotated[str, typer.Option("--batch", metavar="SIZES", help="How many hosts at once: 1, 25%, or 1,10%,50%.")]
Soak = Annotated[str, typer.Option("--soak", metavar="TIME", help="How long the first batch is watched before the others follow.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a change that has stopped.")]
TakeBack = Annotated[bool, typer.Option("--rollback", help="Take back what a change that has stopped has done.")]


@app.command()
def restart(
    batch: Batch = "1",
    soak: Soak = "0s",
    max_failures: options.MaxFailures = 0,
    resume: Resume = False,
    inventory: File = None,
    host: Hosts = None,
    group: Groups = None,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Restart every host in a rolling way: out of the load balancers, restarted instance by instance, healthy, and back in steps.

    Example: coollm fleet restart --batch 1,25%
    """
    chosen = _chosen(inventory, config, host, group)
    return _roll(chosen, {"kind": "restart"}, batch, soak, max_failures, Options(dry_run, yes, json, quiet), resume=resume)


@app.command()
def upgrade(
    release: Annotated[str | None, typer.Argument(metavar="[VERSION]", help="The version; its wheel and what it needs are in the wheelhouse.")] = None,
    wheelhouse: Annotated[Path | None, typer.Option("--wheelhouse", metavar="DIR", help="The wheels, as scripts/release makes them.")] = None,
    batch: Batch = "1",
    soak: Soak = "30s",
    max_failures: options.MaxFailures = 0,
    resume: Resume = False,
    take_back: TakeBack = False,
    inventory: File = None,
    host: Hosts = None,
    group: Groups = None,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Bring every host to another release, batch by batch; a host that is not healthy with it takes it back everywhere (exit 7).

    Example: coollm fleet upgrade 1.3.0 --wheelhouse wheelhouse --batch 1,25%
    """
    chosen, how = _chosen(inventory, config, host, group), Options(dry_run, yes, json, quiet)
    if resume or take_back:
        with _alone(chosen[0], dry_run=dry_run):
            return go_on(changes.host_of(chosen[0]), "fleet-rollout", how, abort=take_back)
    if release is None or wheelhouse is None:
        raise UsageError("which release?", "coollm fleet upgrade VERSION --wheelhouse DIR, or --resume, or --rollback")
    return _roll(chosen, {"kind": "upgrade", "release": release, "wheelhouse": str(wheelhouse.absolute())}, batch, soak, max_failures, how, resume=False)


@app.command()
def rollback(
    batch: Batch = "1",
    max_failures: options.MaxFailures = 0,
    inventory: File = None,
    host: Hosts = None,
    group: Groups = None,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Bring every host back to the release that it ran before its last upgrade.

    Example: coollm fleet rollback --batch 25%
    """
    chosen = _chosen(inventory, config, host, group)
    return _roll(chosen, {"kind": "rollback"}, batch, "0s", max_failures, Options(dry_run, yes, json, quiet), resume=False)


def _roll(chosen: tuple[Inventory, list[FleetHost]], action: dict[str, str], batch: str, soak: str, max_failures: int, how: Options, *, resume: bool) -> Result:
    inventory, hosts = chosen
    ours = changes.host_of(inventory)
    with _alone(inventory, dry_run=how.dry_run):
        if resume:
            return go_on(ours, "fleet-rollout", how, abort=False)
        return change(ours, lambda: rollout.plan(inventory, hosts, action, batch, duration("--soak", soak), max_failures), how)


@app.command("secrets")
def secrets_(
    source: Annotated[str, typer.Option("--from", metavar="NAME", help="The host whose secrets the others get.")],
    inventory: File = None,
    host: Hosts = None,
    group: Groups = None,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Give the secrets of one host to the others: what clients' keys are hashed under, which hosts of one ledger share, and those of the configuration.

    Example: coollm fleet secrets --from gw1
    """
    found, hosts = _chosen(inventory, config, host, group)
    first = found.hosts([source])[0]
    targets = [one for one in hosts if one.name != source]
    with _alone(found, dry_run=dry_run):
        if not dry_run:
            _ask([f"{one.name} gets the secrets of {source}" for one in targets], yes)
        told = secrets.share(found, first, targets, dry_run=dry_run)
    lines = [f"{row['host']}: {', '.join(row['names']) or 'has them already'}" if row["ok"] else f"{row['host']}: {row['what']}" for row in told]
    ok = all(row["ok"] for row in told)
    return Result({"ok": ok, "done": not dry_run, "hosts": told}, lines, as_json=json, exit_code=0 if ok else 1)


@app.command("scale")
def scale_(
    count: Annotated[int | None, typer.Argument(metavar="[COUNT]", min=1, help="How many hosts there are to be.")] = None,
    wheelhouse: Annotated[Path | None, typer.Option("--wheelhouse", metavar="DIR", help="What new hosts get, as scripts/release makes it.")] = None,
    instances: Annotated[int, typer.Option("--instances", min=1, max=64, metavar="N", help="How many instances each new host runs.")] = 2,
    resume: Resume = False,
    take_back: TakeBack = False,
    inventory: File = None,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Make hosts, or give them back, by a command of your own (`fleet.scale.command`), without a request that fails.

    Example: coollm fleet scale 5 --wheelhouse wheelhouse --dry-run
    """
    found, how = find_inventory(inventory, config), Options(dry_run, yes, json, quiet)
    with _alone(found, dry_run=dry_run):
        if resume or take_back:
            return go_on(changes.host_of(found), "fleet-scale", how, abort=take_back)
        if count is None:
            raise UsageError("how many hosts?", "coollm fleet scale COUNT, or --resume, or --rollback")
        return change(changes.host_of(found), lambda: scale.plan(found, count, wheelhouse, instances), how)


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
    with _alone(found, dry_run=dry_run):
        return change(changes.host_of(found), lambda: configuration.plan(found, hosts, file, message), Options(dry_run, yes, json))


@app.command(hidden=True)
def claim(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What is claimed.")],
    owner: Annotated[str, typer.Option("--owner", metavar="WHO", help="For whom.")],
    seconds: Annotated[int, typer.Option("--seconds", metavar="N", min=1, max=600, help="For how long, if it is not prolonged.")] = 60,
    release: Annotated[bool, typer.Option("--release", help="Give it up.")] = False,
    config: options.Config = None,
    json: options.Json = False,
) -> Result:
    """Claim something in the store of this host's gateway, which may be that of others, too. Exit 6 if another has it.

    Example: coollm fleet claim fleet --owner tom@admin1
    """
    told = find_gateway(config).ask("/admin/v1/claims", {"name": name, "owner": owner, "seconds": seconds, "release": release})
    line = "it is given up" if release else f"{told['owner']} has it"
    return Result(told, [line], as_json=json, exit_code=0 if release or told["granted"] else LockHeld.exit_code)


@contextlib.contextmanager
def _alone(inventory: Inventory, *, dry_run: bool) -> Iterator[None]:
    """Nobody else changes the fleet meanwhile."""
    if dry_run:
        yield
        return
    with lease.FleetLease(inventory):
        yield


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
