"""Upgrade and rollback: a release beside the other, one additional instance that runs it first, then instance by instance; back if one is not healthy.

The additional instance is the canary: it takes its share of the traffic for the soak time, and its errors are compared with those of the others.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coollm_cli import output
from coollm_cli.ops import host, releases, systemd
from coollm_cli.ops.install import write_units
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step
from coollm_cli.ops.rollout import add_held, all_names, blast_radius, bring_back, common_parameters, end_roll, roll_one, watched
from coollm_cli.ops.watch import since, totals, totals_of

from coollm.core.errors import OperationFailed
from coollm.core.paths import CURRENT_RELEASE, RELEASES, SYSTEM_ADMIN, SYSTEM_CONFIG, SYSTEM_ENVIRONMENT, SYSTEM_RUN, SYSTEM_STATE

PREVIOUS = SYSTEM_ADMIN / "previous-release"
COPIES = SYSTEM_ADMIN / "before-upgrade"
KEPT_COPIES = 3

LOOK_SECONDS = 0.5

# A canary is judged when it has answered so many; fewer tell nothing of a rate.
LEAST_REQUESTS = 10
MORE_ERRORS = 0.05
"""By how much its share of failed requests may be above that of the others."""


def upgrade_plan(source: dict[str, Any], soak_seconds: float, max_failures: int) -> Plan:
    """From the release that runs to another."""
    host.need_root()
    names = host.need_instances()
    now, new = releases.current(), source["version"]
    mixed = {name: host.release_of(name) for name in names}
    if now == new and set(mixed.values()) == {new}:
        return Plan("upgrade", {}, (), nothing=f"every instance runs coollm {new} already")
    live = [name for name in names if systemd.is_active(systemd.service(name))]
    if not live:
        raise OperationFailed("no instance runs: there is nothing to compare the new release with", "coollm start")
    parameters = common_parameters(names, live, max_failures) | {
        "source": source,
        "from": mixed,
        "before": now,
        "soak_seconds": soak_seconds,
        "is_new": not releases.is_complete(new),
    }
    notes = [f"coollm {now} -> {new}", *blast_radius(names, rolling=True)]
    if len(set(mixed.values())) > 1:
        notes.append("instances run different releases now: " + ", ".join(f"{name}: {release}" for name, release in mixed.items()))
    back = {"version": now, "wheel": None, "wheelhouse": None}
    reverse = parameters | {"source": back, "from": dict.fromkeys(names, new), "before": new, "is_new": False}
    return Plan("upgrade", parameters, steps(parameters), notes, reverse=None if now == new else ("upgrade", reverse))


def rollback_plan(soak_seconds: float, max_failures: int) -> Plan:
    """Back to the release that ran before the last upgrade. Raises OperationFailed if there is none."""
    before = _previous()
    if not before or not releases.is_complete(before):
        raise OperationFailed("there is no release to go back to", "coollm upgrade VERSION --wheelhouse DIR installs one")
    return upgrade_plan({"version": before, "wheel": None, "wheelhouse": None}, soak_seconds, max_failures)


def _previous() -> str:
    """The release that ran before the last upgrade; "" if there was none."""
    return PREVIOUS.read_text("utf-8").strip() if PREVIOUS.is_file() else ""


def steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `upgrade`."""
    source, names, surge = parameters["source"], parameters["instances"], parameters["surge"]
    new = source["version"]

    def roll(name: str) -> Callable[[Entry], None]:
        return lambda entry: _roll(entry, name, new, parameters)

    def back(name: str) -> Callable[[Entry], None]:
        return lambda _: _back(name, parameters)

    return [
        Step("release", f"release {new}", lambda _: releases.build(source), lambda _: _forget(new, parameters)),
        Step("copy", f"a copy of configuration and state in {COPIES}", lambda entry: _copy_state(entry, parameters["before"])),
        Step(
            "canary",
            f"instance {surge} with coollm {new} beside them, watched for {parameters['soak_seconds']:.0f} s",
            lambda entry: _canary(entry, surge, new, parameters),
            lambda _: host.remove(surge),
        ),
        *(Step(f"instance-{name}", f"instance {name} to coollm {new}", roll(name), back(name)) for name in names),
        Step("current", f"the command is coollm {new}", lambda _: _make_current(new, parameters), lambda _: _make_current(parameters["before"], parameters)),
        Step(
            "end",
            f"stop instance {surge}, when its requests have ended, and remove releases that are older than both",
            lambda entry: _end(entry, surge, new, parameters),
        ),
    ]


def _forget(new: str, parameters: dict[str, Any]) -> None:
    if parameters["is_new"]:
        releases.remove(new)


def _canary(entry: Entry, surge: str, new: str, parameters: dict[str, Any]) -> None:
    entry.kept.setdefault("baseline", totals(SYSTEM_RUN, all_names(parameters)))
    entry.kept.setdefault("started", time.time())
    with watched(entry):
        add_held(surge, new, parameters)
        _soak(surge, parameters, entry)


def _soak(surge: str, parameters: dict[str, Any], entry: Entry) -> None:
    """Raises OperationFailed as soon as the canary fails more than the others do."""
    ends = time.monotonic() + parameters["soak_seconds"]
    while True:
        time.sleep(LOOK_SECONDS)
        own, old = _judge(entry, parameters)
        if not systemd.is_active(systemd.service(surge)):
            raise OperationFailed(f"instance {surge} has ended by itself", f"journalctl -u coollm@{surge}")
        if time.monotonic() >= ends:
            output.progress(f"    {own['failed']} of {own['requests']} requests failed on it, {old['failed']} of {old['requests']} on the others")
            return


def _judge(entry: Entry, parameters: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """What instances of the new release have served since the upgrade began, and what the others. Raises OperationFailed if the new ones fail more."""
    new = parameters["source"]["version"]
    of_new, of_old = totals_of(new, SYSTEM_RUN, all_names(parameters))
    own, old = since(entry.kept["baseline"], of_new), since(entry.kept["baseline"], of_old)
    rate = own["failed"] / own["requests"] if own["requests"] else 0.0
    allowed = MORE_ERRORS + (old["failed"] / old["requests"] if old["requests"] else 0.0)
    if own["requests"] >= LEAST_REQUESTS and rate > allowed:
        message = f"{own['failed']} of {own['requests']} requests failed with coollm {new}, and {old['failed']} of {old['requests']} with the release before"
        raise OperationFailed(message, "journalctl -u 'coollm@*'")
    return own, old


def _roll(entry: Entry, name: str, new: str, parameters: dict[str, Any]) -> None:
    host.point(name, new)
    roll_one(entry, name, parameters)
    _judge(entry, parameters)


def _back(name: str, parameters: dict[str, Any]) -> None:
    """An instance runs its former release again."""
    host.point(name, parameters["from"][name])
    host.restart(name)
    bring_back(name, parameters)


def _make_current(version: str, parameters: dict[str, Any]) -> None:
    host.link_to(CURRENT_RELEASE, Path("releases") / version)
    if parameters["before"] != parameters["source"]["version"]:
        PREVIOUS.write_text(f"{parameters['before']}\n", "utf-8")
    write_units()


def _end(entry: Entry, surge: str, new: str, parameters: dict[str, Any]) -> None:
    end_roll(entry, surge, parameters)
    for folder in RELEASES.iterdir():
        if folder.name not in (new, _previous()):
            releases.remove(folder.name)
    mixed = {name: host.release_of(name) for name in parameters["instances"] if host.release_of(name) != new}
    entry.kept["told"] = {"version": new, "before": parameters["before"]}
    entry.kept["lines"] = [
        f"coollm {parameters['before']} -> {new}",
        *entry.kept["lines"],
        *(f"instance {name} still runs {one}" for name, one in mixed.items()),
    ]


def _copy_state(entry: Entry, before: str) -> None:
    """Copies what a release could spoil: the configuration, and SQLite's files by SQLite's own means, which wait for nobody."""
    target = COPIES / f"{int(entry.began)}-{before}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True, mode=0o700)
    try:
        for file in (SYSTEM_CONFIG, SYSTEM_ENVIRONMENT):
            shutil.copy2(file, target / file.name)
        for file in SYSTEM_STATE.glob("*.sqlite"):
            with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30) as source, sqlite3.connect(target / file.name) as copy:
                source.backup(copy)
    except (OSError, sqlite3.Error) as error:
        shutil.rmtree(target, ignore_errors=True)
        raise OperationFailed(f"the state could not be copied: {error}", f"make room for {COPIES}") from error
    for old in sorted(COPIES.iterdir())[:-KEPT_COPIES]:
        shutil.rmtree(old, ignore_errors=True)
