"""What workers tell of themselves, and their metrics after they have ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from coollm.core.instances import LATENCY_BOUNDS, WORKERS, WorkerReport, forget_reports, read_reports, write_report
from coollm.server.run_files import clean_metrics, fold_metrics
from coollm.server.traffic import Traffic
from tests.conftest import clean_environment


class Served:
    def __init__(self, *, is_stream: bool = False, status: str = "200 OK", was_stopped: bool = False) -> None:
        self.is_stream, self.status, self.was_stopped = is_stream, status, was_stopped


def test_each_request_is_counted_once_by_how_it_ended() -> None:
    traffic = Traffic()
    ends = [
        Served(),
        Served(status="503 Service Unavailable"),
        Served(is_stream=True),
        Served(is_stream=True, was_stopped=True),
        Served(status="404 Not Found"),
    ]
    for served in ends:
        traffic.begin(served, time.monotonic() - 0.002)
        traffic.end(served, time.monotonic())
    gone, fault = Served(is_stream=True), Served(is_stream=True)
    for served in (gone, fault):
        traffic.begin(served, time.monotonic())
    assert traffic.now()[:2] == (2, 2)
    oldest = Served()
    traffic.begin(oldest, time.monotonic() - 7)
    assert [round(age) for age in traffic.ages()] == [7, 0, 0]
    traffic.give_up(oldest, is_fault=False)
    traffic.give_up(gone, is_fault=False)
    traffic.give_up(fault, is_fault=True)
    traffic.give_up(fault, is_fault=True)
    assert (traffic.requests, traffic.failed, traffic.streams_finished, traffic.streams_cut) == (8, 2, 1, 2)
    assert sum(traffic.counts) == 3
    assert 0.002 <= LATENCY_BOUNDS[next(place for place, count in enumerate(traffic.counts) if count)] < 0.004
    assert traffic.now() == (0, 0, 0.0)


def test_reports_are_read_whole_and_forgotten_after_an_hour(tmp_path: Path) -> None:
    (tmp_path / WORKERS).mkdir()
    now = time.time()
    write_report(tmp_path, WorkerReport(pid=os.getpid(), version="1", generation=3, started=now, written=now, requests=7))
    write_report(tmp_path, WorkerReport(pid=1, version="1", generation=3, started=now - 1, written=now - 60))
    (tmp_path / WORKERS / "2").write_text('{"pid": 2, "versi')
    (tmp_path / WORKERS / "3.new").write_text("{}")
    old, own = read_reports(tmp_path)
    assert (own.requests, own.is_live) == (7, True)
    assert not old.is_live, "it has not been heard of for a minute"
    os.utime(tmp_path / WORKERS / "1", (now - 4000, now - 4000))
    forget_reports(tmp_path)
    assert [report.pid for report in read_reports(tmp_path)] == [os.getpid()]
    write_report(tmp_path / "nowhere", own)  # a run directory that is gone stops nothing


WRITE = """
import os, sys
from prometheus_client import Counter, Gauge, Histogram
Counter("c", "c", ["l"]).labels("x").inc(float(sys.argv[1]))
Histogram("h", "h", buckets=(1, 2)).observe(1.5)
Gauge("live", "g", multiprocess_mode="livesum").set(5)
Gauge("last", "g", multiprocess_mode="mostrecent").set(float(sys.argv[1]))
print(os.getpid())
"""

READ = """
from prometheus_client import CollectorRegistry, multiprocess, generate_latest
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def run(code: str, directory: Path, *arguments: str) -> str:
    environment = clean_environment(PROMETHEUS_MULTIPROC_DIR=str(directory))
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=environment).stdout


def test_counters_only_grow_and_files_do_not(tmp_path: Path) -> None:
    pids = {int(run(WRITE, tmp_path, str(number))) for number in (1, 2, 3)}
    before = run(READ, tmp_path)
    for pid in pids:
        fold_metrics(tmp_path, {pid})
    after = run(READ, tmp_path)
    for line in ('c_total{l="x"} 6.0', 'h_bucket{le="2.0"} 3.0', "h_count 3.0", "last 3.0"):
        assert line in before
        assert line in after
    assert "live 15.0" in before
    assert "live 15.0" not in after
    assert {file.name for file in tmp_path.glob("*.db")} == {"counter_ended.db", "histogram_ended.db", "gauge_mostrecent_ended.db"}
    clean_metrics(tmp_path)
    assert list(tmp_path.glob("*.db")) == [], "of an earlier run, as nobody adds to them"
