"""Writes the files for a monitoring stack, and lets its own tools and a running Prometheus check them."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coollm_cli.ops import tools
from coollm_cli.ops.monitoring.alerts import ALERTS, RECORDINGS
from coollm_cli.ops.monitoring.files import ALERTMANAGER, PROMETHEUS, RULES, rendered
from coollm_cli.ops.monitoring.panels import BOARDS

from coollm.core.errors import OperationFailed, Unreachable
from coollm.core.files import replace_file

TIMEOUT_SECONDS = 10.0

NOT_YET = {
    "coo_llm_budget_used_ratio": "no request had a budget yet",
    "coo_llm_key_age_seconds": "no vendor key is in the secret store",
    "coo_llm_rate_limits_total": "no request was refused by a limit yet",
    "coo_llm_errors_total": "no attempt at a vendor has failed yet",
    "coo_llm_client_errors_total": "no request of a client has failed yet",
    "coo_llm_time_to_first_token_seconds": "nothing was streamed yet",
    "coo_llm_cost_total": "no model with a price was used yet",
    "coo_llm_client_cost_total": "no model with a price was used yet",
    "coo_llm_anomaly_ratio": "no client was out of its ordinary yet",
    "first_token": "nothing was streamed yet",
    "coollm:cost": "no model with a price was used yet",
}
"""What has no data before something has happened, by a part of its query."""


def render(directory: Path, targets: Sequence[str], webhook: str, log_directory: str, ca_file: str | None, *, dry_run: bool) -> list[str]:
    """Writes what is not there yet as it has to be. Returns the names of the files that are new or were changed. Raises OperationFailed."""
    changed = []
    try:
        for name, text in rendered(targets, webhook, log_directory, ca_file).items():
            path = directory / name
            if path.exists() and path.read_text("utf-8") == text:
                continue
            changed.append(name)
            if not dry_run:
                directory.mkdir(parents=True, exist_ok=True)
                replace_file(path, text.encode(), mode=0o644)
    except OSError as error:
        raise OperationFailed(f"{error.filename or directory}: {error.strerror}", "name a directory that can be written") from error
    return changed


def check(directory: Path, url: str | None) -> list[dict[str, Any]]:
    """What promtool and amtool say of the files, and which queries a running Prometheus has no data for: {"check", "ok", "detail"} each.

    Raises OperationFailed where a tool is not installed, and Unreachable.
    """
    found = [_tool("promtool", "check", "config", str(directory / PROMETHEUS)), _tool("promtool", "check", "rules", str(directory / RULES))]
    found.append(_tool("amtool", "check-config", str(directory / ALERTMANAGER)))
    for board in BOARDS:
        found.append(_board(directory / f"grafana-{board.name}.json"))
    if url is not None:
        found += [_asked(url, what, query) for what, query in queries()]
    return found


def queries() -> list[tuple[str, str]]:
    """Every figure and every line of a panel. An alert that does not fire has no data, which is well: its metrics have to be known, all of them."""
    found = [(one.name, one.expression) for one in RECORDINGS]
    found += [(f"{board.title}: {panel.title}", query) for board in BOARDS for panel in board.panels for query, _ in panel.queries]
    names = {name for alert in ALERTS for name in re.findall(r"coo_llm_[a-z_]+", alert.expression)}
    return found + [(f"metric {name}", f"count({name})") for name in sorted(names)]


def _tool(name: str, *arguments: str) -> dict[str, Any]:
    tools.need(name)
    try:
        tools.run(name, *arguments)
    except OperationFailed as error:
        return {"check": f"{name} {' '.join(arguments)}", "ok": False, "detail": " ".join(error.message.split())[:400]}
    return {"check": f"{name} {' '.join(arguments)}", "ok": True, "detail": ""}


def _board(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text("utf-8"))
        fault = "" if told["panels"] and all(panel["targets"] for panel in told["panels"]) else "a panel has no query"
    except (OSError, ValueError, KeyError) as error:
        fault = f"this is no dashboard ({type(error).__name__})"
    return {"check": str(path), "ok": not fault, "detail": fault}


def _asked(url: str, what: str, query: str) -> dict[str, Any]:
    address = f"{url.rstrip('/')}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    if not address.startswith(("http://", "https://")):
        raise OperationFailed(f"--prometheus {url}: expected http://… or https://…")
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310  checked above
            told = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return {"check": what, "ok": False, "detail": f"Prometheus answers {error.code} to: {query}"}
    except (OSError, ValueError) as error:
        raise Unreachable(f"{url} does not answer as Prometheus: {error}", "--prometheus http://HOST:9090") from error
    rows = told.get("data", {}).get("result", [])
    if rows:
        return {"check": what, "ok": True, "detail": ""}
    reason = next((reason for part, reason in NOT_YET.items() if part in query), None)
    return {"check": what, "ok": reason is not None, "detail": reason or f"no data: {query}"}
