"""`coollm lb`: the load balancers in front of a fleet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer
from coollm_cli import options
from coollm_cli.ops.fleet import haproxy, nginx, reload, steering
from coollm_cli.ops.fleet.changes import host_of, parameters_of, reached
from coollm_cli.ops.fleet.inventory import Inventory, find_inventory
from coollm_cli.ops.operation import Options, change
from coollm_cli.output import Result, Table

from coollm.core.config.fleet import FleetHost
from coollm.core.errors import OperationFailed, UsageError
from coollm.core.files import replace_file

app = typer.Typer(help="Write haproxy's configuration, and steer what it sends to each host.", no_args_is_help=True, add_completion=False)

File = Annotated[Path | None, typer.Option("--inventory", metavar="FILE", help="Where the hosts are named; beats fleet.yaml and the configuration.")]
Host = Annotated[str, typer.Argument(metavar="HOST", help="The host, by its name in the inventory.")]
WORD = re.compile(r"[A-Za-z0-9_./:@*\[\]\-]{1,250}")
COLUMNS = ("load balancer", "host", "status", "weight", "sessions", "queued", "per second", "refused", "check")


@app.callback()
def lb() -> None:
    """Write haproxy's configuration, and steer what it sends to each host."""


@app.command()
def render(
    kind: Annotated[Literal["haproxy", "nginx"], typer.Option("--kind", help="Whose configuration.")] = "haproxy",
    firewall: Annotated[bool, typer.Option("--firewall", help="nginx: ModSecurity with the OWASP core rule set before it.")] = False,
    upstream: Annotated[
        list[str] | None, typer.Option("--upstream", metavar="HOST:PORT", help="nginx: what it stands before instead of the hosts; again for more.")
    ] = None,
    bind: Annotated[str, typer.Option("--bind", metavar="[HOST]:PORT", help="Where it listens.")] = ":443",
    certificate: Annotated[
        str | None, typer.Option("--certificate", metavar="FILE", help="Chain and key in one PEM file: TLS with HTTP/2 and HTTP/1.1.")
    ] = None,
    max_body_mb: Annotated[int, typer.Option("--max-body-mb", min=1, metavar="N", help="Larger requests are refused; server.max_body_mb.")] = 50,
    rate: Annotated[int, typer.Option("--rate", min=1, metavar="N", help="Requests of one address in ten seconds.")] = 1000,
    admin_from: Annotated[
        list[str] | None, typer.Option("--admin-from", metavar="NETWORK", help="Who may reach /admin, /ui and /metrics; nobody if not given.")
    ] = None,
    stick: Annotated[str | None, typer.Option("--stick", metavar="HEADER", help="Requests with the same value of a header go to the same host.")] = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="NAME", help="Who it runs as, haproxy or www-data if not given; none leaves it as it was started.")
    ] = None,
    socket: Annotated[str, typer.Option("--socket", metavar="PATH", help="Its runtime socket.")] = f"{haproxy.RUN}/admin.sock",
    metrics: Annotated[str, typer.Option("--metrics", metavar="HOST:PORT", help="Where Prometheus may ask haproxy itself.")] = "127.0.0.1:8405",
    nameserver: Annotated[
        str | None, typer.Option("--nameserver", metavar="HOST:PORT", help="haproxy: who knows hosts whose addresses change, as those of containers do.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there; else it is printed.")] = None,
    inventory: File = None,
    config: options.Config = None,
    json: options.Json = False,
) -> Result:
    """Write the configuration of haproxy (or nginx) in front of the hosts: TLS, streams, a first wall, and hosts that leave by their /ready.

    Example: coollm lb render --certificate /etc/haproxy/coollm.pem --admin-from 10.1.0.0/16 --out /etc/haproxy/haproxy.cfg
    """
    given = {
        "--bind": bind,
        "--certificate": certificate,
        "--stick": stick,
        "--user": user,
        "--socket": socket,
        "--metrics": metrics,
        "--nameserver": nameserver,
    }
    listed = [("--admin-from", one) for one in admin_from or ()] + [("--upstream", one) for one in upstream or ()]
    for name, value in (*given.items(), *listed):
        if value is not None and not WORD.fullmatch(value):
            raise UsageError(f"{name} '{value[:80]}': it is written into another program's configuration", "letters, digits and ./:@_*[]- alone")
    found = find_inventory(inventory, config)
    if kind == "nginx":
        if stick is not None:
            raise UsageError("--stick is haproxy's alone", "leave it out, or --kind haproxy")
        return _written(nginx.render(found, _of_nginx(bind, certificate, max_body_mb, rate, admin_from, user, upstream, firewall)), out, "nginx -t -c", json)
    if firewall or upstream:
        raise UsageError("--firewall and --upstream are nginx's", "--kind nginx")
    wanted = haproxy.Options(
        bind=bind,
        certificate=certificate,
        max_body_mb=max_body_mb,
        requests_per_10_seconds=rate,
        admin_from=tuple(admin_from or ()),
        stick=stick,
        user=None if user == "none" else user or "haproxy",
        socket=socket,
        metrics=metrics,
        nameserver=nameserver,
    )
    return _written(haproxy.render(found, wanted), out, "haproxy -c -f", json)


def _of_nginx(
    bind: str, certificate: str | None, max_body_mb: int, rate: int, admin_from: list[str] | None, user: str | None, upstream: list[str] | None, firewall: bool
) -> nginx.Options:
    return nginx.Options(
        bind=bind,
        certificate=certificate,
        max_body_mb=max_body_mb,
        requests_per_10_seconds=rate,
        admin_from=tuple(admin_from or ()),
        user=None if user == "none" else user or "www-data",
        upstream=tuple(upstream or ()),
        is_firewall=firewall,
    )


def _written(text: str, out: Path | None, check: str, json: bool) -> Result:
    if out is None:
        return Result({"text": text}, [text.rstrip()], as_json=json)
    try:
        replace_file(out, text.encode(), mode=0o644)
    except OSError as error:
        raise OperationFailed(f"--out {out}: cannot be written: {error.strerror}", "name another file") from error
    return Result({"file": str(out)}, [f"{out} is written; check it with {check} {out}, then systemctl reload {check.split()[0]}"], as_json=json)


@app.command("reload")
def reload_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What lb render wrote.")],
    target: Annotated[str, typer.Option("--target", metavar="PATH", help="Where the load balancers have it.")] = "/etc/haproxy/haproxy.cfg",
    inventory: File = None,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Put a configuration of haproxy in force on every load balancer, or on none: all check it first, and a reload loses no connection.

    Example: coollm lb reload haproxy.cfg --dry-run
    """
    found = find_inventory(inventory, config)
    return change(host_of(found), lambda: reload.plan(found, file, target), Options(dry_run, yes, json, quiet))


@app.command()
def status(inventory: File = None, config: options.Config = None, json: options.Json = False) -> Result:
    """Show what every load balancer thinks of each host. Exit 4 if one of them gets nothing.

    Example: coollm lb status
    """
    found = find_inventory(inventory, config)
    if not found.fleet.load_balancers:
        raise OperationFailed(f"{found.file} names no load balancers", "fleet: {load_balancers: [{name: lb1, address: lb1.company.com}]}")
    with reached(parameters_of(found, [])) as (_, _, balancers):
        rows = balancers.servers()
    cells = [
        (row["load_balancer"], row["host"], row["status"], row["weight"], row["sessions"], row["queued"], row["per_second"], row["refused"], row["check"])
        for row in rows
    ]
    ok = all(row["status"] == "UP" and row["weight"] for row in rows)
    return Result({"ok": ok, "servers": rows}, [Table(COLUMNS, cells, "it has no servers")], as_json=json, exit_code=0 if ok else 4)


@app.command()
def weight(
    host: Host,
    value: Annotated[int, typer.Argument(metavar="WEIGHT", min=0, max=256, help="Its share beside the others', 0 to 256.")],
    inventory: File = None,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Give a host another weight in every load balancer, until haproxy is reloaded.

    Example: coollm lb weight gw2 50
    """
    found, one = _one(inventory, config, host)
    return change(host_of(found), lambda: steering.plan(found, one, weight=value), Options(dry_run, yes, json, quiet))


@app.command()
def drain(
    host: Host,
    off: Annotated[bool, typer.Option("--off", help="Requests come to it again.")] = False,
    inventory: File = None,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Let no new request come to a host; what runs there goes on.

    Example: coollm lb drain gw2
    """
    found, one = _one(inventory, config, host)
    return change(host_of(found), lambda: steering.plan(found, one, is_drained=not off), Options(dry_run, yes, json, quiet))


def _one(inventory: Path | None, config: Path | None, host: str) -> tuple[Inventory, FleetHost]:
    found = find_inventory(inventory, config)
    return found, found.hosts([host])[0]
