"""Orders of the console: what can be one, what root takes of them, and what happens with the rest."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import msgspec
import pytest
from coollm_cli.ops import orders as ops

from coollm.core.errors import OperationFailed
from coollm.core.orders import ACTIONS, Order, Orders


def order(**more: object) -> Order:
    told: dict[str, object] = {"id": "20261129T101500-0011aabb", "action": "backup", "by": "ann", "role": "admin", "address": "10.0.0.1", "at": time.time()}
    return Order(**{**told, **more})  # type: ignore[arg-type]


def write(state: Path, one: Order, name: str | None = None) -> None:
    directory = state / "orders"
    directory.mkdir(exist_ok=True)
    (directory / (name or f"{one.id}.json")).write_bytes(msgspec.json.encode(one))


def test_only_what_is_in_the_table_can_be_ordered(tmp_path: Path) -> None:
    kept = Orders(tmp_path)
    for action in ACTIONS:
        given = kept.give(action, "2" if ACTIONS[action].has_instance else "", "ann", "admin", "10.0.0.1")
        assert given.command()[0] == ACTIONS[action].words[0]
    assert len(kept.waiting()) == len(ACTIONS)
    for action, argument in (("purge", ""), ("drain", ""), ("drain", "0"), ("drain", "100"), ("drain", "--all"), ("drain", "1 2"), ("drain", "1\n")):
        with pytest.raises(OperationFailed):
            kept.give(action, argument, "ann", "admin", "10.0.0.1")


def test_root_checks_again_what_the_gateway_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has the gateway's user can write these files."""
    monkeypatch.setattr(ops.subprocess, "run", lambda *_, **__: pytest.fail("a command was begun"))
    bad = [
        order(id="20261129T101500-00000001", action="reboot"),
        order(id="20261129T101500-00000002", action="drain", argument="1;reboot"),
        order(id="20261129T101500-00000003", role="viewer"),
        order(id="20261129T101500-00000004", role="nobody"),
        order(id="20261129T101500-00000005", action="restart", role="operator"),
        order(id="20261129T101500-00000006", at=time.time() - 3600),
        order(id="20261129T101500-00000007", at=time.time() + 3600),
    ]
    for one in bad:
        write(tmp_path, one)
    ended = ops.run(tmp_path / "coollm.yaml", tmp_path)
    assert [one.id for one in ended] == [one.id for one in bad]
    assert {one.exit_code for one in ended} == {3}
    assert Orders(tmp_path).waiting() == []
    assert len(Orders(tmp_path).done()) == len(bad)


def test_one_that_was_broken_off_is_not_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.subprocess, "run", lambda *_, **__: pytest.fail("a command was begun"))
    write(tmp_path, order(began=time.time()))
    [ended] = ops.run(tmp_path / "coollm.yaml", tmp_path)
    assert ended.exit_code == 1
    assert "broken off" in ended.told


def test_what_is_no_order_is_removed_and_nothing_beside_it(tmp_path: Path) -> None:
    directory = tmp_path / "orders"
    directory.mkdir()
    victim = tmp_path / "victim.json"
    victim.write_bytes(msgspec.json.encode(order()))
    (directory / "20261129T101500-0011aabb.json").symlink_to(victim)
    (directory / "junk.json").write_text("{")
    (directory / "folder.json").mkdir()
    os.mkfifo(directory / "20261129T101500-0011aacc.json")
    write(tmp_path, order(id="../../etc/x"), "20261129T101500-0011aadd.json")
    assert ops.run(tmp_path / "coollm.yaml", tmp_path) == []
    assert list(directory.glob("*.json")) == []
    assert victim.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_root_does_nothing_that_the_owner_of_the_orders_may_not() -> None:
    """A link in the place of a directory leads root nowhere."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are root's alone
        Path(folder).chmod(0o755)
        _with_a_link(Path(folder))


def _with_a_link(place: Path) -> None:
    state, elsewhere = place / "state", place / "elsewhere"
    state.mkdir()
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "precious.json").write_text("{}")
    write(state, order(action="reboot"))
    for path in (state, state / "orders", *(state / "orders").iterdir()):
        os.chown(path, 65534, 65534)
    (state / "orders" / "done").symlink_to(elsewhere)
    with pytest.raises(OSError, match="ermission"):
        ops.run(place / "coollm.yaml", state)
    assert [path.name for path in elsewhere.iterdir()] == ["precious.json"]
    assert os.geteuid() == 0
    (state / "orders" / "done").unlink()
    assert [one.exit_code for one in ops.run(place / "coollm.yaml", state)] == [3]
