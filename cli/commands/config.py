"""`coollm config`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from coollm_cli import options
from coollm_cli.output import Result, Table

from coollm.core.config.load import Loaded, load
from coollm.core.errors import ConfigurationError
from coollm.core.paths import find_config

app = typer.Typer(help="Validate, show and explain the configuration.", add_completion=False)


@app.callback()
def config_group() -> None:
    """Validate, show and explain the configuration."""


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
        "warnings": [fault.as_json() for fault in loaded.warnings],
    }
    if loaded.faults:
        return Result(data, as_json=json, exit_code=3, faults=loaded.faults)
    lines = [] if quiet else [f"{loaded.path}: valid"] + [f"note: {warning}" for warning in loaded.warnings]
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


def _loaded(config: Path | None) -> Loaded:
    loaded = load(find_config(config))
    if loaded.faults:
        raise ConfigurationError(loaded.faults)
    return loaded


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not set" if value is None else str(value)
