"""`coollm monitoring`: files for Prometheus, Alertmanager, Grafana and log shippers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops.monitoring import render as ops
from coollm_cli.output import Result

from coollm.core.config.load import load
from coollm.core.config.values import Address
from coollm.core.paths import find_config, log_directory, state_directory

app = typer.Typer(help="Write and check files for Prometheus, Alertmanager and Grafana.", no_args_is_help=True, add_completion=False)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Where the files are.")]


@app.callback()
def monitoring() -> None:
    """Write and check files for Prometheus, Alertmanager and Grafana."""


@app.command()
def render(
    directory: Directory,
    target: Annotated[
        list[str] | None, typer.Option("--target", metavar="HOST:PORT", help="A gateway to scrape, after https:// if it speaks TLS; this host's if not given.")
    ] = None,
    ca_file: Annotated[
        str | None, typer.Option("--ca-file", metavar="FILE", help="Who signs their certificates, PEM; the system's authorities if not given.")
    ] = None,
    webhook: Annotated[str, typer.Option("--webhook", metavar="URL", help="Where Alertmanager sends alerts of every severity.")] = "http://127.0.0.1:9099/",
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Write scrape and alert rules, routes by severity, two dashboards and samples for log shippers.

    Example: coollm monitoring render /etc/prometheus/coollm --target gw1:2906 --target gw2:2906
    """
    path = find_config(config).absolute()
    targets = target or [_own_address(path)]
    changed = ops.render(directory, targets, webhook, str(log_directory(path, state_directory(path, state_dir))), ca_file, dry_run=dry_run)
    would = "would be written" if dry_run else "written"
    lines = [f"{directory / name} {would}" for name in changed] or [f"{directory}: every file is as it has to be"]
    return Result({"directory": str(directory), "changed": changed, "done": not dry_run}, [] if quiet and not changed else lines, as_json=json)


@app.command()
def check(
    directory: Directory,
    prometheus: Annotated[str | None, typer.Option("--prometheus", metavar="URL", help="A running Prometheus, which has to have data for every query.")] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Let promtool and amtool check the files, and a running Prometheus whether every query returns data. Exit 4 if not.

    Example: coollm monitoring check /etc/prometheus/coollm --prometheus http://127.0.0.1:9090
    """
    found = ops.check(directory, prometheus)
    faults = [one for one in found if not one["ok"]]
    lines = [f"{one['check']}: {one['detail']}" for one in faults] or [
        *(f"{one['check']}: {one['detail']}" for one in found if one["detail"]),
        f"{len(found)} checks, and all of them hold",
    ]
    return Result({"ok": not faults, "checks": found}, [] if quiet and not faults else lines, as_json=json, exit_code=4 if faults else 0)


def _own_address(config: Path) -> str:
    settings = load(config).settings
    listen = settings.server.listen if settings is not None else Address("127.0.0.1", 2906)
    address = str(Address(listen.reachable_host, listen.port))
    return f"https://{address}" if settings is not None and settings.server.tls is not None else address
