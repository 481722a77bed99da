"""Vendor keys while the gateway runs: added after a live probe and a canary share of the requests, and retired when nobody uses them any more.

A key that is being added gets no request of a client before its probe was answered; one that fails as a canary is taken out again. Each step can be gone on
with or taken back: the key is in the journal encrypted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from coollm_cli import output
from coollm_cli.ops.apply import wait_for_workers
from coollm_cli.ops.gateway_client import find_gateway
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.lock import actor
from coollm_cli.ops.operation import Plan, Step
from coollm_cli.ops.secrets import VENDOR_KEY, need_owner
from coollm_cli.ops.times import ago, duration

from coollm.core.config.values import Duration
from coollm.core.errors import OperationFailed, UsageError
from coollm.core.secret_store import as_json, from_json, secret_store
from coollm.core.secrets import Secret
from coollm.core.vendor_keys import VendorKey, VendorKeys, read_vendor_keys, write_vendor_keys

LOOK_SECONDS = 0.5
TELL_EVERY_SECONDS = 10.0

# A canary fails when so many of its attempts have, and more of them than of the other keys' by this share; or when it is so much slower.
LEAST_FAILURES = 2
MORE_FAILURES = 0.05
LEAST_TIMED = 5
LEAST_EXPECTED = 20
SLOWER, SLOWER_SECONDS = 2.0, 0.1


@dataclass(frozen=True)
class Soak:
    """How a new key is tried: its share of the requests, for so many seconds."""

    share: float
    seconds: float

    @classmethod
    def read(cls, share: str, seconds: str) -> Soak:
        """From the options. Raises UsageError."""
        try:
            part = float(share.rstrip("%")) / (100 if share.endswith("%") else 1)
        except ValueError as error:
            raise UsageError(f"--share {share}: expected a share such as 5%") from error
        if not 0 < part < 1:
            raise UsageError(f"--share {share}: expected more than 0% and less than 100%")
        return cls(part, duration("--soak", seconds))


def rows(config: Path | None, *, uses: bool = False) -> dict[str, Any]:
    """Every vendor key, as the gateway knows it; with `uses` from the ledger, which takes longer, how often it was used."""
    found: dict[str, Any] = find_gateway(config).ask(f"/admin/v1/keys{'?uses=1' if uses else ''}")
    return found


def add_plan(config: Path, state: Path, provider: str, value: str, soak: Soak, model: str | None, *, dry_run: bool) -> Plan:
    """Adds a key beside the others. Raises OperationFailed."""
    need_owner(config)
    _need_provider(config, provider)
    parameters = _parameters(config, state, "add", provider, value, soak, model, dry_run=dry_run)
    if not dry_run and any(row["key"] == parameters["key"] and row["provider"] == provider for row in rows(config)["keys"]):
        return Plan("vendor-key", {}, (), nothing=f"{provider} has the key {parameters['key']} already")
    reverse = ("vendor-key", {**parameters, "action": "remove"})
    return Plan("vendor-key", parameters, steps(parameters), reverse=reverse)


def rotate_plan(config: Path, state: Path, provider: str, old: str, value: str, soak: Soak, model: str | None, quiet_for: str, *, dry_run: bool) -> Plan:
    """Puts another key in the place of one. Raises OperationFailed."""
    need_owner(config)
    row = _find(config, provider, old)
    parameters = _parameters(config, state, "rotate", provider, value, soak, model, dry_run=dry_run)
    if parameters["key"] == old:
        raise UsageError("the new key is the old one", "get another one from the vendor")
    if not dry_run and any(one["provider"] == provider and one["key"] == parameters["key"] for one in rows(config)["keys"]):
        raise UsageError(f"{provider} has the new key {parameters['key']} already", f"coollm keys retire {provider} {old} --drain takes the old one out")
    parameters |= {"old": old, "quiet_seconds": duration("--quiet-for", quiet_for), **_old(state, provider, old)}
    return Plan("vendor-key", parameters, steps(parameters), notes=_notes(row))


def retire_plan(config: Path, state: Path, provider: str, key: str, quiet_for: str, *, drain: bool) -> Plan:
    """Takes a key out for good. Refused while it was used lately, with who used it and when; with `drain` it is first taken out of new requests."""
    need_owner(config)
    kept = read_vendor_keys(state)
    if kept.is_retired(provider, key):
        return Plan("vendor-key", {}, (), nothing=f"{provider}/{key} is retired already")
    row = _find(config, provider, key)
    others = [one for one in rows(config)["keys"] if one["provider"] == provider and one["key"] != key and one["state"] in ("usable", "cooling")]
    if not others:
        raise OperationFailed(f"{provider}/{key} is the only key of {provider}", f"coollm keys add {provider}, or coollm keys rotate {provider} {key}")
    seconds = duration("--quiet-for", quiet_for)
    if not drain:
        refuse_if_used(config, provider, key, seconds)
    parameters: dict[str, Any] = {"config": str(config), "state": str(state), "action": "retire", "provider": provider, "old": key, "quiet_seconds": seconds}
    parameters |= _old(state, provider, key)
    return Plan("vendor-key", parameters, steps(parameters), notes=_notes(row), asks=True)


def users(config: Path, provider: str, key: str, seconds: float) -> list[dict[str, Any]]:
    """Which clients have used a key within a time."""
    path = f"/admin/v1/keys/{quote(provider, safe='')}/{quote(key, safe='')}/users?seconds={seconds}"
    found: list[dict[str, Any]] = find_gateway(config).ask(path)["users"]
    return found


def refuse_if_used(config: Path, provider: str, key: str, seconds: float) -> None:
    """Raises OperationFailed with who has used a key within a time, and when."""
    found = users(config, provider, key, seconds)
    if found:
        told = ", ".join(f"{one['client']} ({one['requests']}, last {ago(one['last_used_ms'] / 1000)} ago)" for one in found)
        way_out = "--drain takes it out of new requests first, and waits"
        raise OperationFailed(f"{provider}/{key} was used within the last {Duration(seconds)}, by {told}", way_out)


def steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `keys add`, `keys rotate`, `keys retire` and of the undo of the first."""
    action = parameters["action"]
    if action == "remove":
        return [Step("remove", f"take {parameters['provider']}/{parameters['key']} out", lambda entry: _take_out(entry, parameters))]
    made = [] if action == "retire" else _adding(parameters)
    if action in ("rotate", "retire"):
        made += _retiring(parameters)
    return [*made, Step("told", "write down what came of it", lambda entry: _told(entry, parameters))]


def _adding(parameters: dict[str, Any]) -> list[Step]:
    config, state, provider, key = Path(parameters["config"]), Path(parameters["state"]), parameters["provider"], parameters["key"]
    store = secret_store(config, state)
    secret, name = parameters["secret"], f"{provider}/{key}"
    share, soak = parameters["share"], parameters["soak"]

    def keep(entry: Entry) -> None:
        store.put(secret, from_json(parameters["sealed"]))
        _put(config, state, lambda kept: kept.with_key(VendorKey(provider, key, secret, "added", time.time(), entry.by)))

    def forget(_: Entry) -> None:
        _put(config, state, lambda kept: kept.without(provider, key))
        store.put(secret, None)

    def probe(entry: Entry) -> None:
        asked = {"provider": provider, "key": key, **({"model": parameters["model"]} if parameters["model"] else {})}
        row = find_gateway(config).ask("/admin/v1/providers/test", asked)["results"][0]
        if not row["ok"]:
            raise OperationFailed(f"{name} does not work: {row['detail']}", "no request of a client was sent with it")
        entry.kept["probe_ms"] = row["latency_ms"]
        # Before it gets its first request: a bad one fails within milliseconds, and is then out of use and gets none.
        entry.kept["before"] = _figures(config, provider, key)

    def state_of(state_now: Any, part: float = 0.0) -> None:
        def changed(kept: VendorKeys) -> VendorKeys:
            found = kept.find(provider, key)
            if found is None:
                raise OperationFailed(f"{name} was removed meanwhile")
            return kept.with_key(VendorKey(provider, key, secret, state_now, found.added, found.by, part))

        _put(config, state, changed)

    def canary(entry: Entry) -> None:
        state_of("canary", share)
        entry.kept["canary"] = _soak(config, provider, key, Soak(share, soak), entry.kept["before"])

    made = [
        Step("keep", f"keep the key {name}, encrypted; it gets no request yet", keep, forget),
        Step("probe", "send one live request with it", probe),
    ]
    if soak:
        made.append(Step("canary", f"give it {share:.3g} of the requests for {Duration(soak)}", canary, lambda _: state_of("added")))
    return [*made, Step("active", "give it its full share", lambda _: state_of("active"), lambda _: state_of("added"))]


def _retiring(parameters: dict[str, Any]) -> list[Step]:
    config, state, provider, old = Path(parameters["config"]), Path(parameters["state"]), parameters["provider"], parameters["old"]
    quiet = parameters["quiet_seconds"]

    def hold(is_held: bool) -> None:
        _put(config, state, lambda kept: kept.hold(provider, old, is_held=is_held))

    def wait(entry: Entry) -> None:
        entry.kept["quiet"] = _wait_until_quiet(config, provider, old, quiet)

    def retire(entry: Entry) -> None:
        _put(config, state, lambda kept: kept.retire(provider, old, entry.by))

    def back(_: Entry) -> None:
        def changed(kept: VendorKeys) -> VendorKeys:
            again = kept.bring_back(provider, old)
            return again.with_key(VendorKey(**parameters["old_key"])) if parameters["old_key"] else again

        _put(config, state, changed)

    def shred(_: Entry) -> None:
        if parameters["old_key"]:
            secret_store(config, state).put(parameters["old_key"]["secret"], None)

    return [
        Step("hold", f"give {provider}/{old} no new requests", lambda _: hold(True), lambda _: hold(False)),
        Step("quiet", f"wait until nobody has used it for {Duration(quiet)}", wait),
        Step("retire", f"retire {provider}/{old}", retire, back),
        Step("shred", "remove it from the secret store", shred),
    ]


def _take_out(entry: Entry, parameters: dict[str, Any]) -> None:
    config, state, provider, key = Path(parameters["config"]), Path(parameters["state"]), parameters["provider"], parameters["key"]
    _put(config, state, lambda kept: kept.without(provider, key))
    secret_store(config, state).put(parameters["secret"], None)
    entry.kept["lines"] = [f"{provider}/{key} is taken out"]


def _told(entry: Entry, parameters: dict[str, Any]) -> None:
    provider, kept = parameters["provider"], entry.kept
    told: dict[str, Any] = {"provider": provider}
    lines = []
    if parameters["action"] != "retire":
        told |= {"key": parameters["key"], "probe_ms": kept["probe_ms"], "canary": kept.get("canary")}
        lines.append(f"{provider}/{parameters['key']} works: its probe took {kept['probe_ms']} ms")
        if kept.get("canary"):
            lines.append(canary_line(kept["canary"]))
    if parameters["action"] != "add":
        told |= {"retired": parameters["old"], "last_used_by": kept["quiet"]}
        lines.append(f"{provider}/{parameters['old']} is retired")
        if not parameters["old_key"]:
            lines.append("the configuration still has it: take it out there (coollm config apply), and revoke it at the vendor's")
    entry.kept["told"], entry.kept["lines"] = told, lines


def canary_line(found: dict[str, Any]) -> str:
    """What the canary's figures were beside the others'."""
    new, others = found["new"], found["others"]

    def said(one: dict[str, Any]) -> str:
        mean = f", mean {one['mean_ms']} ms" if one["mean_ms"] is not None else ""
        return f"{one['attempts']} requests, {one['failures']} failed{mean}"

    return f"as a canary: {said(new)}; the other keys: {said(others)}"


def _soak(config: Path, provider: str, key: str, soak: Soak, before: dict[str, list[float]]) -> dict[str, Any]:
    """Watches a canary beside the other keys of its provider, from the figures `before` on. Raises OperationFailed as soon as it is worse than they are."""
    began = told = time.monotonic()
    while True:
        now = time.monotonic()
        found = {name: _since(before[name], figures) for name, figures in _figures(config, provider, key).items()}
        fault = _fault(found["new"], found["others"])
        if fault:
            raise OperationFailed(f"{provider}/{key} fails as a canary: {fault}; {canary_line(found)}", "requests that it failed were answered by other keys")
        if now - began >= soak.seconds:
            if not found["new"]["attempts"] and found["others"]["attempts"] * soak.share >= LEAST_EXPECTED:
                raise OperationFailed(f"{provider}/{key} got none of its requests: it is out of use; {canary_line(found)}", "coollm keys list says why")
            return found
        if now - told >= TELL_EVERY_SECONDS:
            told = now
            output.progress(f"      {canary_line(found)}; {soak.seconds - (now - began):.0f} s to go")
        time.sleep(LOOK_SECONDS)


def _figures(config: Path, provider: str, key: str) -> dict[str, list[float]]:
    found = [row for row in rows(config)["keys"] if row["provider"] == provider]

    def sums(is_new: bool) -> list[float]:
        own = [row for row in found if (row["key"] == key) is is_new]
        return [sum(row[name] for row in own) for name in ("attempts", "failures", "seconds")]

    return {"new": sums(True), "others": sums(False)}


def _since(before: list[float], now: list[float]) -> dict[str, Any]:
    """What has come since. A worker that was restarted meanwhile has begun anew."""
    attempts, failures, seconds = (max(0.0, after - first) if now[0] >= before[0] else after for first, after in zip(before, now, strict=True))
    answered = attempts - failures
    return {"attempts": int(attempts), "failures": int(failures), "mean_ms": round(seconds / answered * 1000, 1) if answered > 0 else None}


def _fault(new: dict[str, Any], others: dict[str, Any]) -> str:
    rate = new["failures"] / new["attempts"] if new["attempts"] else 0.0
    other_rate = others["failures"] / others["attempts"] if others["attempts"] else 0.0
    if new["failures"] >= LEAST_FAILURES and rate > other_rate + MORE_FAILURES:
        return f"{rate:.0%} of its requests failed, and {other_rate:.0%} of the others'"
    both_timed = min(new["attempts"] - new["failures"], others["attempts"] - others["failures"]) >= LEAST_TIMED
    if both_timed and new["mean_ms"] > others["mean_ms"] * SLOWER + SLOWER_SECONDS * 1000:
        return f"it takes {new['mean_ms']} ms, and the others {others['mean_ms']} ms"
    return ""


def _wait_until_quiet(config: Path, provider: str, key: str, seconds: float) -> list[dict[str, Any]]:
    """Waits until a key that gets no new requests was not used for so long. Returns who used it last."""
    told = time.monotonic()
    while True:
        row = next((one for one in rows(config)["keys"] if one["provider"] == provider and one["key"] == key), None)
        found = users(config, provider, key, seconds + 1)
        if row is None or (not found and not row["in_flight"]):
            return users(config, provider, key, 86400)
        if time.monotonic() - told >= TELL_EVERY_SECONDS:
            told = time.monotonic()
            last = max((one["last_used_ms"] for one in found), default=None)
            output.progress(f"      {row['in_flight']} requests are under way{f', the last ended {ago(last / 1000)} ago' if last else ''}")
        time.sleep(LOOK_SECONDS)


def _put(config: Path, state: Path, changed: Any) -> None:
    before = read_vendor_keys(state)
    after = changed(before)
    if after != before:
        write_vendor_keys(state, after)
    wait_for_workers(config, state)


def _parameters(config: Path, state: Path, action: str, provider: str, value: str, soak: Soak, model: str | None, *, dry_run: bool) -> dict[str, Any]:
    key = Secret(value).fingerprint() if value else "…"
    secret, store = f"{VENDOR_KEY}{provider}.{key}", secret_store(config, state)
    return {
        "config": str(config),
        "state": str(state),
        "action": action,
        "provider": provider,
        "key": key,
        "secret": secret,
        "sealed": None if dry_run else as_json(store.seal(secret, value, actor())),
        "share": soak.share,
        "soak": soak.seconds,
        "model": model,
    }


def _old(state: Path, provider: str, key: str) -> dict[str, Any]:
    kept = read_vendor_keys(state)
    found = kept.find(provider, key)
    return {"old_key": {name: getattr(found, name) for name in VendorKey.__struct_fields__} if found else None}


def _need_provider(config: Path, provider: str) -> None:
    known = {row["id"] for row in find_gateway(config).ask("/admin/v1/providers")["providers"]}
    if provider not in known:
        raise OperationFailed(f"there is no provider '{provider}'", f"providers: {', '.join(sorted(known))}")


def _find(config: Path, provider: str, key: str) -> dict[str, Any]:
    _need_provider(config, provider)
    own = [row for row in rows(config, uses=True)["keys"] if row["provider"] == provider]
    for row in own:
        if row["key"] == key:
            found: dict[str, Any] = row
            return found
    raise OperationFailed(f"{provider} has no key '{key}'", f"keys: {', '.join(row['key'] for row in own)}")


def _notes(row: dict[str, Any]) -> list[str]:
    used = f"{row['requests_24h']} requests in the last day" + (f", the last {ago(row['last_used_ms'] / 1000)} ago" if row["last_used_ms"] else "")
    return [f"{row['provider']}/{row['key']}: {row['state']}, {used}"]
