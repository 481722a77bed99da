"""The last request of each class of latency, by its id: a scrape in OpenMetrics has them beside the buckets, so that a slow one can be looked up.

They are of the worker that answers the scrape; another scrape, another worker.

Source: https://prometheus.io/docs/specs/om/open_metrics_spec/, by which the labels of one have at most 128 characters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from prometheus_client import Metric
from prometheus_client.samples import Exemplar, Sample

LABEL = "request_id"
LONGEST_ID = 100
LATENCY = "coo_llm_latency_seconds"
BUCKET = f"{LATENCY}_bucket"


class Example(NamedTuple):
    """A request: its id, how long it took in seconds, and when it ended, in seconds of the epoch."""

    request_id: str
    seconds: float
    ended: float


Examples = dict[tuple[str, str, float], Example]
"""By provider, model and the upper bound of the class."""


class WithExemplars:
    """A registry whose latencies have examples beside them."""

    def __init__(self, registry: Any, examples: Examples) -> None:
        self._registry = registry
        self._examples = examples

    def collect(self) -> Iterator[Metric]:
        """Every metric."""
        for metric in self._registry.collect():
            if metric.name == LATENCY:
                metric.samples = [self._shown(sample) for sample in metric.samples]
            yield metric

    def _shown(self, sample: Sample) -> Sample:
        if sample.name != BUCKET:
            return sample
        found = self._examples.get((sample.labels["provider"], sample.labels["model"], float(sample.labels["le"])))
        if found is None:
            return sample
        return sample._replace(exemplar=Exemplar({LABEL: found.request_id[:LONGEST_ID]}, found.seconds, found.ended))
