"""Restarts, upgrades and changes of the configuration under load: nothing fails, nothing is cut, and the receipt says what the clients say."""

from __future__ import annotations

import time

import pytest

from tests.host.conftest import Installed

pytestmark = pytest.mark.timeout(600)


def test_a_rolling_restart_loses_nothing(installed: Installed) -> None:
    with installed.load() as clients:
        time.sleep(3)
        receipt = installed.json("restart", "--rolling")
    assert clients["failed"] == []
    assert clients["streams_cut"] == []
    assert clients["requests"] > 500
    assert clients["streams_finished"] >= 100
    assert receipt["ok"] is True
    assert receipt["failed"] == receipt["streams_cut"] == receipt["probes_failed"] == receipt["probe_streams_cut"] == 0
    print(clients, receipt)
