"""The ledger's PostgreSQL dies under load and its standby takes over: no request notices, and the ledger has every one of them, once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from coollm.ledger.book import Ledger
from tests.conftest import Postgresql, SimulatorHandle, serve, wait_for
from tests.soak.chaos import Load
from tests.soak.test_chaos import configuration, prove


def test_the_standby_takes_over(simulator: SimulatorHandle, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        primary, standby = (Postgresql(made) for made in (tmp_path / "primary", tmp_path / "standby") if made.mkdir() is None)
        primary.make()
        process = stack.enter_context(primary.running())
        standby.follow(primary)
        stack.enter_context(standby.running())
        settings = configuration(simulator.url, {"type": "sqlite"}, tmp_path / "not-used")
        hosts = f"host=127.0.0.1,127.0.0.1&port={primary.port},{standby.port}"
        settings["storage"]["ledger"]["url"] = f"postgresql+psycopg://ledger@/postgres?{hosts}&target_session_attrs=read-write"
        gateway = stack.enter_context(serve(tmp_path, settings, workers=1))
        with Load([gateway], clients=6) as load:
            time.sleep(3)
            assert json.loads(gateway.coollm("usage", "verify", "--json").stdout)["lines"] > 20
            process.send_signal(signal.SIGQUIT)  # at once, without a word to who is connected
            process.wait()
            time.sleep(2)
            standby.promote()
            before = len(load.answered)
            wait_for(lambda: len(load.answered) > before + 50, 10, "answers")
        assert set(load.statuses) == {200}
        assert not load.hung
        prove([gateway], load)
    assert "Traceback" not in gateway.words()


@contextlib.contextmanager
def nothing_passes(port: int) -> Iterator[None]:
    """What comes to a port, and from it, is dropped without a word, as of a host that is gone."""
    table = f"coollm_test_{os.getpid()}"
    chain = f"type filter hook input priority 0;\ntcp dport {port} drop\ntcp sport {port} drop\n"
    rules = f"table inet {table} {{\nchain input {{\n{chain}}}\n}}\n"
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", "delete", "table", "inet", table], check=True)


def test_a_host_that_is_gone_without_a_word_is_given_up(tmp_path: Path) -> None:
    """The thread that ships is not held for the quarter of an hour that TCP would wait; and when the host is there again, so is the ledger."""
    (tmp_path / "primary").mkdir()
    server = Postgresql(tmp_path / "primary")
    server.make()
    with server.running():
        ledger = Ledger(f"postgresql+psycopg://ledger@127.0.0.1:{server.port}/postgres")
        with ledger.reading() as connection, nothing_passes(server.port):
            began = time.monotonic()
            with pytest.raises(OperationalError):
                connection.execute(text("SELECT 1"))
            print(f"sent: given up in {time.monotonic() - began:.1f} s")
            assert time.monotonic() - began < 60, "it is given up at all"
        with ledger.reading() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
        ledger.close()
