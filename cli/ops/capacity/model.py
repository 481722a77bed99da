"""What load costs a worker, and how many of them it needs. Pure: figures in, figures out.

A worker that is hardly busy spends more processor time on each request than one that is full, since it wakes up for each, and a full one takes several at a
time. COSTS says how much more, by how busy it is: measured with one worker, three vendor keys, limits and a budget on SQLite, requests of 500 bytes at fixed
rates (`scripts/bench --only capacity` measures them again, and how far a prediction is from what is then reached).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from coollm_cli.ops.load import Load

COSTS = (
    (0.0, 9.7),
    (0.04, 9.7),
    (0.08, 7.6),
    (0.1, 5.2),
    (0.12, 3.2),
    (0.2, 2.55),
    (0.26, 2.45),
    (0.31, 2.2),
    (0.41, 2.0),
    (0.55, 1.94),
    (0.76, 1.85),
    (0.9, 1.47),
    (1.0, 1.0),
)
"""How busy a worker is, and how many times what a request costs a full one."""

FULL = 0.97
"""A worker that is so busy takes no more."""

COMFORTABLE = 0.7
"""What is recommended at most, so that a burst or the loss of an instance finds room."""

REQUEST_SECONDS = 0.000206
"""Processor time of a small request in a full worker, where nothing can be measured: of the machine that COSTS is from."""

STREAM_SHARE = 0.0008
"""The part of a processor that a stream of 50 pieces a second takes, of the same machine: 14 µs for each piece (`scripts/bench --only streams`), rounded up."""

STREAM_BYTES = 40_000
WORKER_BYTES = 90_000_000

LEAST_BUSY = 0.1
LEAST_REQUESTS = 200
"""Of less load than this nothing is learned."""

SQLITE_REQUESTS_PER_SECOND = 2000.0
"""Above it the writers of one SQLite file wait for each other."""


@dataclass(frozen=True)
class Cost:
    """Processor time of a request in a full worker, and what part of a processor a stream takes. `is_measured` says whether the first is this gateway's own."""

    request_seconds: float
    stream_share: float
    is_measured: bool


def factor(busy: float) -> float:
    """How many times what it costs a full worker a request costs one that is so busy."""
    busy = min(max(busy, 0.0), 1.0)
    for (low, first), (high, second) in pairwise(COSTS):
        if busy <= high:
            return first + (second - first) * (busy - low) / (high - low)
    return COSTS[-1][1]


def is_telling(load: Load) -> bool:
    """Whether there is enough of a load to learn from."""
    return load.busy >= LEAST_BUSY and load.requests * load.seconds >= LEAST_REQUESTS


def cost_of(load: Load) -> Cost:
    """What a request costs, from a load; the reference machine's figure where there is too little of it."""
    if not is_telling(load):
        return Cost(REQUEST_SECONDS, STREAM_SHARE, is_measured=False)
    own = load.processors - load.streams * STREAM_SHARE
    if own <= 0.2 * load.processors:  # it is streams that keep it busy: their share is what can be learned
        share = (load.processors - load.requests * REQUEST_SECONDS) / load.streams
        return Cost(REQUEST_SECONDS, max(share, STREAM_SHARE / 10), is_measured=True)
    return Cost(own / load.requests / factor(load.busy), STREAM_SHARE, is_measured=True)


def needed(cost: Cost, requests: float, streams: float) -> float:
    """Processors that a load takes of full workers."""
    return requests * cost.request_seconds + streams * cost.stream_share


def most_requests(cost: Cost, workers: int, cores: int, streams: float = 0.0) -> float:
    """Requests each second at which the workers are full, beside so many streams."""
    room = FULL * min(workers, cores) - streams * cost.stream_share
    return max(0.0, room / cost.request_seconds)


@dataclass(frozen=True)
class Advice:
    """What a load needs. `instances` have `workers` each; more than fit on this host's cores are for other hosts."""

    processors: float
    busy: float
    workers: int
    instances: int
    hosts: int
    memory_bytes: int
    store: str
    fits: bool


def advise(cost: Cost, requests: float, streams: float, *, workers: int, cores: int, store: str) -> Advice:
    """How many instances of `workers` each a load needs, on hosts of `cores`."""
    processors = needed(cost, requests, streams)
    all_workers = max(1, math.ceil(processors / COMFORTABLE))
    instances = max(1, math.ceil(all_workers / workers))
    hosts = max(1, math.ceil(all_workers / cores))
    memory = instances * workers * WORKER_BYTES + round(streams * STREAM_BYTES)
    wanted = "redis" if hosts > 1 or requests > SQLITE_REQUESTS_PER_SECOND else store if store != "memory" or instances * workers == 1 else "sqlite"
    return Advice(processors, processors / (instances * workers), workers, instances, hosts, memory, wanted, fits=hosts == 1)


def growth(amounts: Sequence[float]) -> float | None:
    """How much a figure grows each day, as a part of its usual amount: the median slope of all pairs (Theil and Sen), which a wild day does not turn.

    None of fewer than seven days, or where nothing is usual. Source: https://en.wikipedia.org/wiki/Theil%E2%80%93Sen_estimator.
    """
    if len(amounts) < 7:
        return None
    usual = _median(amounts)
    if usual <= 0:
        return None
    slopes = [(amounts[second] - amounts[first]) / (second - first) for first in range(len(amounts)) for second in range(first + 1, len(amounts))]
    return _median(slopes) / usual


def days_until(now: float, most: float, daily: float | None) -> float | None:
    """In how many days what is `now` comes to `most`, if it goes on growing by `daily`; 0 if it is there, None if it never does."""
    if now >= most:
        return 0.0
    if not daily or daily <= 0 or now <= 0:
        return None
    return (most / now - 1) / daily


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
