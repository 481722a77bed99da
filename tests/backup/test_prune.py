"""Which backups stay."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime

from coollm_cli.ops.backup.catalog import Found
from coollm_cli.ops.backup.names import new_name, parse, this_host
from coollm_cli.ops.backup.prune import kept

from coollm.core.config.backup import Keep
from tests.backup.conftest import Site

DAY = 86400


def at(*moments: str) -> list[Found]:
    found = []
    for moment in moments:
        name = parse(new_name("full", datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()))
        assert name is not None
        found.append(Found(name, 1, True, ()))
    return sorted(found, key=lambda one: one.name, reverse=True)


def stays(found: list[Found], keep: Keep, drilled: str | None = None) -> list[str]:
    reasons = kept(found, keep, drilled)
    return [datetime.fromtimestamp(one.name.created, UTC).strftime("%Y-%m-%d %H") for one in found if one.name.text in reasons]


NOTHING = {"last": 1, "daily": 0, "weekly": 0, "monthly": 0, "yearly": 0}


def test_the_last_of_each_period_stays() -> None:
    found = at("2026-11-25T03:00", "2026-11-25T15:00", "2026-11-24T15:00", "2026-11-22T15:00", "2026-11-16T15:00", "2026-10-31T15:00", "2025-12-31T15:00")
    assert stays(found, Keep(**NOTHING)) == ["2026-11-25 15"]
    assert stays(found, Keep(**{**NOTHING, "daily": 2})) == ["2026-11-25 15", "2026-11-24 15"]
    assert stays(found, Keep(**{**NOTHING, "weekly": 3})) == ["2026-11-25 15", "2026-11-22 15", "2026-10-31 15"]
    assert stays(found, Keep(**{**NOTHING, "monthly": 2})) == ["2026-11-25 15", "2026-10-31 15"]
    assert stays(found, Keep(**{**NOTHING, "yearly": 9})) == ["2026-11-25 15", "2025-12-31 15"]


def test_the_last_that_was_proven_stays_whatever_its_age() -> None:
    found = at("2026-11-25T03:00", "2026-11-24T03:00", "2020-01-01T03:00")
    assert stays(found, Keep(**NOTHING), drilled=found[-1].name.text) == ["2026-11-25 03", "2020-01-01 03"]


def test_many_are_thinned_out_to_a_few_and_again_to_the_same() -> None:
    start = datetime(2024, 1, 1, 2, tzinfo=UTC).timestamp()
    found = at(*(datetime.fromtimestamp(start + day * DAY, UTC).strftime("%Y-%m-%dT%H:%M") for day in range(1000)))
    keep = Keep(last=3, daily=7, weekly=4, monthly=12, yearly=2)
    once = stays(found, keep)
    assert len(once) <= 3 + 7 + 4 + 12 + 2
    left = [one for one in found if datetime.fromtimestamp(one.name.created, UTC).strftime("%Y-%m-%d %H") in once]
    assert stays(left, keep) == once


def test_pruning_by_the_command(site: Site) -> None:
    site.set(keep={**NOTHING, "daily": 2})
    drilled = site.backup()
    site.coollm("backup", "drill", "--identity", str(site.identity), "--quiet")
    place = site.state / "backups"
    names = {}
    for days in (1, 2, 3, 40):
        made = new_name("full", time.time() - days * DAY)
        names[days] = made
        for file in place.glob(f"{drilled}*"):
            shutil.copy(file, place / file.name.replace(drilled, made))
    foreign = names[40].replace(this_host(), "another")
    for file in place.glob(f"{names[40]}*"):
        shutil.copy(file, place / file.name.replace(names[40], foreign))
    unfinished = new_name("full", time.time() - 3 * DAY)
    (place / f"{unfinished}.tar.zst.age").write_bytes(b"x")
    fresh = new_name("full", time.time() - 60)
    (place / f"{fresh}.tar.zst.age").write_bytes(b"x")
    assert "say --yes" in site.coollm("backup", "prune", code=1).stderr
    plan = site.json("backup", "prune", "--dry-run")
    assert set(plan["go"]) == {names[2], names[3], names[40], unfinished}
    told = site.json("backup", "prune", "--yes")
    assert set(told["removed"]) == set(plan["go"])
    left = {one["id"] for one in site.json("backup", "list")["backups"]}
    assert left == {drilled, names[1], foreign, fresh}
    assert "all of them stay" in site.coollm("backup", "prune", "--yes").stdout
    assert site.coollm("backup", "prune", "--yes", "--quiet").stdout == ""
