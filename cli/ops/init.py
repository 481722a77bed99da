"""Writing a first configuration."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coollm.core.config.load import load
from coollm.core.config.sample import render_sample
from coollm.core.config.vendors import VENDOR_VARIABLES
from coollm.core.errors import OperationFailed
from coollm.core.paths import environment_file

ADMIN_VARIABLE = "COOLLM_ADMIN_KEY"
CLIENT_VARIABLE = "COOLLM_CLIENT_KEY"
SIMULATED_VARIABLE = "COOLLM_SIMULATED_KEY"

_PRICED_SIMULATIONS = (("openai", "gpt-sim", 2.5, 10.0), ("claude", "claude-sim", 3.0, 15.0), ("gemini", "gemini-sim", 1.25, 5.0))

_TITLE = """COO-LLM configuration.
Secrets stand in {environment} (mode 0600) and are named here as ${{NAME}}.
Check it with `coollm config validate`, start with `coollm serve`."""


@dataclass(frozen=True)
class InitPlan:
    """The two files that will be written, and the vendors found."""

    config: Path
    config_text: str
    environment: Path
    environment_text: str
    vendors: tuple[str, ...]


def plan_init(config: Path, environ: Mapping[str, str] | None = None) -> InitPlan:
    """A plan that writes nothing. Raises OperationFailed if a configuration is there already: it is never overwritten."""
    environ = os.environ if environ is None else environ
    environment = environment_file(config.absolute())
    for file in (config, environment):
        if file.exists():
            raise OperationFailed(f"{file} exists already, and is not overwritten", "move it away, or write another with --config FILE")
    found = {variable: kind for variable, kind in VENDOR_VARIABLES.items() if environ.get(variable)}
    values: dict[str, Any] = {
        "version": "1.0",
        "server": {"listen": "127.0.0.1:2906", "admin_api_key": f"${{{ADMIN_VARIABLE}}}", "workers": min(os.cpu_count() or 1, 4)},
        "llm_providers": _real(found) if found else simulated_providers(),
        "api_keys": [{"id": "default", "key": f"${{{CLIENT_VARIABLE}}}", "allowed_providers": ["*"]}],
    }
    names = {ADMIN_VARIABLE: new_key("admin"), CLIENT_VARIABLE: new_key("client")}
    if found:
        names.update({variable: environ[variable] for variable in found})
    else:
        names[SIMULATED_VARIABLE] = new_key("simulated")
    text = "".join(f'{name}="{value}"\n' for name, value in names.items())
    title = _TITLE.format(environment=environment.name)
    return InitPlan(
        config,
        render_sample(values, title),
        environment,
        f"# Secrets of {config.name}; keep it private.\n{text}",
        tuple(dict.fromkeys(found.values())),
    )


def write_init(plan: InitPlan) -> None:
    """Writes both files, each whole or not at all, and proves that the configuration loads. Raises OperationFailed, and then leaves nothing behind."""
    written: list[Path] = []
    try:
        for path, text, mode in ((plan.environment, plan.environment_text, 0o600), (plan.config, plan.config_text, 0o640)):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            written.append(path)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        loaded = load(plan.config)
        if loaded.faults:
            raise OperationFailed(f"the written configuration is not valid: {loaded.faults[0]}")
    except (OSError, OperationFailed, KeyboardInterrupt) as error:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OperationFailed(f"{error.filename or plan.config}: cannot be written: {error.strerror}") from error
        raise


def simulated_providers() -> list[dict[str, Any]]:
    """Three simulated vendors with prices, so that a first look costs nothing and shows all."""
    return [
        {
            "id": name,
            "type": name,
            "api_keys": [f"${{{SIMULATED_VARIABLE}}}"],
            "base_url": "simulator://",
            "model": model,
            "models": [model, f"{model}~*"],
            "pricing": {"input_token_cost": input_price, "output_token_cost": output_price},
        }
        for name, model, input_price, output_price in _PRICED_SIMULATIONS
    ]


def new_key(purpose: str) -> str:
    """A random key of 256 bits that says what it is for."""
    return f"coollm-{purpose}-{secrets.token_urlsafe(32)}"


def _real(found: Mapping[str, str]) -> list[dict[str, Any]]:
    kinds: dict[str, list[str]] = {}
    for variable, kind in found.items():
        kinds.setdefault(kind, []).append(f"${{{variable}}}")
    return [{"id": kind, "type": kind, "api_keys": variables} for kind, variables in kinds.items()]
