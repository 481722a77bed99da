"""Where the log of the gateway is, and requests from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coollm_cli.ops.gateway_client import running_instances

from coollm.core.config.load import load
from coollm.core.errors import ConfigurationError, UsageError
from coollm.core.logs import log_file
from coollm.core.paths import find_config, state_directory


def log_path(config: Path | None) -> Path | None:
    """app.log of the gateway that runs, else of the configuration in force; None if the log goes to standard error."""
    running = running_instances(config)
    if running:
        return Path(running[0].log) if running[0].log else None
    path = find_config(config).absolute()
    loaded = load(path)
    if loaded.settings is None:
        raise ConfigurationError(loaded.faults)
    return log_file(loaded.settings, path, state_directory(path))


def read_request(path: Path) -> dict[str, Any]:
    """A chat request from a file. Raises UsageError."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"--request {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--request {path}: not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"--request {path}: expected a JSON object")
    return found
