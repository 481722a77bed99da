"""`coollm firewall`: this host's own."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from coollm_cli import options
from coollm_cli.ops import firewall as ops
from coollm_cli.ops.host import change_host
from coollm_cli.ops.operation import Options
from coollm_cli.output import Result

from coollm.core.paths import find_config, state_directory

app = typer.Typer(help="Close this host but for ssh and the gateway.", no_args_is_help=True, add_completion=False)

Backend = Annotated[Literal["nftables", "ufw"] | None, typer.Option("--backend", help="Whose rules; nftables where it is installed.")]
SshPort = Annotated[list[int] | None, typer.Option("--ssh-port", metavar="N", help="Where sshd listens, if it does not say so itself.")]
SshFrom = Annotated[list[str] | None, typer.Option("--ssh-from", metavar="NETWORK", help="Who may use ssh; everybody if not given. Give it again for more.")]
Confirm = Annotated[str, typer.Option("--confirm-within", metavar="TIME", help="It is taken back unless you confirm it by then.")]


@app.callback()
def firewall() -> None:
    """Close this host but for ssh and the gateway."""


@app.command()
def plan(
    backend: Backend = None,
    ssh_port: SshPort = None,
    ssh_from: SshFrom = None,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    json: options.Json = False,
) -> Result:
    """Show what `firewall apply` would do, and the rules.

    Example: sudo coollm firewall plan --ssh-from 10.1.0.0/16
    """
    path = find_config(config).absolute()
    found = ops.plan(path, state_directory(path, state_dir), backend, ssh_port or [], ssh_from or [], "2m")
    rules = found.parameters.get("rules", "") if found.parameters.get("backend") == "nftables" else ""
    data = {"changes": bool(found.steps), "notes": list(found.notes), "steps": [step.text for step in found.steps], "rules": rules}
    lines = [*found.notes, *(f"  {step.text}" for step in found.steps), *([rules.rstrip()] if rules else [])] if found.steps else [found.nothing]
    return Result(data, lines, as_json=json)


@app.command()
def apply(
    backend: Backend = None,
    ssh_port: SshPort = None,
    ssh_from: SshFrom = None,
    confirm_within: Confirm = "2m",
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Close this host but for ssh and the gateway; it is taken back by itself unless `firewall confirm` is said from a new login.

    Example: sudo coollm firewall apply --ssh-from 10.1.0.0/16 --confirm-within 2m
    """
    return change_host(
        config, state_dir, lambda path, state: ops.plan(path, state, backend, ssh_port or [], ssh_from or [], confirm_within), Options(dry_run, yes, json)
    )


@app.command()
def confirm(config: options.Config = None, yes: options.Yes = False, dry_run: options.DryRun = False, json: options.Json = False) -> Result:
    """Keep the firewall that was just applied, also after a restart of the host.

    Example: sudo coollm firewall confirm
    """
    return change_host(config, None, lambda *_: ops.confirm_plan(), Options(dry_run, yes, json))


@app.command()
def off(config: options.Config = None, yes: options.Yes = False, dry_run: options.DryRun = False, json: options.Json = False) -> Result:
    """Take the firewall away.

    Example: sudo coollm firewall off --yes
    """
    return change_host(config, None, lambda *_: ops.off_plan(), Options(dry_run, yes, json))
