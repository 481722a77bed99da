"""Evidence for auditors: who has access, what was changed, how old keys are, what is kept for how long; and a client's right to be given out or erased."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from coollm_cli.ops.backup import proof
from coollm_cli.ops.gateway_client import find_gateway
from coollm_cli.ops.host import host_of
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step
from coollm_cli.ops.times import day, seconds_of

from coollm.core.audit import verify
from coollm.core.config.generations import Generations
from coollm.core.config.load import load, secrets_in_clear
from coollm.core.errors import ConfigurationError, OperationFailed

DAY_SECONDS = 86400


def report(config: Path, state: Path, days: int) -> dict[str, Any]:
    """The evidence of the last days. Raises ConfigurationError, OperationFailed and Unreachable."""
    effective = Generations(config, state).effective()
    loaded = load(config, content=effective.file if effective else None, state=state)
    if loaded.settings is None:
        raise ConfigurationError(loaded.faults)
    settings, gateway, ours = loaded.settings, find_gateway(config), host_of(config, state)
    since = time.time() - days * DAY_SECONDS
    entries = [entry for _, _, entry in ours.audit.entries() if entry is not None and seconds_of(entry.get("time")) >= since]
    lines, faults = verify(ours.audit)
    clients, admins, keys = gateway.ask("/admin/v1/clients")["clients"], gateway.ask("/admin/v1/admins")["admins"], gateway.ask("/admin/v1/keys")
    changed = [entry for entry in entries if entry.get("state") in ("done", "taken back", "failed")]
    found: dict[str, Any] = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "days": days,
        "access": {
            "administrators": [{name: row.get(name) for name in ("id", "role", "source", "revoked")} for row in admins],
            "directory": settings.auth.type if settings.auth else None,
            "clients": len(clients),
            "clients_revoked": sum(row["revoked"] for row in clients),
            "clients_without_expiry": sum(not row["expires_at"] and not row["revoked"] for row in clients),
            "logins": sum(entry["action"] == "login" and entry.get("state") == "done" for entry in entries),
            "logins_refused": sum(entry["action"] == "login" and entry.get("state") == "refused" for entry in entries),
            "denied": sum(entry["action"] == "denied" for entry in entries),
        },
        "changes": {
            "by_action": dict(Counter(str(entry["action"]) for entry in changed)),
            "by_person": dict(Counter(str(entry["actor"]) for entry in changed)),
            "failed_or_taken_back": sum(entry.get("state") != "done" for entry in changed),
            "generation": effective.number if effective else None,
            "generation_applied": day(effective.applied) if effective else None,
        },
        "keys": [
            {
                "key": f"{row['provider']}/{row['key']}",
                "state": row["state"],
                "since": day(row["since"]) if row["since"] else None,
                "days": round((time.time() - row["since"]) / DAY_SECONDS) if row["since"] else None,
            }
            for row in keys["keys"]
        ],
        "secrets_in_clear": [fault.path for fault in secrets_in_clear(loaded)],
        "backups": proof.told(state),
        "audit_log": {"lines": lines, "faults": faults, "in_time": len(entries)},
        "retention": {"data_retention_days": settings.compliance.data_retention_days},
        "encryption": {"tls": settings.server.tls is not None, "min_version": settings.server.tls.min_version if settings.server.tls else None},
    }
    found["findings"] = _findings(found, gdpr=settings.compliance.gdpr, soc2=settings.compliance.soc2)
    return found


def _findings(found: dict[str, Any], *, gdpr: bool, soc2: bool) -> list[str]:
    """What an auditor would ask about."""
    told = []
    if found["audit_log"]["faults"]:
        told.append(f"the audit log is not whole: {found['audit_log']['faults'][0]}")
    if found["secrets_in_clear"]:
        told.append(f"{len(found['secrets_in_clear'])} secrets stand in the configuration in clear: coollm secrets import")
    if gdpr and found["retention"]["data_retention_days"] is None:
        told.append("compliance.gdpr is on, and nothing is ever deleted: compliance.data_retention_days")
    if soc2 and found["access"]["clients_without_expiry"]:
        told.append(f"{found['access']['clients_without_expiry']} clients have keys that never end: coollm clients update ID --expires")
    if soc2 and any(row["days"] is None for row in found["keys"]):
        told.append("the age of vendor keys that are not in the secret store is not known: coollm secrets import")
    if soc2 and not found["backups"]["last_backup"]:
        told.append("no backup was ever made: coollm backup create")
    elif soc2 and (not found["backups"]["last_drill"] or found["backups"]["drill_failed"]):
        told.append(f"no restore is proven: {found['backups']['drill_fault'] or 'coollm backup drill'}")
    if soc2 and not found["encryption"]["tls"]:
        told.append("the gateway speaks plain HTTP: server.tls, or a proxy before it that is documented elsewhere")
    return told


def markdown(found: dict[str, Any]) -> list[str]:
    """The report for people."""
    access, changes = found["access"], found["changes"]
    lines = [f"# Evidence of {found['made']}, of the last {found['days']} days", "", "## Access", ""]
    lines += [f"- {row['id']}: {row['role']}, {row['source']}{', revoked' if row['revoked'] else ''}" for row in access["administrators"]]
    lines += [
        f"- directory server: {access['directory'] or 'none'}",
        f"- clients: {access['clients']}, of which {access['clients_revoked']} are revoked, {access['clients_without_expiry']} have no end",
        f"- logins: {access['logins']}, refused {access['logins_refused']}; denied requests of administrators: {access['denied']}",
        "",
        "## Changes",
        "",
        *(f"- {action}: {count}" for action, count in sorted(changes["by_action"].items())),
        f"- failed or taken back: {changes['failed_or_taken_back']}",
        f"- configuration: generation {changes['generation']}, applied {changes['generation_applied']}",
        "",
        "## Vendor keys",
        "",
        *(f"- {row['key']}: {row['state']}, {_age(row)}" for row in found["keys"]),
        "",
        "## Backups",
        "",
        f"- last backup: {found['backups']['last_backup'] or 'never'}",
        f"- last proven restore: {found['backups']['last_drill'] or 'never'}",
        "",
        "## Audit log and retention",
        "",
        f"- {found['audit_log']['lines']} lines, {'whole' if not found['audit_log']['faults'] else 'NOT whole'}; {found['audit_log']['in_time']} in this time",
        f"- single requests and rotated logs are kept for {found['retention']['data_retention_days'] or 'ever'} days"
        if found["retention"]["data_retention_days"]
        else "- nothing is deleted by its age",
        f"- TLS in the gateway: {found['encryption']['min_version'] or 'none'}",
        "",
        "## Findings",
        "",
        *(f"- {finding}" for finding in found["findings"] or ["none"]),
    ]
    return lines


def _age(row: dict[str, Any]) -> str:
    return f"set {row['since']}, {row['days']} days ago" if row["since"] else "its age is not known"


def export(config: Path | None, client: str) -> list[str]:
    """All that is kept of a client, one JSON line each."""
    return [line.decode().rstrip("\n") for line in find_gateway(config).lines(f"/admin/v1/compliance/export/{quote(client, safe='')}")]


def erase_plan(config: Path, client: str) -> Plan:
    """Replaces the name of a client that was removed, wherever its requests are kept. Raises OperationFailed while it is still there."""
    if any(row["id"] == client for row in find_gateway(config).ask("/admin/v1/clients")["clients"]):
        raise OperationFailed(f"'{client}' is still a client", f"remove it first: coollm clients delete {client}, or coollm config apply")
    parameters = {"config": str(config), "client": client}
    notes = [
        "its name is replaced in the ledger, usage.log and app.log; every sum stays as it is",
        "the audit log keeps it for as long as compliance.data_retention_days says: who changed what is evidence",
        "this cannot be taken back",
    ]
    return Plan("erase", parameters, erase_steps(parameters), notes, asks=True)


def erase_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `compliance erase`."""

    def erase(entry: Entry) -> None:
        found = find_gateway(Path(parameters["config"])).ask("/admin/v1/compliance/erase", {"client": parameters["client"]})
        entry.kept["told"] = found
        entry.kept["lines"] = [f"{found['requests']} requests are {found['alias']}'s now; {found['files']} log files were written anew"]

    return [Step("erase", f"replace the name '{parameters['client']}' in ledger and logs", erase)]
