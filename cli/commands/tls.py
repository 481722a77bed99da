"""`coollm tls`: the gateway's own certificate."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops import tls as ops
from coollm_cli.ops.host import change_host
from coollm_cli.ops.operation import Options
from coollm_cli.output import Result, Table

from coollm.core.errors import UsageError
from coollm.core.paths import find_config, state_directory

app = typer.Typer(help="Show the gateway's certificate, and renew it while it runs.", no_args_is_help=True, add_completion=False)

From = Annotated[Path | None, typer.Option("--from", metavar="DIR", help="A directory with fullchain.pem and privkey.pem; certbot's deploy hooks need none.")]
SelfSigned = Annotated[bool, typer.Option("--self-signed", help="Make a pair that is signed by itself, for a start.")]
Names = Annotated[list[str] | None, typer.Option("--name", metavar="HOST", help="With --self-signed: a host it is for; give it again for more.")]


@app.callback()
def tls() -> None:
    """Show the gateway's certificate, and renew it while it runs."""


@app.command()
def status(config: options.Config = None, state_dir: options.StateDirectory = None, json: options.Json = False, quiet: options.Quiet = False) -> Result:
    """Show the certificate: for which hosts it is, until when, and whether it is what the gateway serves. Exit 4 if something is wrong with it.

    Example: coollm tls status
    """
    path = find_config(config).absolute()
    found, faults = ops.status(path, state_directory(path, state_dir))
    shown = [(name, ", ".join(value) if isinstance(value, list) else value) for name, value in found.items() if name not in ("begins", "ends", "faults")]
    lines: list[str | Table] = [] if quiet and not faults else [Table(("field", "value"), shown), *faults]
    return Result(found, lines, as_json=json, exit_code=4 if faults else 0)


@app.command()
def renew(
    source: From = None,
    self_signed: SelfSigned = False,
    name: Names = None,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Put another certificate and key in the place of the files; the gateway serves them within two seconds, and no connection is lost.

    As a deploy hook of certbot it takes the pair that was just renewed: certbot renew --deploy-hook 'coollm tls renew --quiet --yes'

    Example: sudo coollm tls renew --from /etc/letsencrypt/live/gateway.company.com
    """
    if name and not self_signed:
        raise UsageError("--name is for --self-signed", "the names of another certificate are its own")
    names = tuple(name or (socket.getfqdn(), "localhost", "127.0.0.1")) if self_signed else None
    return change_host(config, state_dir, lambda path, state: ops.renew_plan(path, state, source, names), Options(dry_run, yes, json, quiet))
