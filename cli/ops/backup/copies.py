"""Asks the process that knows the databases (`coollm.state_copy`) for copies of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from coollm.core.errors import CheckFailed, CoollmError, OperationFailed


def ask(config: Path, state: Path, command: str, directory: Path, *more: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """What came of a command of that process. Raises what it says went wrong."""
    told = {**os.environ, "COOLLM_CONFIG": str(config), "COOLLM_STATE_DIR": str(state), **(environment or {})}
    line = [sys.executable, "-m", "coollm.state_copy", command, str(directory), *more]
    done = subprocess.run(line, capture_output=True, env=told, check=False)  # noqa: S603  our own interpreter
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise OperationFailed(f"the databases could not be copied: {said[-1][:300] if said else f'exit {done.returncode}'}") from error
    if not answer["ok"]:
        raise _error(answer)
    return answer


def _error(answer: dict[str, Any]) -> CoollmError:
    if answer["kind"] == "check":
        return CheckFailed(answer["error"], answer["hint"])
    error = OperationFailed(answer["error"], answer["hint"])
    error.exit_code = int(answer["exit"])
    return error
