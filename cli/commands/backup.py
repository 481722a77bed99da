"""`coollm backup`: encrypted backups, and the proof that they can be restored."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from coollm_cli import options, output
from coollm_cli.ops.backup import create as making
from coollm_cli.ops.backup import prune as pruning
from coollm_cli.ops.backup import restore as restoring
from coollm_cli.ops.backup import schedule as scheduling
from coollm_cli.ops.backup.catalog import as_json, backups, choose, read_note
from coollm_cli.ops.backup.drill import drill as run_drill
from coollm_cli.ops.backup.encryption import read_identity, write_identity
from coollm_cli.ops.backup.in_place import in_place_plan
from coollm_cli.ops.backup.names import KINDS
from coollm_cli.ops.backup.opening import verify as verify_one
from coollm_cli.ops.backup.proof import ago, lasted, sized
from coollm_cli.ops.backup.recipe import recipe
from coollm_cli.ops.backup.records import Records
from coollm_cli.ops.backup.target import Target, find_target
from coollm_cli.ops.host import change_host
from coollm_cli.ops.operation import Options
from coollm_cli.output import Result, Table

from coollm.core.config.values import parse_instant
from coollm.core.errors import CoollmError, UsageError
from coollm.core.paths import admin_directory, find_config, state_directory

app = typer.Typer(help="Make, verify, restore and prove encrypted backups.", no_args_is_help=True, add_completion=False)

Place = Annotated[str | None, typer.Option("--target", metavar="PLACE", help="A directory or s3://BUCKET/PREFIX; beats backup.target.")]
Name = Annotated[str | None, typer.Argument(metavar="[BACKUP]", help="Its id, as `backup list` shows it; the newest if not given.")]
IdentityFile = Annotated[Path | None, typer.Option("--identity", metavar="FILE", help="The private key of a recipient, of age or ssh; `-` reads it.")]


@app.callback()
def backup() -> None:
    """Make, verify, restore and prove encrypted backups."""


@app.command()
def create(
    only: Annotated[Literal["config"] | None, typer.Option("--only", help="Configuration and secrets alone.")] = None,
    target: Place = None,
    recipient: Annotated[list[str] | None, typer.Option("--recipient", metavar="KEY", help="A public key; beats backup.recipients. May be repeated.")] = None,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Make a backup: copied at one moment, encrypted for public keys, read back where it was brought. The gateway goes on.

    Example: sudo coollm backup create --quiet
    """
    kind, keys = only or "full", tuple(recipient or ())
    found = change_host(config, state_dir, lambda path, state: making.create_plan(path, state, kind, target, keys), Options(dry_run, yes, json, quiet))
    return Result(found.data, [], exit_code=found.exit_code) if quiet and not json else found


@app.command("list")
def list_backups(target: Place = None, config: options.Config = None, state_dir: options.StateDirectory = None, json: options.Json = False) -> Result:
    """List the backups, with when each was verified and its restore was proven.

    Example: sudo coollm backup list
    """
    path, state, place = _place(config, state_dir, target)
    known = Records(admin_directory(path, state)).all()
    found = [as_json(one, known.get(one.name.text, Records.nothing)) for one in backups(place)]
    rows = [
        (
            one["id"],
            one["created"],
            sized(one["size_bytes"]),
            (one["whole"] and (one["verify_fault"] or one["verified"] or "-")) or "not whole",
            one["drill_fault"] or (f"{one['drilled']}, {lasted(one['drill_seconds'] or 0)}" if one["drilled"] else "-"),
        )
        for one in found
    ]
    return Result(
        {"target": place.url, "backups": found}, [Table(("id", "created", "size", "verified", "drilled"), rows, f"no backup in {place.url}")], as_json=json
    )


@app.command()
def verify(
    name: Name = None,
    deep: Annotated[bool, typer.Option("--deep", help="Decrypt it, and check every file and every table; needs --identity.")] = False,
    every: Annotated[bool, typer.Option("--all", help="All that are there.")] = False,
    identity: IdentityFile = None,
    target: Place = None,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Read a backup and compare all of it with what it has to be. Exit 4 if it is not.

    Example: sudo coollm backup verify --deep --identity recovery.key
    """
    path, state, place = _place(config, state_dir, target)
    keys = read_identity(identity) if deep or identity is not None else None
    chosen = [one for one in backups(place) if one.is_whole] if every else [choose(place, name, kinds=KINDS)]
    rows = []
    for one in chosen:
        record, manifest = verify_one(path, state, place, one.name.text, keys)
        rows.append(
            {"id": one.name.text, "ok": not record.verify_fault, "fault": record.verify_fault or None, "files": len(manifest.files) if manifest else None}
        )
    ok = all(row["ok"] for row in rows)
    lines = [f"{row['id']}: {row['fault'] or ('every file and table is as it has to be' if deep else 'is what was written')}" for row in rows]
    return Result({"ok": ok, "deep": keys is not None, "backups": rows}, [] if quiet and ok else lines, as_json=json, exit_code=0 if ok else 4)


@app.command()
def restore(
    name: Name = None,
    into: Annotated[Path | None, typer.Option("--into", metavar="DIR", help="Where to; ./ID if not given. Nothing of this host is changed.")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="In the place of what this host has, of which a copy is kept.")] = False,
    only: Annotated[Literal["config", "clients", "ledger", "secrets"] | None, typer.Option("--only", help="A part of it.")] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="TIME", help="The newest that was made by this time, UTC unless it says.")] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", metavar="HEX", help="What its archive has to have, as `backup create` and the audit log told it.")
    ] = None,
    print_recipe: Annotated[bool, typer.Option("--print-recipe", help="How it is done by hand, without coollm.")] = False,
    identity: IdentityFile = None,
    target: Place = None,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Restore a backup, to a directory or in place. All of it is checked before anything is changed.

    Example: sudo coollm backup restore --in-place --target s3://company-backups/coo-llm --identity recovery.key
    """
    path = find_config(config).absolute()
    state = state_directory(path, state_dir)
    moment = _moment(at)
    if in_place and into is not None:
        raise UsageError("--into and --in-place: one of them", "--into DIR changes nothing of this host")
    if print_recipe:
        return _recipe(path, state, target, name, as_json=json)
    if in_place:
        return change_host(config, state_dir, lambda *_: in_place_plan(path, state, target, name, moment, only, identity, sha256), Options(dry_run, yes, json))
    place, found = restoring.find(path, state, target, name, moment, only, sha256)
    directory = (into or Path(found.name.text)).absolute()
    if dry_run:
        return Result({"ok": True, "done": False, "id": found.name.text, "into": str(directory)}, [f"{found.name.text} to {directory}"], as_json=json)
    began = time.monotonic()
    manifest = restoring.restore_into(path, state, place, found, read_identity(identity), directory, only)
    seconds = round(time.monotonic() - began, 1)
    told = {"ok": True, "done": True, "id": manifest.name, "into": str(directory), "files": len(manifest.files), "rows": manifest.rows, "seconds": seconds}
    return Result(told, [f"{manifest.name}: {len(manifest.files)} files in {directory}, each as the manifest says, in {seconds:.0f} s"], as_json=json)


@app.command()
def drill(
    name: Name = None,
    identity: IdentityFile = None,
    target: Place = None,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Prove the newest backup: restore it aside, check it, boot a gateway from it and let clients ask it. Exit 4 if it does not hold.

    Example: sudo coollm backup drill --identity /etc/coollm/drill.key
    """
    path = find_config(config).absolute()
    found = run_drill(path, state_directory(path, state_dir), target, name, identity)
    lines = [f"{'ok' if one['ok'] else 'FAILED'}: {one['name']}: {one['detail']}" for one in found["checks"]]
    verdict = f"proven in {lasted(found['seconds'])}" if found["ok"] else "does NOT hold"
    lines.append(f"{found['id']}, made {ago(time.time() - found['age_seconds'])} ago, {verdict}")
    return Result(found, [] if quiet and found["ok"] else lines, as_json=json, exit_code=0 if found["ok"] else 4)


@app.command()
def prune(
    target: Place = None,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Remove backups of this host that `backup.keep` does not ask for; never the newest, nor the last that was proven.

    Example: sudo coollm backup prune --dry-run
    """
    return change_host(config, state_dir, lambda path, state: pruning.prune_plan(path, state, target), Options(dry_run, yes, json, quiet))


@app.command()
def schedule(
    scheduler: Annotated[Literal["systemd", "cron"], typer.Option("--scheduler", help="Who runs them.")] = "systemd",
    off: Annotated[bool, typer.Option("--off", help="Nothing any more.")] = False,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Let backups, pruning and drills run when `backup.schedule` says.

    Example: sudo coollm backup schedule
    """
    return change_host(config, state_dir, lambda path, state: scheduling.schedule_plan(path, state, scheduler, off=off), Options(dry_run, yes, json, quiet))


@app.command()
def keygen(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key goes; it belongs in a safe, and not on this host.")],
    json: options.Json = False,
) -> Result:
    """Make a pair of keys of age: the private one to a file, the public one to be put in backup.recipients.

    Example: coollm backup keygen recovery.key
    """
    public = write_identity(file)
    lines = [f"public key: {public}", f"{file} has the private key: whoever has it can read the backups, and without it nobody can"]
    return Result({"recipient": public, "file": str(file)}, lines, as_json=json)


def _place(config: Path | None, state_dir: Path | None, target: str | None) -> tuple[Path, Path, Target]:
    path = find_config(config).absolute()
    state = state_directory(path, state_dir)
    settings = restoring.settings_or_none(path, state)
    return path, state, find_target(settings.backup if settings else None, path, state, target)


def _moment(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_instant(text).timestamp()
    except ValueError as error:
        raise UsageError(f"--at {text}: {error}") from error


def _recipe(config: Path, state: Path, target: str | None, name: str | None, *, as_json: bool) -> Result:
    settings = restoring.settings_or_none(config, state)
    place = find_target(settings.backup if settings else None, config, state, target)
    note = None
    try:
        note = read_note(place, choose(place, name, kinds=KINDS).name.text)
    except CoollmError as error:
        output.warn(f"{error.message}: the names below are an example")
    lines = recipe(note, place.url)
    return Result({"recipe": lines}, lines, as_json=as_json)
