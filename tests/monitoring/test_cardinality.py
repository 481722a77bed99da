"""Ten thousand clients that ask for two hundred models of their own invention do not make the metrics large, or slow to read."""

from __future__ import annotations

import time

from coollm.core.config.schema import Settings
from coollm.core.types import Target, Usage
from coollm.limits.settlement import Ending
from coollm.telemetry.metrics import MOST_CLIENTS, MOST_MODELS, Metrics
from coollm.telemetry.record import RequestRecord

CLIENTS, MODELS = 10_000, 200
LARGEST_BYTES = 5_000_000


def test_series_are_bounded() -> None:
    metrics = Metrics(Settings())
    for number in range(CLIENTS):
        record = RequestRecord(f"req_{number}", f"client-{number}", "chat")
        record.target = Target(provider="openai", type="openai", model=f"invented-{number % MODELS}-{number // 4}", key_id="k")
        record.budgets = (("client", f"client-{number}", 0.5),)
        record.end(Ending.ANSWERED, Usage(input_tokens=5, output_tokens=7))
        metrics.observe(record)
    body, _ = metrics.render("")
    began = time.monotonic()
    body, _ = metrics.render("application/openmetrics-text")
    text = body.decode()
    print(f"{len(body)} bytes, {(time.monotonic() - began) * 1000:.0f} ms")
    assert len(body) < LARGEST_BYTES
    assert text.count("coo_llm_client_requests_total{") == MOST_CLIENTS + 1
    assert text.count("coo_llm_budget_used_ratio{") == MOST_CLIENTS
    models = {line.split('model="')[1].split('"')[0] for line in text.splitlines() if line.startswith("coo_llm_requests_total{")}
    assert len(models) == MOST_MODELS + 1
    assert "other" in models
    total = sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("coo_llm_client_requests_total{"))
    assert total == CLIENTS, "nobody is left out of the sum"
