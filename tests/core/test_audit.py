"""The audit log: whatever is done to its lines shows, and where."""

from __future__ import annotations

import json
import os
import random
import threading
from pathlib import Path

import pytest

from coollm.core.audit import BEGINNING, AuditLog, _hash, verify
from coollm.core.errors import OperationFailed


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    (tmp_path / "elsewhere").mkdir()
    made = AuditLog(tmp_path / "logs" / "audit.log", tmp_path / "elsewhere")
    for number in range(12):
        made.write("ann", "scale", number=number, note="žluťoučký")
        if number == 5:
            os.rename(made.path, made.path.with_name("audit.log.1"))
            os.utime(made.path.with_name("audit.log.1"), (1, 1))
    return made


def lines(log: AuditLog) -> list[bytes]:
    return log.path.read_bytes().splitlines(keepends=True)


def test_as_it_was_written(log: AuditLog) -> None:
    assert verify(log) == (13, [])  # and the signature before them
    assert [file.name for file in log.files()] == ["audit.log.1", "audit.log"]


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("file", ["audit.log", "audit.log.1"])
def test_a_line_that_is_changed_removed_or_moved_shows_by_its_place(log: AuditLog, file: str, place: int) -> None:
    path = log.path.with_name(file)
    good = path.read_bytes()
    found = good.splitlines(keepends=True)

    def after(changed: list[bytes]) -> list[str]:
        path.write_bytes(b"".join(changed))
        os.utime(path, (1, 1) if file.endswith("1") else None)
        return verify(log)[1]

    entry = json.loads(found[place])
    entry["actor"] = "eve"
    assert after([*found[:place], json.dumps(entry, ensure_ascii=False).encode() + b"\n", *found[place + 1 :]]) == [
        f"{file}:{place + 1}: it was changed after it was written"
    ]
    removed = after(found[:place] + found[place + 1 :])
    assert removed[0].startswith("audit.log: " if (file, place) == ("audit.log", 5) else f"{file}:{place + 1}: ")
    assert "gone" in removed[0]
    assert removed[1:] == (["audit.log: nothing in it is signed"] if (file, place) == ("audit.log.1", 0) else [])
    copied = after([*found[: place + 1], found[place], *found[place + 1 :]])
    assert copied == [f"{file}:{place + 2}: it was inserted, a copy of {file}:{place + 1}"]
    other = (place + 2) % 6
    moved = list(found)
    moved[place], moved[other] = moved[other], moved[place]
    assert any(f"{file}:{min(place, other) + 1}:" in fault for fault in after(moved))
    assert after([*found[:place], b"{broken\n", *found[place:]]) == [f"{file}:{place + 1}: this is no line of the audit log"]
    assert after(found) == []


def test_a_tail_that_is_cut_off_shows(log: AuditLog) -> None:
    found = lines(log)
    for kept in range(6):
        log.path.write_bytes(b"".join(found[:kept]))
        assert len(verify(log)[1]) == 1
        assert "its end is gone" in verify(log)[1][0]


def test_a_made_up_line_needs_more_than_the_log(log: AuditLog) -> None:
    """Who can write the log alone can chain a line to it, and not make the head say so; who cuts the log and goes on is found by the head."""
    found = lines(log)
    log.path.write_bytes(b"".join(found[:3]))
    (log.path.parent / "another").mkdir()
    AuditLog(log.path, log.path.parent / "another").write("eve", "nothing")
    assert any("its end is gone" in fault for fault in verify(log)[1])


def test_who_writes_all_of_it_anew_needs_the_key_too(log: AuditLog, tmp_path: Path) -> None:
    before = BEGINNING
    for file in log.files():
        made = []
        for line in file.read_bytes().splitlines():
            fields = json.loads(line)
            del fields["hash"], fields["previous"]
            if fields.get("number") == 3:
                fields["actor"] = "eve"
            if fields["action"] == "checkpoint":
                fields["signed"] = before
            entry = {**fields, "previous": before, "hash": _hash(before, fields)}
            before = entry["hash"]
            made.append(json.dumps(entry, ensure_ascii=False) + "\n")
        moment = file.stat().st_mtime
        file.write_text("".join(made))
        os.utime(file, (moment, moment))
    (tmp_path / "elsewhere" / "audit-head").write_text(json.dumps({"hash": before, "time": ""}))
    assert verify(log)[1] == []  # nothing was signed after the line that was changed
    for number in range(120):
        log.write("ann", "scale", number=number)
    assert verify(log)[1] == []
    found = [json.loads(line) for line in lines(log)]
    place = next(place for place, entry in enumerate(found) if entry["action"] == "checkpoint")
    before = found[place - 3]["previous"]
    for entry in found[place - 3 :]:
        fields = {name: value for name, value in entry.items() if name not in ("hash", "previous")} | {"actor": "eve"}
        if fields["action"] == "checkpoint":
            fields["signed"] = before
        entry.clear()
        entry.update({**fields, "previous": before, "hash": _hash(before, fields)})
        before = entry["hash"]
    log.path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in found))
    (tmp_path / "elsewhere" / "audit-head").write_text(json.dumps({"hash": before, "time": ""}))
    signed = [number for number, entry in enumerate(found, 1) if entry["action"] == "checkpoint"]
    assert verify(log)[1] == [f"audit.log:{number}: its signature is not of a key that is known here" for number in signed]


def test_many_writers_make_one_chain(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log", tmp_path)

    def write() -> None:
        for _ in range(20):
            log.write(random.choice("abc"), "scale")

    threads = [threading.Thread(target=write) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(log) == (101, [])


def test_what_cannot_be_told_of_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperationFailed, match="cannot be written"):
        AuditLog(tmp_path / "file" / "audit.log", tmp_path).write("a", "b")
