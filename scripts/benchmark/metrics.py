"""What telling the metrics of a request costs, and a scrape when every series is taken. PROMETHEUS_MULTIPROC_DIR has to be set before this is imported."""

from __future__ import annotations

import time
from typing import Any

from coollm.core.config.schema import Settings
from coollm.core.types import Target, Usage
from coollm.limits.settlement import Ending
from coollm.telemetry.metrics import MOST_CLIENTS, MOST_MODELS, Metrics
from coollm.telemetry.record import RequestRecord


def _record(number: int) -> RequestRecord:
    record = RequestRecord(f"req_{number:024d}", f"client-{number % (2 * MOST_CLIENTS)}", "chat")
    record.target = Target(provider="openai", type="openai", model=f"model-{number % (2 * MOST_MODELS)}", key_id="k")
    record.end(Ending.ANSWERED, Usage(input_tokens=10, output_tokens=20))
    return record


def measure(count: int) -> dict[str, dict[str, Any]]:
    """Of so many requests of more clients and models than have series of their own."""
    metrics = Metrics(Settings())
    for record in [_record(number) for number in range(count)]:
        metrics.observe(record)
    metrics.write()
    one = [_record(1) for _ in range(count)]
    began = time.perf_counter()
    for record in one:
        metrics.observe(record)
    each = (time.perf_counter() - began) / count
    times, size = [], 0
    for accept in ("", "application/openmetrics-text; version=1.0.0"):
        began = time.perf_counter()
        size = len(metrics.render(accept)[0])
        times.append(time.perf_counter() - began)
    return {
        "a request, µs": {"value": round(each * 1e6, 2)},
        "a scrape of every series, ms": {"value": round(times[0] * 1000)},
        "the same in OpenMetrics, with exemplars, ms": {"value": round(times[1] * 1000)},
        "its size, MB": {"value": round(size / 1e6, 2)},
    }
