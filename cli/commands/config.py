"""`coollm config`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.ops.host import change_host
from coollm_cli.ops.operation import Options
from coollm_cli.ops.times import moment
from coollm_cli.output import Result, Table

from coollm.core.config.generations import Generations
from coollm.core.config.load import Loaded, load, secrets_in_clear
from coollm.core.errors import ConfigurationError
from coollm.core.paths import find_config, state_directory

app = typer.Typer(help="Validate, show, explain and apply the configuration.", add_completion=False)


@app.callback()
def config_group() -> None:
    """Validate, show, explain and apply the configuration."""


@app.command("validate")
def validate(
    file: Annotated[Path | None, typer.Argument(help="The file; the configuration in force if not given.")] = None,
    config: options.Config = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Check a configuration and tell all its faults at once, each with line and column. Exit 3 if there is one.

    Example: coollm config validate new.yaml
    """
    loaded = load(find_config(file or config))
    data = {
        "valid": not loaded.faults,
        "errors": [fault.as_json() for fault in loaded.faults],
        "warnings": [fault.as_json() for fault in (*loaded.warnings, *secrets_in_clear(loaded))],
    }
    if loaded.faults:
        return Result(data, as_json=json, exit_code=3, faults=loaded.faults)
    lines = [] if quiet else [f"{loaded.path}: valid"] + [f"note: {warning}" for warning in (*loaded.warnings, *secrets_in_clear(loaded))]
    return Result(data, lines, as_json=json)


@app.command("show")
def show(
    origin: Annotated[bool, typer.Option("--origin", help="Where each value comes from.")] = False,
    config: options.Config = None,
    json: options.Json = False,
) -> Result:
    """Show the effective values, defaults included, secrets masked.

    Example: coollm config show --origin
    """
    from coollm.core.config.explain import explain_all, plain

    loaded = _loaded(config)
    if origin:
        rows = explain_all(loaded)
        data = {"values": [{"path": row.path, "value": row.value, "origin": row.origin, "where": row.where} for row in rows]}
        return Result(data, [Table(("path", "value", "from"), [(row.path, _shown(row.value), row.where) for row in rows])], as_json=json)
    import yaml

    values = plain(loaded.settings)
    return Result(values, [yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip()], as_json=json)


@app.command("explain")
def explain(
    path: Annotated[str, typer.Argument(help="A key, such as policy.retry.max_attempts, or a section.")],
    config: options.Config = None,
    json: options.Json = False,
) -> Result:
    """Tell which file, line, variable or default gave a value, and what the key means.

    Example: coollm config explain storage.runtime
    """
    from coollm.core.config.explain import explain_path

    rows = explain_path(_loaded(config), path)
    data = {"values": [{"path": row.path, "value": row.value, "origin": row.origin, "where": row.where, "description": row.description} for row in rows]}
    table = Table(("path", "value", "from", "meaning"), [(row.path, _shown(row.value), row.where, row.description) for row in rows])
    return Result(data, [table], as_json=json)


@app.command("schema")
def schema() -> Result:
    """Print the JSON Schema of the configuration, for editors and CI.

    Example: coollm config schema > coollm.schema.json
    """
    from coollm.core.config.json_schema import json_schema

    return Result(json_schema(), as_json=True)


@app.command("diff")
def diff(
    first: Annotated[str | None, typer.Argument(metavar="A", help="A generation's number, or a file; by default the generation in force.")] = None,
    second: Annotated[str | None, typer.Argument(metavar="B", help="The same; by default the configuration's own file.")] = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 4 if there is a difference.")] = False,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    json: options.Json = False,
) -> Result:
    """Show what differs between two configurations, secrets masked.

    Example: coollm config diff 3 4
    """
    from coollm_cli.ops.apply import diff_lines

    path = find_config(config).absolute()
    lines = diff_lines(path, state_directory(path, state_dir), first, second)
    data = {"differs": bool(lines), "diff": lines}
    return Result(data, lines or ["no difference"], as_json=json, exit_code=4 if lines and exit_code else 0)


Message = Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="Why, for `config history` and the audit log.")]
ConfirmWithin = Annotated[str | None, typer.Option("--confirm-within", metavar="TIME", help="Revert after so long, unless `coollm config confirm` is said.")]


@app.command("apply")
def apply(
    file: Annotated[Path, typer.Argument(help="The new configuration.")],
    confirm_within: ConfirmWithin = None,
    message: Message = None,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Apply a configuration to every worker of every instance, without a restart. Exit 7 if it was taken back, since one was not healthy with it.

    Example: sudo coollm config apply new.yaml --confirm-within 5m --message "claude for the night"
    """
    from coollm_cli.ops.apply import apply_plan, confirm_seconds

    seconds = confirm_seconds(confirm_within)
    return change_host(config, state_dir, lambda path, state: apply_plan(path, state, file, seconds, message), Options(dry_run, yes, json, quiet))


@app.command("confirm")
def confirm(
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Keep a configuration that was applied with --confirm-within.

    Example: sudo coollm config confirm
    """
    from coollm_cli.ops.apply import confirm_plan

    return change_host(config, state_dir, confirm_plan, Options(dry_run, yes, json, quiet))


@app.command("history")
def history(config: options.Config = None, state_dir: options.StateDirectory = None, json: options.Json = False) -> Result:
    """List the generations that were applied, the newest first.

    Example: coollm config history
    """
    path = find_config(config).absolute()
    found = Generations(path, state_directory(path, state_dir)).listed()
    rows = [
        (
            one["number"],
            moment(one["applied"]),
            one["by"],
            one["reason"],
            one["digest"][:12],
            "in force, unconfirmed" if one["unconfirmed"] else "in force" if one["in_force"] else "",
        )
        for one in found
    ]
    table = Table(("generation", "applied", "by", "reason", "sha256", ""), rows, "no configuration was applied yet")
    return Result({"generations": found}, [table], as_json=json)


@app.command("rollback")
def rollback(
    number: Annotated[int | None, typer.Argument(metavar="N", help="The generation; by default the one before.")] = None,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Put an earlier generation in force again, in the same way as `config apply`.

    Example: sudo coollm config rollback 3
    """
    from coollm_cli.ops.apply import rollback_plan

    return change_host(config, state_dir, lambda path, state: rollback_plan(path, state, number), Options(dry_run, yes, json, quiet))


def _loaded(config: Path | None) -> Loaded:
    loaded = load(find_config(config))
    if loaded.faults:
        raise ConfigurationError(loaded.faults)
    return loaded


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not set" if value is None else str(value)
