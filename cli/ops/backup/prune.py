"""Which backups are kept, and which go: as `backup.keep` says, of this host alone, each kind for itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coollm_cli.ops.backup.catalog import Found, backups
from coollm_cli.ops.backup.create import EARLIER_SECONDS, settings_in_force
from coollm_cli.ops.backup.names import KINDS, NOTE, this_host
from coollm_cli.ops.backup.records import Records
from coollm_cli.ops.backup.target import ABANDONED_SECONDS, find_target
from coollm_cli.ops.host import count
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step

from coollm.core.config.backup import Keep
from coollm.core.errors import CoollmError, OperationFailed
from coollm.core.paths import admin_directory

_PERIODS: dict[str, Callable[[datetime], str]] = {
    "daily": lambda moment: moment.strftime("%Y-%m-%d"),
    "weekly": lambda moment: moment.strftime("%G-W%V"),
    "monthly": lambda moment: moment.strftime("%Y-%m"),
    "yearly": lambda moment: moment.strftime("%Y"),
}


def kept(found: Sequence[Found], keep: Keep, drilled: str | None) -> dict[str, str]:
    """Why each of the whole backups stays that does, by its name. `found` is of one kind and one host, the newest first."""
    reasons = {one.name.text: "among the last" for one in found[: keep.last]}
    for period, name_of in _PERIODS.items():
        seen: list[str] = []
        for one in found:
            name = name_of(datetime.fromtimestamp(one.name.created, UTC))
            if name not in seen and len(seen) < getattr(keep, period):
                seen.append(name)
                reasons.setdefault(one.name.text, f"the last of {name}")
    if drilled is not None and any(one.name.text == drilled for one in found):
        reasons.setdefault(drilled, "the last whose restore was proven")
    return reasons


def prune_plan(config: Path, state: Path, target: str | None) -> Plan:
    """Raises CoollmError; also where the clock is not to be trusted, which says how old backups are."""
    settings = settings_in_force(config, state)
    place = find_target(settings.backup, config, state, target)
    there = [one for one in backups(place) if one.name.host == this_host()]
    whole = [one for one in there if one.is_whole]
    if whole and whole[0].name.created > time.time() + EARLIER_SECONDS:
        raise OperationFailed(f"{whole[0].name.text} is from the future: this host's clock is wrong, and nothing is removed", "set the clock: timedatectl")
    drilled = Records(admin_directory(config, state)).last_drilled()
    reasons: dict[str, str] = {}
    for kind in KINDS:
        reasons |= kept([one for one in whole if one.name.kind == kind], settings.backup.keep, drilled)
    broken = [one for one in there if not one.is_whole and time.time() - one.name.created > ABANDONED_SECONDS]
    going = [*(one for one in whole if one.name.text not in reasons), *broken]
    abandoned = place.tidy(dry_run=True)
    if not going and not abandoned:
        return Plan("backup-prune", {}, (), nothing=f"{count(len(whole), 'backup')} in {place.url}, and all of them stay")
    parameters = {
        "config": str(config),
        "state": str(state),
        "target": target,
        "going": {one.name.text: list(one.files) for one in going},
        "tidy": bool(abandoned),
    }
    notes = [f"stays: {name}, {reason}" for name, reason in sorted(reasons.items(), reverse=True)]
    told = {"stay": reasons, "go": [one.name.text for one in going], "unfinished": abandoned}
    return Plan("backup-prune", parameters, prune_steps(parameters), notes, asks=True, told=told)


def prune_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `backup prune`: the note goes first, so that what is half removed lists as no backup."""
    config, state = Path(parameters["config"]), Path(parameters["state"])

    def remove(entry: Entry, name: str, files: list[str]) -> None:
        place = find_target(settings_in_force(config, state).backup, config, state, parameters["target"])
        try:
            for file in sorted(files, key=lambda one: not one.endswith(NOTE)):
                place.delete(file)
        except CoollmError as error:
            entry.kept.setdefault("refused", []).append(f"{name}: {error.message}")
            return
        Records(admin_directory(config, state)).remove(name)
        entry.kept.setdefault("removed", []).append(name)

    def end(entry: Entry) -> None:
        place = find_target(settings_in_force(config, state).backup, config, state, parameters["target"])
        tidied = place.tidy(dry_run=False) if parameters["tidy"] else []
        removed, refused = entry.kept.get("removed", []), entry.kept.get("refused", [])
        entry.kept["told"] = {"ok": not refused, "removed": removed, "refused": refused, "unfinished": tidied}
        entry.kept["lines"] = [f"{count(len(removed), 'backup')} removed", *(f"could not be removed: {line}" for line in refused)]
        entry.kept["audit"] = {"removed": removed}

    steps = [
        Step(f"remove-{name}", f"remove {name}", lambda entry, name=name, files=files: remove(entry, name, files))  # type: ignore[misc]
        for name, files in parameters["going"].items()
    ]
    return [*steps, Step("end", "remove what was begun and never finished", end)]
