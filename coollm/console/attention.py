"""What somebody should look at now, of what the admin API tells."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

from coollm.core.types import Json

DAY_SECONDS = 86400
NEARLY = 0.8
FEW_REQUESTS, MANY_ERRORS = 20, 0.05
LATE_BACKUP_SECONDS, LATE_DRILL_SECONDS = 2 * DAY_SECONDS, 15 * DAY_SECONDS

BAD, WARN = "bad", "warn"


class Remark(NamedTuple):
    """How bad it is, what it is, and where in the console more is to be seen."""

    level: str
    words: str
    place: str


def attention(summed: Json, status: Json, budgets: list[Json], workers: list[Json], backups: Json, history: Json) -> list[Remark]:
    """Everything, the worst first."""
    found = [*_errors(summed), *_checks(status), *_workers(workers), *_budgets(budgets), *_configuration(history), *_backups(backups)]
    return sorted(found, key=lambda one: one.level)


def used_share(budget: Json) -> float:
    """How much of a budget is used; one of nothing is spent."""
    return float(budget["used_usd"] / budget["limit_usd"]) if budget["limit_usd"] else 1.0


def _errors(summed: Json) -> Iterator[Remark]:
    if summed["requests"] >= FEW_REQUESTS and summed["errors"] >= MANY_ERRORS:
        yield Remark(WARN, f"{summed['errors']:.1%} of the requests of the last five minutes have failed", "/ui/requests?failed=1")


def _checks(status: Json) -> Iterator[Remark]:
    for check in status["checks"]:
        if check["status"] != "ok":
            place = "/ui/providers" if check["name"] == "providers" else "/ui/operations"
            yield Remark(BAD if check["status"] == "down" else WARN, check["detail"], place)


def _workers(workers: list[Json]) -> Iterator[Remark]:
    for one in workers:
        if one["refused"]:
            yield Remark(BAD, f"instance {one['instance']} cannot serve the new configuration: {one['refused']}", "/ui/configuration")
    generations = sorted({one["generation"] for one in workers})
    if len(generations) > 1:
        yield Remark(WARN, f"workers serve generations {', '.join(map(str, generations))}", "/ui/operations")


def _budgets(budgets: list[Json]) -> Iterator[Remark]:
    for one in budgets:
        share = used_share(one)
        if share >= NEARLY:
            word = "is spent" if share >= 1 else f"is at {share:.0%}"
            place = f"/ui/clients/{quote(one['id'], safe='')}" if one["scope"] == "client" else "/ui/usage"
            yield Remark(BAD if share >= 1 else WARN, f"the budget of {one['scope']} {one['id']} {word}", place)


def _configuration(history: Json) -> Iterator[Remark]:
    seconds = history["reverts_in_seconds"]
    if seconds is not None:
        yield Remark(WARN, f"the configuration reverts in {seconds:.0f} s unless it is confirmed", "/ui/configuration")


def unusual(anomalies: list[Json]) -> Iterator[Remark]:
    """Clients that are out of their ordinary, each in one remark."""
    by_client: dict[str, list[str]] = {}
    for one in anomalies:
        by_client.setdefault(one["client"], []).append(f"{one['ratio']} times its usual {one['kind']}")
    for client, words in by_client.items():
        yield Remark(WARN, f"{client} is out of the ordinary: {', '.join(words)}", f"/ui/requests?client={quote(client, safe='')}")


def _backups(backups: Json) -> Iterator[Remark]:
    now = time.time()
    if backups["success"] and now - backups["success"] > LATE_BACKUP_SECONDS:
        yield Remark(WARN, "the last backup is more than two days old", "/ui/operations")
    if backups["drill_failed"] and backups["drill_failed"] > (backups["drill"] or 0):
        yield Remark(BAD, f"the last restore was not proven: {backups['drill_fault'] or 'it failed'}", "/ui/operations")
    elif backups["drill"] and now - backups["drill"] > LATE_DRILL_SECONDS:
        yield Remark(WARN, "no restore was proven for more than two weeks", "/ui/operations")
