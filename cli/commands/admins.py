"""`coollm admins`: who may administer the gateway over its admin API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from coollm_cli import options
from coollm_cli.ops import identities
from coollm_cli.ops.directory import try_directory
from coollm_cli.ops.host import change_host
from coollm_cli.ops.operation import Options, Plan
from coollm_cli.ops.secret_input import read_secret
from coollm_cli.ops.times import moment
from coollm_cli.output import Result, Table

from coollm.core.paths import find_config, state_directory

app = typer.Typer(help="Make and revoke administrators; test the directory server.", no_args_is_help=True, add_completion=False)

Id = Annotated[str, typer.Argument(metavar="ID", help="The administrator, by the id.")]
Role = Annotated[Literal["viewer", "operator", "admin"], typer.Option("--role", help="What may be done: look; set limits and test keys; everything.")]
Overlap = Annotated[str, typer.Option("--overlap", metavar="TIME", help="How long the old keys go on; 0 ends them at once.")]
PasswordFile = Annotated[Path | None, typer.Option("--password-file", metavar="FILE", help="Where the password is; else it is asked for, or read.")]
COLUMNS = ("administrator", "role", "source", "status", "keys", "last used")


@app.callback()
def admins() -> None:
    """Make and revoke administrators; test the directory server.

    Whoever is root on the host, or the gateway's own user, needs no key: every command works there, also while a directory server is down.
    """


@app.command()
def create(
    admin: Id,
    role: Role = "viewer",
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Make an administrator. The key is shown this once, and kept as a keyed hash.

    Example: sudo coollm admins create ann --role operator
    """
    return change_host(config, None, lambda path, _: identities.create_plan(path, "admin", admin, {"role": role}), Options(dry_run, yes, json))


@app.command("list")
def list_admins(config: options.Config = None, json: options.Json = False) -> Result:
    """List the administrators with their roles.

    Example: coollm admins list
    """
    found = identities.rows_of(config, "admin")
    return Result({"admins": found}, [Table(COLUMNS, [_cells(row) for row in found], "there is none but this host's own")], as_json=json)


@app.command()
def role(
    admin: Id,
    role: Annotated[Literal["viewer", "operator", "admin"], typer.Argument(metavar="viewer|operator|admin", help="The new role.")],
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Give an administrator another role.

    Example: sudo coollm admins role ann admin
    """
    return change_host(config, None, lambda path, _: identities.change_plan(path, "admin", admin, {"role": role}), Options(dry_run, yes, json))


@app.command()
def rotate(
    admin: Id,
    overlap: Overlap = "24h",
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Give an administrator another key; the old ones go on for a while.

    Example: sudo coollm admins rotate ann --overlap 1h
    """
    return change_host(config, None, lambda path, _: identities.rotate_plan(path, "admin", admin, overlap), Options(dry_run, yes, json))


@app.command()
def revoke(
    admin: Id,
    undo: Annotated[bool, typer.Option("--undo", help="Let the administrator in again.")] = False,
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Shut an administrator out within a second, with every session; a name of the directory server, too.

    Example: sudo coollm admins revoke ann
    """

    def plan(path: Path, _: Path) -> Plan:
        known = {row["id"] for row in identities.rows_of(path, "admin")}
        if admin not in known and not undo:
            return identities.shut_out_plan(path, admin)
        return identities.change_plan(path, "admin", admin, {"revoked": not undo})

    return change_host(config, None, plan, Options(dry_run, yes, json))


@app.command()
def delete(admin: Id, config: options.Config = None, yes: options.Yes = False, dry_run: options.DryRun = False, json: options.Json = False) -> Result:
    """Remove an administrator with the keys.

    Example: sudo coollm admins delete ann --yes
    """
    return change_host(config, None, lambda path, _: identities.delete_plan(path, "admin", admin), Options(dry_run, yes, json))


@app.command()
def reset(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The name that signs in: of the directory server, an administrator's id, or server.webui.admin_id.")
    ],
    config: options.Config = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Take somebody's second factor away, such as when the authenticator is lost, and end every session in the console.

    Example: sudo coollm admins reset ann --yes
    """
    return change_host(config, None, lambda path, _: identities.reset_plan(path, name), Options(dry_run, yes, json))


@app.command("test")
def try_login(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Log this user in; without one the service's own bind is tried.")] = None,
    file: Annotated[Path | None, typer.Option("--file", metavar="FILE", help="A configuration that is not applied yet.")] = None,
    password_file: PasswordFile = None,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    json: options.Json = False,
) -> Result:
    """Try the directory server of a configuration before it is applied: the bind, the search, a login, and the role it comes to. Exit 4 without a role.

    Example: sudo coollm admins test ann --file new.yaml
    """
    path = find_config(config).absolute()
    password = read_secret(f"password of {name}", password_file) if name is not None else ""
    found = try_directory(path, state_directory(path, state_dir), file, name, password)
    if name is not None and found["role"] is None:
        lines = [f"{found['dn']} is let in, and no group of this user has a role: auth.roles"]
        return Result(found, lines, as_json=json, exit_code=4)
    lines = [f"{found['server']} answers"] if name is None else [f"{found['dn']}: {found['role']}"]
    return Result(found, lines, as_json=json)


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    last = max((key["last_used_ms"] or 0 for key in row["keys"]), default=0)
    used = moment(last / 1000)
    keys = ", ".join(key["prefix"] for key in row["keys"] if not key["expired"])
    return (row["id"], row["role"], row["source"], "revoked" if row["revoked"] else "active", keys, used)
