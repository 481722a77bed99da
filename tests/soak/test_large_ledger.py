"""A ledger of ten million requests: a month's report by client, and half of it deleted while others write."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from coollm.ledger.book import DAY_MS, Ledger
from tests.ledger.entries import entry

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

REQUESTS = 10_000_000
DAYS = 200
CLIENTS = 300
MODELS = 10
START_MS = 20_000 * DAY_MS

FILL = f"""
WITH RECURSIVE number(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < {REQUESTS} - 1)
INSERT INTO usage (request_id, at_ms, charged_ms, client, team, provider, model, key_id, route, status, ending, input_tokens, cached_input_tokens,
  cache_write_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, cost_nano_usd, saved_nano_usd, cached, second, service_tier, estimated,
  latency_ms, first_token_ms)
SELECT printf('req_%032x', n), {START_MS} + n * {DAYS * DAY_MS // REQUESTS}, {START_MS} + n * {DAYS * DAY_MS // REQUESTS}, 'client-' || (n * 7919 % {CLIENTS}),
  '', 'openai', 'model-' || (n % {MODELS}), 'k', 'chat', 200, 'answered', 100, 0, 0, 0, 20, 0, 12345, 0, 0, 0, '', 0,
  200 + n % 3000, 100 + n % 700 FROM number
"""
SUM = """
INSERT INTO usage_{unit}s SELECT at_ms / {milliseconds}, client, provider, model, count(*), 0, sum(input_tokens), 0, 0, 0, sum(output_tokens), 0,
  sum(cost_nano_usd), 0, 0, 0, 0, sum(latency_ms) FROM usage GROUP BY 1, 2, 3, 4
"""

# In a process of its own, whose memory is its own.
PRUNE = """
import re, sys
from pathlib import Path
from coollm.ledger.book import Ledger
ledger = Ledger(sys.argv[1])
gone = ledger.prune(int(sys.argv[2]))
print(gone, int(re.findall(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[0]) // 1024)
"""


def test_ten_million_requests(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    ledger = Ledger(url)
    ledger.prepare()
    with ledger.writing() as connection:
        connection.execute(text(FILL))
        for unit, milliseconds in (("hour", DAY_MS // 24), ("day", DAY_MS)):
            connection.execute(text(SUM.format(unit=unit, milliseconds=milliseconds)))
    started = time.monotonic()
    report = ledger.report("client", START_MS + 90 * DAY_MS, START_MS + 120 * DAY_MS)
    seconds = time.monotonic() - started
    assert len(report["rows"]) == CLIENTS
    assert report["total"]["requests"] == REQUESTS * 30 // DAYS
    longest, shipped, stop = [0.0], [0], threading.Event()

    def write() -> None:
        while not stop.is_set():
            began = time.monotonic()
            ledger.ship([entry(10**9 + shipped[0], at_ms=START_MS + DAYS * DAY_MS)], "log", 1, shipped[0])
            longest[0] = max(longest[0], time.monotonic() - began)
            shipped[0] += 1
            time.sleep(0.1)

    writer = threading.Thread(target=write)
    writer.start()
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", PRUNE, url, str(START_MS + DAYS // 2 * DAY_MS)], capture_output=True, text=True, check=True, timeout=1500)
    took = time.monotonic() - began
    stop.set()
    writer.join()
    gone, megabytes = map(int, done.stdout.split())
    print(
        f"{REQUESTS} requests: a month by client in {seconds:.2f} s; {gone} deleted in {took:.0f} s with {megabytes} MB; others wrote in {longest[0]:.2f} s at most"
    )
    assert gone == REQUESTS // 2
    assert seconds < 2
    assert megabytes < 200
    assert longest[0] < 5, "nobody who writes meanwhile gives up"
    assert ledger.report("client", START_MS, START_MS + DAYS * DAY_MS)["total"]["requests"] == REQUESTS, "the sums stay"
    ledger.close()
