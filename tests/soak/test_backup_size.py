"""A state of 5 GB is backed up while the gateway serves: how much memory that takes, and what its clients notice."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests
from sqlalchemy import text

from coollm.ledger.book import Ledger
from tests.conftest import clean_environment, serve
from tests.soak.test_large_ledger import FILL, REQUESTS

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

MOST_MEGABYTES = 300
STATE_BYTES = 5_000_000_000
RATE = 50
ROUND_SECONDS = 40

MEASURED = """
import resource, subprocess, sys, time
began = time.monotonic()
done = subprocess.run([sys.executable, "-m", "coollm_cli.main", *sys.argv[1:]], stdout=subprocess.DEVNULL)
largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
print(done.returncode, largest, round(time.monotonic() - began, 1))
"""


def percentiles(seconds: list[float]) -> tuple[float, float]:
    found = statistics.quantiles(seconds, n=100)
    return found[49] * 1000, found[98] * 1000


class Clients:
    """Requests at a rate that does not wait for answers."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key
        self.stopped = threading.Event()
        self.times: list[float] = []
        self.failed = 0

    def one(self, session: requests.Session) -> None:
        began = time.monotonic()
        body = {"model": "gpt-sim", "messages": [{"role": "user", "content": "x"}]}
        answer = session.post(f"{self.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {self.key}"}, timeout=60)
        self.times.append(time.monotonic() - began)
        self.failed += answer.status_code != 200

    def run(self, number: int, of: int) -> None:
        session, due = requests.Session(), time.monotonic() + number / RATE
        while not self.stopped.is_set():
            time.sleep(max(0.0, due - time.monotonic()))
            self.one(session)
            due += of / RATE

    def start(self, count: int = 8) -> None:
        self.threads = [threading.Thread(target=self.run, args=(number, count)) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def take(self) -> list[float]:
        found, self.times = self.times, []
        return found


def test_five_gigabytes(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "logs").mkdir(parents=True)
    ledger = Ledger(f"sqlite:///{state / 'ledger.sqlite'}")
    ledger.prepare()
    with ledger.writing() as connection:
        connection.execute(text(FILL))
    ledger.close()
    chance = random.Random(5)
    with (state / "logs" / "audit.log.1").open("wb") as log:
        while log.tell() + (state / "ledger.sqlite").stat().st_size < STATE_BYTES:
            block = "".join(json.dumps({"time": chance.random(), "hash": f"{chance.getrandbits(256):064x}"}) + "\n" for _ in range(20_000))
            log.write(block.encode() * 8)
    keys = clean_environment(HOME=str(tmp_path))
    made = subprocess.run(
        [sys.executable, "-m", "coollm_cli.main", "backup", "keygen", "key", "--json"], cwd=tmp_path, env=keys, capture_output=True, check=True
    )
    provider = {"id": "openai", "type": "openai", "base_url": "simulator://", "api_keys": ["sk-one"], "model": "gpt-sim", "models": ["gpt-sim"]}
    settings = {"llm_providers": [provider], "backup": {"recipients": [json.loads(made.stdout)["recipient"]], "target": str(tmp_path / "backups")}}
    with serve(tmp_path, settings, workers=1) as gateway:
        clients = Clients(gateway.url, gateway.client_key)
        clients.start()
        try:
            time.sleep(5)
            clients.take()
            time.sleep(ROUND_SECONDS)
            before = percentiles(clients.take())
            done = subprocess.run([sys.executable, "-c", MEASURED, "backup", "create"], env=gateway.environment, cwd=tmp_path, capture_output=True, text=True)
            during = percentiles(clients.take())
        finally:
            clients.stopped.set()
            for thread in clients.threads:
                thread.join()
        code, megabytes, seconds = done.stdout.split()
        assert code == "0", done.stderr
        row = json.loads(gateway.coollm("backup", "list", "--json").stdout)["backups"][0]
        print(f"\n5 GB, of which {REQUESTS} requests: {seconds} s, {megabytes} MB of memory at most, an archive of {row['size_bytes'] / 1e9:.2f} GB")
        print(f"p50 / p99 of clients before: {before[0]:.1f} / {before[1]:.1f} ms, while it runs: {during[0]:.1f} / {during[1]:.1f} ms")
        assert clients.failed == 0
        assert int(megabytes) < MOST_MEGABYTES
