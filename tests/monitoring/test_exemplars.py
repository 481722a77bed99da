"""Requests by their id beside the buckets of latency, where OpenMetrics is asked for and nowhere else."""

from __future__ import annotations

import math
from pathlib import Path

import requests
from coollm_cli.ops.monitoring.log_fields import FIELDS
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from coollm.telemetry.metrics import LATENCY_BUCKETS
from tests.conftest import serve, wait_for

CONFIGURATION = {
    "llm_providers": [{"id": "openai", "type": "openai", "base_url": "simulator://", "api_keys": ["sk-one"], "models": ["gpt-sim", "gpt-sim~*"]}],
}
OPEN_METRICS = {"accept": "application/openmetrics-text; version=1.0.0"}


def test_a_slow_request_can_be_looked_up_from_its_bucket(tmp_path: Path) -> None:
    with serve(tmp_path, CONFIGURATION, workers=1) as gateway:
        fast = gateway.chat("gpt-sim").headers["x-request-id"]
        slow = gateway.chat("gpt-sim~latency_ms=700").headers["x-request-id"]
        gateway.logged(slow)
        text = requests.get(f"{gateway.url}/metrics", headers=OPEN_METRICS, timeout=10)
        assert text.headers["content-type"].startswith("application/openmetrics-text")
        found = {}
        for family in text_string_to_metric_families(text.text):
            for sample in family.samples:
                if sample.exemplar is not None:
                    assert sample.name == "coo_llm_latency_seconds_bucket"
                    assert sample.exemplar.value <= float(sample.labels["le"])
                    seen = sample.exemplar
                    found[seen.labels["request_id"]] = (sample.labels["model"], float(sample.labels["le"]), seen.value, seen.timestamp)
        assert [found[request_id][0] for request_id in (fast, slow)] == ["gpt-sim", "gpt-sim~latency_ms=700"]
        for _, bound, seconds, at in found.values():
            assert bound == next(one for one in (*LATENCY_BUCKETS, math.inf) if seconds <= one)
            assert at is not None
        assert found[fast][2] < 0.7 <= found[slow][2]
        # The plain format has no place for them, and stays as it is.
        plain = wait_for(lambda: requests.get(f"{gateway.url}/metrics", timeout=10).text, 5, "an answer")
        assert slow not in plain
        assert any(family.name == "coo_llm_latency_seconds" for family in text_families(plain))
        # Every field of the log is in the map of fields, and no other.
        assert set(gateway.logged(slow)) == {field.name for field in FIELDS}
        assert all(len(field.means) <= 50 for field in FIELDS)
        # The id leads to the whole story.
        told = gateway.coollm("explain", slow)
        assert told.returncode == 0, told.stderr
        assert slow in told.stdout
