"""`coollm keys`: the keys of vendors, while the gateway runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from coollm_cli import options
from coollm_cli.ops import vendor_keys as ops
from coollm_cli.ops.gateway_client import find_gateway
from coollm_cli.ops.host import change_host, host_of
from coollm_cli.ops.operation import Options, change, go_on
from coollm_cli.ops.secret_input import read_secret
from coollm_cli.ops.times import moment
from coollm_cli.output import Result, Table

from coollm.core.errors import UsageError
from coollm.core.paths import find_config, state_directory

app = typer.Typer(help="Add, rotate, retire and test vendor keys.", no_args_is_help=True, add_completion=False)

Provider = Annotated[str, typer.Argument(metavar="PROVIDER", help="The provider, by its id.")]
Key = Annotated[str, typer.Argument(metavar="KEY_ID", help="The key, by its id in `coollm keys list`.")]
File = Annotated[Path | None, typer.Option("--file", metavar="FILE", help="Read the new key from a file; else from a prompt, or from standard input.")]
Share = Annotated[str, typer.Option("--share", metavar="PERCENT", help="The part of the provider's requests that the new key gets at first.")]
SoakTime = Annotated[str, typer.Option("--soak", metavar="TIME", help="For how long; 0 gives it its full share at once.")]
Model = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Ask for this model of the vendor in the probe.")]
QuietFor = Annotated[str, typer.Option("--quiet-for", metavar="TIME", help="A key is retired when nobody has used it for so long.")]
COLUMNS = ("provider", "key", "source", "state", "share", "requests 24h", "last used", "failures", "latency ms")


@app.callback()
def keys() -> None:
    """Add, rotate, retire and test vendor keys."""


@app.command("list")
def list_keys(config: options.Config = None, json: options.Json = False) -> Result:
    """List every vendor key: its state, its share of the requests, and when it was used last.

    Example: coollm keys list
    """
    found = ops.rows(config, uses=True)
    rows: list[tuple[Any, ...]] = [
        (
            row["provider"],
            row["key"],
            row["source"],
            row["state"] + (f": {row['cause']}" if row["cause"] else ""),
            f"{row['share']:.3g}",
            row["requests_24h"],
            moment((row["last_used_ms"] or 0) / 1000),
            row["failures"],
            row["latency_ms"],
        )
        for row in found["keys"]
    ]
    rows += [(row["provider"], row["key"], None, "retired", None, None, None, None, None) for row in found["retired"]]
    return Result(found, [Table(COLUMNS, rows, "no vendor key is configured")], as_json=json)


@app.command()
def add(
    provider: Provider,
    file: File = None,
    share: Share = "5%",
    soak: SoakTime = "5m",
    model: Model = None,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Add a vendor key: a live probe, then a share of the requests beside the other keys, then its full share. One that fails is taken out again.

    Example: sudo coollm keys add openai --file new-key.txt --share 5% --soak 10m
    """
    how = ops.Soak.read(share, soak)
    value = "" if dry_run else read_secret(f"the new key of {provider}", file)
    return change_host(
        config, state_dir, lambda path, state: ops.add_plan(path, state, provider, value, how, model, dry_run=dry_run), Options(dry_run, yes, json)
    )


@app.command()
def rotate(
    provider: Annotated[str | None, typer.Argument(metavar="PROVIDER", help="The provider, by its id.")] = None,
    key: Annotated[str | None, typer.Argument(metavar="KEY_ID", help="The key that goes, by its id in `coollm keys list`.")] = None,
    file: File = None,
    share: Share = "5%",
    soak: SoakTime = "5m",
    model: Model = None,
    quiet_for: QuietFor = "1m",
    resume: Annotated[bool, typer.Option("--resume", help="Finish a rotation that was broken off.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Take a rotation back that was broken off.")] = False,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Put another vendor key in the place of one: added and proved as by `keys add`; then the old one is taken out of new requests, and retired.

    Example: sudo coollm keys rotate openai 4f1c0a92 --file new-key.txt
    """
    path = find_config(config).absolute()
    state = state_directory(path, state_dir)
    how = Options(dry_run, yes, json)
    if resume or abort:
        if provider is not None or (resume and abort):
            raise UsageError("--resume and --abort stand alone", "coollm keys rotate --resume")
        return go_on(host_of(path, state), "vendor-key", how, abort=abort)
    if provider is None or key is None:
        raise UsageError("a provider and one of its keys are missing", "coollm keys list")
    canary = ops.Soak.read(share, soak)
    value = "" if dry_run else read_secret(f"the new key of {provider}", file)
    return change(
        host_of(path, state),
        lambda: ops.rotate_plan(path, state, provider, key, value, canary, model, quiet_for, dry_run=dry_run),
        how,
    )


@app.command()
def retire(
    provider: Provider,
    key: Key,
    quiet_for: QuietFor = "10m",
    drain: Annotated[bool, typer.Option("--drain", help="Give it no new requests first, and wait until nobody has used it for that long.")] = False,
    config: options.Config = None,
    state_dir: options.StateDirectory = None,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> Result:
    """Take a vendor key out for good. Refused while it was used lately: who used it, and when, is said.

    Example: sudo coollm keys retire openai 4f1c0a92 --quiet-for 10m
    """
    return change_host(config, state_dir, lambda path, state: ops.retire_plan(path, state, provider, key, quiet_for, drain=drain), Options(dry_run, yes, json))


@app.command("test")
def try_keys(
    provider: Annotated[str | None, typer.Argument(metavar="[PROVIDER]", help="Only this provider.")] = None,
    key: Annotated[str | None, typer.Argument(metavar="[KEY_ID]", help="Only this key.")] = None,
    model: Model = None,
    config: options.Config = None,
    json: options.Json = False,
) -> Result:
    """Send one live request with every vendor key, past routing and limits. Exit 4 if a key does not work.

    Example: sudo coollm keys test openai
    """
    asked: dict[str, Any] = {name: value for name, value in (("provider", provider), ("key", key), ("model", model)) if value is not None}
    found = find_gateway(config).ask("/admin/v1/providers/test", asked)
    rows = [(row["provider"], row["key"], row["model"], "ok" if row["ok"] else "FAILED", row["latency_ms"], row["detail"]) for row in found["results"]]
    table = Table(("provider", "key", "model", "result", "ms", "detail"), rows)
    return Result(found, [table], as_json=json, exit_code=0 if found["ok"] else 4)
