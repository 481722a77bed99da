"""The guide's regular tasks: what there is to say each day, week and month. Where there is nothing, nothing is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from coollm_cli.ops import compliance, doctor
from coollm_cli.ops.audit import verify_host
from coollm_cli.ops.backup import proof
from coollm_cli.ops.backup.create import create_plan, settings_in_force
from coollm_cli.ops.backup.drill import drill
from coollm_cli.ops.fitness import add_instances
from coollm_cli.ops.gateway_client import GatewayClient, find_gateway
from coollm_cli.ops.host import change_host, host_of
from coollm_cli.ops.operation import Options

from coollm.core.errors import CoollmError

DAILY, WEEKLY, MONTHLY = "daily", "weekly", "monthly"
FEW_REQUESTS = 20
ERROR_SHARE = 0.05
MOSTLY_SPENT = 0.8
DAYS = {DAILY: 1, WEEKLY: 7, MONTHLY: 30}


class Remark(NamedTuple):
    """Something to look at: which of the tasks found it, what it is, and what to do."""

    task: str
    what: str
    remedy: str

    def as_json(self) -> dict[str, str]:
        """As `coollm maintenance --json` tells it."""
        return self._asdict()


def look(config: Path, state: Path, period: str) -> tuple[list[Remark], dict[str, Any]]:
    """What there is to say, and what was used in the time. A task that cannot be done is a remark, too."""
    remarks: list[Remark] = []
    usage: dict[str, Any] = {}
    tasks: dict[str, Callable[[], Iterator[Remark]]] = {
        "health": lambda: _health(config),
        "errors": lambda: _errors(find_gateway(config), DAYS[period]),
        "budgets": lambda: _budgets(find_gateway(config)),
        "anomalies": lambda: _anomalies(find_gateway(config)),
        "doctor": lambda: _doctor(config, state, period),
    }
    if period != DAILY:
        tasks |= {"audit": lambda: _audit(config, state), "ledger": lambda: _ledger(find_gateway(config)), "backups": lambda: _backups(state)}
    if period == MONTHLY:
        tasks |= {"backup": lambda: _back_up(config, state), "security": lambda: _security(config, state)}
    for name, task in tasks.items():
        try:
            remarks += task()
        except CoollmError as error:
            remarks.append(Remark(name, error.message, error.hint or "coollm status"))
    try:
        usage = find_gateway(config).ask(f"/admin/v1/stats?group_by=client&start={quote(_since(DAYS[period]))}")["total"]
    except CoollmError:
        usage = {}  # it is said already that nothing answers
    return remarks, usage


def _health(config: Path) -> Iterator[Remark]:
    body = find_gateway(config).get("/health").body
    add_instances(body, config)
    for check in body.get("checks", ()):
        if check["status"] != "ok":
            yield Remark("health", f"{check['name']} is {check['status']}: {check['detail']}", "coollm health; coollm doctor")


def _errors(gateway: GatewayClient, days: int) -> Iterator[Remark]:
    found = gateway.ask(f"/admin/v1/stats?group_by=provider&start={quote(_since(days))}")
    for row in found["rows"]:
        if row["provider"] and row["requests"] >= FEW_REQUESTS and row["errors"] > ERROR_SHARE * row["requests"]:
            share = f"{row['errors']} of {row['requests']} requests to {row['provider']} failed"
            yield Remark("errors", share, "coollm logs --level error; coollm route explain --id REQUEST_ID")


def _budgets(gateway: GatewayClient) -> Iterator[Remark]:
    for row in gateway.ask("/admin/v1/budgets")["budgets"]:
        if row["limit_usd"] and row["used_usd"] >= MOSTLY_SPENT * row["limit_usd"]:
            spent = f"{row['used_usd']:.2f} of {row['limit_usd']:.2f} dollars of {row['scope']} {row['id']} are spent"
            yield Remark("budgets", spent, "coollm usage report --by client; coollm budget set")


def _doctor(config: Path, state: Path, period: str) -> Iterator[Remark]:
    """Each day what is bad; each week everything, old keys and edited files among it."""
    for finding in doctor.examine(config, state)[0]:
        if period != DAILY or finding.severity == doctor.HIGH:
            yield Remark("doctor", finding.what, finding.as_json()["remedy"])


def _audit(config: Path, state: Path) -> Iterator[Remark]:
    for fault in verify_host(host_of(config, state))[1]:
        yield Remark("audit", fault, "coollm audit verify; find out who had access")


def _ledger(gateway: GatewayClient) -> Iterator[Remark]:
    for fault in gateway.ask("/admin/v1/usage/verify")["faults"]:
        yield Remark("ledger", fault, "coollm usage rebuild --from-logs")


def _backups(state: Path) -> Iterator[Remark]:
    told = proof.told(state)
    if told["last_backup"] is None:
        yield Remark("backups", "no backup was ever made", "coollm backup create; coollm backup schedule")
    elif told["drill_failed"] or told["last_drill"] is None:
        yield Remark("backups", told["drill_fault"] or "no restore was ever proven", "coollm backup drill --identity FILE")


def _back_up(config: Path, state: Path) -> Iterator[Remark]:
    """The guide's full backup and its proof, where the configuration says who can read backups."""
    settings = settings_in_force(config, state)
    if not settings.backup.recipients:
        return  # `backups` says that none was ever made
    change_host(config, state, lambda path, own: create_plan(path, own, "full", None, ()), Options(yes=True, quiet=True))
    if settings.backup.drill_identity_file:
        proven = drill(config, state, None, None, None)
        if not proven["ok"]:
            yield Remark("backup", f"the backup {proven['id']} cannot be restored: {proven['checks'][-1]['detail']}", "coollm backup drill; another backup")


def _anomalies(gateway: GatewayClient) -> Iterator[Remark]:
    for row in gateway.ask("/admin/v1/anomalies")["anomalies"]:
        what = f"client {row['client']}: {row['ratio']} times its usual {row['kind']} of an hour"
        yield Remark("anomalies", what, "coollm usage report --by client --trend; coollm clients limit")


def _security(config: Path, state: Path) -> Iterator[Remark]:
    for finding in compliance.report(config, state, DAYS[MONTHLY])["findings"]:
        yield Remark("security", finding, "coollm compliance report")


def _since(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%dT%H:00:00Z")
