"""Clients and administrators of a running gateway: made, changed, given other keys, shut out and removed, each change with its undo.

A key is shown once, and is in no journal: a command that was killed after it was made is finished with another key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from coollm_cli.ops.gateway_client import find_gateway
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step
from coollm_cli.ops.times import ago, duration, moment

from coollm.core.config.values import Duration
from coollm.core.errors import OperationFailed

PATHS = {"client": "/admin/v1/clients", "admin": "/admin/v1/admins"}
WORDS = {"client": "client", "admin": "administrator"}


def rows_of(config: Path | None, kind: str) -> list[dict[str, Any]]:
    """All of a kind, as the gateway lists them."""
    found = find_gateway(config).ask(PATHS[kind])
    listed: list[dict[str, Any]] = found[f"{kind}s"]
    return listed


def find(config: Path | None, kind: str, identity: str) -> dict[str, Any]:
    """One of them. Raises OperationFailed if there is none."""
    for row in rows_of(config, kind):
        if row["id"] == identity:
            return row
    raise OperationFailed(f"there is no {WORDS[kind]} '{identity}'", f"coollm {kind}s list")


def create_plan(config: Path | None, kind: str, identity: str, fields: dict[str, Any]) -> Plan:
    """Makes one. Raises OperationFailed if there is one of this id."""
    if any(row["id"] == identity for row in rows_of(config, kind)):
        raise OperationFailed(f"there is a {WORDS[kind]} '{identity}' already", f"coollm {kind}s show {identity}")
    parameters = _parameters(config, kind, identity, "create", body={"id": identity, **fields})
    notes = [f"{name}: {_shown(value)}" for name, value in fields.items()]
    reverse = ("identity", _parameters(config, kind, identity, "delete"))
    return Plan("identity", parameters, steps(parameters), notes, reverse=reverse)


def change_plan(config: Path | None, kind: str, identity: str, fields: dict[str, Any]) -> Plan:
    """Changes what is said of one, or shuts it out."""
    before = find(config, kind, identity)
    _need_stored(kind, before)
    changed = {name: value for name, value in fields.items() if before.get(name) != value}
    if not changed:
        return Plan("identity", {}, (), nothing=f"{WORDS[kind]} '{identity}' is like that already")
    parameters = _parameters(config, kind, identity, "change", body=changed)
    back = _parameters(config, kind, identity, "change", body={name: before.get(name) for name in changed})
    notes = [f"{name}: {_shown(before.get(name))} -> {_shown(value)}" for name, value in changed.items()]
    return Plan("identity", parameters, steps(parameters), notes, reverse=("identity", back))


def shut_out_plan(config: Path, identity: str) -> Plan:
    """Shuts out a name of the directory's that has no key here."""
    parameters = _parameters(config, "admin", identity, "change", body={"revoked": True})
    reverse = ("identity", _parameters(config, "admin", identity, "delete"))
    return Plan("identity", parameters, steps(parameters), reverse=reverse)


def rotate_plan(config: Path | None, kind: str, identity: str, overlap: str) -> Plan:
    """Gives one another key; the old ones go on for a while."""
    before = find(config, kind, identity)
    _need_stored(kind, before)
    seconds = duration("--overlap", overlap)
    parameters = _parameters(config, kind, identity, "rotate", body={"overlap": overlap})
    live = [key for key in before["keys"] if not key["expired"]]
    notes = [_key_line(key) for key in live]
    notes.append(f"the old keys end in {Duration(seconds)}" if seconds else "the old keys end at once")
    return Plan("identity", parameters, steps(parameters), notes, asks=not seconds)


def delete_plan(config: Path | None, kind: str, identity: str) -> Plan:
    """Removes one."""
    before = find(config, kind, identity)
    _need_stored(kind, before)
    parameters = _parameters(config, kind, identity, "delete")
    notes = [_key_line(key) for key in before["keys"]] + ["the keys cannot be brought back; what was used and cost stays in the ledger"]
    return Plan("identity", parameters, steps(parameters), notes, asks=True)


def reset_plan(config: Path, identity: str) -> Plan:
    """Takes an administrator's second factor away, and ends the sessions in the console."""
    parameters = _parameters(config, "admin", identity, "reset", body={})
    notes = ["the second factor cannot be brought back: it is set up anew in the console", "every session in the console ends"]
    return Plan("identity", parameters, steps(parameters), notes, asks=True)


def steps(parameters: dict[str, Any]) -> list[Step]:
    """The step of any of these."""
    kind, identity, action = parameters["kind"], parameters["id"], parameters["action"]
    config = Path(parameters["config"]) if parameters["config"] else None
    path = f"{PATHS[kind]}/{quote(identity, safe='')}"
    what = f"{WORDS[kind]} '{identity}'"

    def create(entry: Entry) -> None:
        gateway = find_gateway(config)
        there = next((row for row in rows_of(config, kind) if row["id"] == identity), None)
        if there is not None and there.get("created_ms", 0) / 1000 < entry.began - 1:
            raise OperationFailed(f"somebody else has made the {what} meanwhile", f"coollm {kind}s show {identity}")
        # Made before this command was killed: nobody has seen its key.
        made = gateway.ask(PATHS[kind], parameters["body"]) if there is None else gateway.ask(f"{path}/rotate", {"overlap": "0"})
        _show_key(entry, kind, made, "made")

    def rotate(entry: Entry) -> None:
        made = find_gateway(config).ask(f"{path}/rotate", parameters["body"])
        _show_key(entry, kind, made, "has another key")
        ends = made["old_keys_expire_ms"]
        until = f"the old keys end at {moment(ends / 1000)}; coollm {kind}s show {identity} says who still uses them" if ends else "the old keys have ended"
        entry.kept["lines"].append(until)

    def change(entry: Entry) -> None:
        told = find_gateway(config).put(path, parameters["body"])
        entry.kept["told"] = told
        entry.kept["lines"] = [f"{what} is {'revoked' if parameters['body'].get('revoked') else 'changed'}: every worker knows within a second"]

    def delete(entry: Entry) -> None:
        if any(row["id"] == identity for row in rows_of(config, kind)):
            find_gateway(config).delete(path)
        entry.kept["told"] = {"id": identity, "deleted": True}
        entry.kept["lines"] = [f"{what} is removed"]

    def reset(entry: Entry) -> None:
        told = find_gateway(config).ask(f"{path}/reset", parameters["body"])
        factor = "is gone" if told["second_factor"] else "was not set up"
        entry.kept["told"] = told
        entry.kept["lines"] = [f"the second factor of {what} {factor}; sessions ended: {told['sessions']}"]

    def undo_create(_: Entry) -> None:
        if any(row["id"] == identity for row in rows_of(config, kind)):
            find_gateway(config).delete(path)

    texts = {"create": "make", "change": "change", "rotate": "make another key for", "delete": "remove", "reset": "reset"}
    do = {"create": create, "change": change, "rotate": rotate, "delete": delete, "reset": reset}[action]
    return [Step(action, f"{texts[action]} {what} in every worker", do, undo_create if action == "create" else None)]


def _show_key(entry: Entry, kind: str, made: dict[str, Any], words: str) -> None:
    entry.once = {"key": made["key"]}
    entry.kept["told"] = {name: value for name, value in made.items() if name != "key"}
    entry.kept["lines"] = [f"{WORDS[kind]} '{made['id']}' {words}: {made['prefix']}…", "the key, shown this once:"]


def _parameters(config: Path | None, kind: str, identity: str, action: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"config": str(config) if config else None, "kind": kind, "id": identity, "action": action, "body": body}


def _need_stored(kind: str, row: dict[str, Any]) -> None:
    if row["source"] == "configuration":
        way_out = "change it there: coollm config apply FILE" if kind == "client" else "change server.admin_api_key, or the password there"
        raise OperationFailed(f"{WORDS[kind]} '{row['id']}' is of the configuration", way_out)


def _key_line(key: dict[str, Any]) -> str:
    last = key["last_used_ms"]
    used = f"used {key['requests']} times, last {ago(last / 1000)} ago" if last else "never used"
    ends = f", ends at {moment(key['expires_ms'] / 1000)}" if key["expires_ms"] else ""
    return f"key {key['prefix']}…: {used}{ends}"


def key_lines(row: dict[str, Any]) -> list[str]:
    """The keys of one, each on a line: when it was used last, and when it ends."""
    return [_key_line(key) for key in row["keys"]]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items() if one is not None) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
