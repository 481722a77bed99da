"""Prometheus metrics of requests, summed over all workers of the host.

With PROMETHEUS_MULTIPROC_DIR set (the server sets it) every worker writes to files there and a scrape of any of them reads all
(https://prometheus.github.io/client_python/multiprocess/). Labelled children are kept: looking one up costs more than counting.
"""

from __future__ import annotations

import os
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client.exposition import choose_encoder

from coollm import __version__
from coollm.core.config.schema import Settings
from coollm.core.types import Target, Usage
from coollm.telemetry.record import HIT, RequestRecord

LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
OVERHEAD_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)

# Models come from clients where a provider lists none: beyond this many the label says "other".
MOST_MODELS = 500
OTHER = "other"


class Metrics:
    """The metrics of one gateway, in a registry of its own."""

    def __init__(self, settings: Settings) -> None:
        self.registry = CollectorRegistry()
        self.is_enabled = settings.logging.prometheus.enabled
        self._models: set[str] = set()
        self._children: dict[tuple[Any, ...], Any] = {}
        self._requests = self._counter("coo_llm_requests", "Requests that reached a provider, by outcome.", "provider", "model", "key", "status")
        self._errors = self._counter("coo_llm_errors", "Attempts at a provider that failed, by cause.", "provider", "type")
        self._tokens = self._counter("coo_llm_tokens", "Tokens, in disjoint kinds.", "provider", "model", "key", "kind")
        self._cost = self._counter("coo_llm_cost", "US dollars, where the price is known.", "provider", "model", "key")
        self._rate_limits = self._counter("coo_llm_rate_limits", "Requests refused by a limit, or slowed by a vendor's.", "scope")
        self._client_requests = self._counter("coo_llm_client_requests", "Requests of a client.", "client")
        self._client_tokens = self._counter("coo_llm_client_tokens", "Tokens of a client.", "client", "kind")
        self._client_cost = self._counter("coo_llm_client_cost", "US dollars of a client.", "client")
        self._client_errors = self._counter("coo_llm_client_errors", "Requests of a client that failed.", "client")
        self._cache_requests = self._counter("coo_llm_cache_requests", "Requests that the cache may answer, by what it had.", "result")
        self._cache_saved = self._counter("coo_llm_cache_saved_cost", "US dollars that answers from the cache would have cost.")
        self._latency = self._histogram("coo_llm_latency_seconds", "Whole requests.", LATENCY_BUCKETS, "provider", "model")
        self._first_token = self._histogram("coo_llm_time_to_first_token_seconds", "Streams, to their first content.", LATENCY_BUCKETS, "provider", "model")
        self._overhead = self._histogram("coo_llm_overhead_seconds", "What the gateway adds to the vendors' time.", OVERHEAD_BUCKETS)
        self.active_streams = Gauge("coo_llm_active_streams", "Streams now.", registry=self.registry, multiprocess_mode="livesum")
        self._budget_used = Gauge(
            "coo_llm_budget_used_ratio",
            "Share of a budget that is spent or reserved, 0 to 1.",
            ["scope", "id"],
            registry=self.registry,
            multiprocess_mode="mostrecent",
        )
        self.store_up = Gauge("coo_llm_store_up", "Whether the store of limits answers.", registry=self.registry, multiprocess_mode="livemin")
        self.key_health = Gauge(
            "coo_llm_key_health",
            "1 if a vendor key is usable, 0 if it cools down.",
            ["provider", "key"],
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        build = Gauge("coo_llm_build_info", "The version that runs.", ["version"], registry=self.registry, multiprocess_mode="livemax")
        build.labels(__version__).set(1)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def _child(self, metric: Any, *labels: str) -> Any:
        key = (id(metric), *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child

    def observe(self, record: RequestRecord) -> None:
        """Takes in a request that has ended."""
        if not self.is_enabled:
            return
        self._observe_client(record)
        for attempt in record.attempts:
            if attempt.outcome == "rate_limited":
                self._child(self._rate_limits, "provider").inc()
            if attempt.outcome not in ("answered", "skipped", "client_gone"):
                self._child(self._errors, attempt.provider, attempt.outcome).inc()
        if record.status == 429 and not record.attempts:
            self._child(self._rate_limits, "client").inc()
        for kind, identity, share in record.budgets:
            self._child(self._budget_used, kind, identity).set(share)
        if record.cache is not None:
            self._child(self._cache_requests, record.cache).inc()
            self._cache_saved.inc(record.saved_usd)
        if record.target is not None and record.cache != HIT:
            self._observe_target(record, record.target)

    def _observe_target(self, record: RequestRecord, target: Target) -> None:
        provider, key = target.provider, target.key_id
        model = self._model(f"{provider}:{target.model}", target.model)
        self._child(self._requests, provider, model, key, str(record.status)).inc()
        for kind, amount in _kinds(record.usage):
            self._child(self._tokens, provider, model, key, kind).inc(amount)
        if record.cost_usd:
            self._child(self._cost, provider, model, key).inc(record.cost_usd)
        self._child(self._latency, provider, model).observe(record.latency_seconds)
        if record.first_token_seconds is not None:
            self._child(self._first_token, provider, model).observe(record.first_token_seconds)
        if not record.is_stream:
            self._overhead.observe(max(0.0, record.latency_seconds - record.upstream_seconds))

    def _observe_client(self, record: RequestRecord) -> None:
        self._child(self._client_requests, record.client).inc()
        for kind, amount in _kinds(record.usage):
            self._child(self._client_tokens, record.client, kind).inc(amount)
        if record.cost_usd:
            self._child(self._client_cost, record.client).inc(record.cost_usd)
        if record.error is not None:
            self._child(self._client_errors, record.client).inc()

    def _model(self, name: str, model: str) -> str:
        if name not in self._models and len(self._models) >= MOST_MODELS:
            return OTHER
        self._models.add(name)
        return model

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition of all workers, and its content type."""
        encoder, content_type = choose_encoder(accept)
        registry = self.registry
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return encoder(registry), content_type


def _kinds(usage: Usage) -> list[tuple[str, int]]:
    kinds = (
        ("input", usage.input_tokens),
        ("cached_input", usage.cached_input_tokens),
        ("cache_write", usage.all_cache_write_tokens),
        ("output", usage.output_tokens),
        ("reasoning", usage.reasoning_tokens),
    )
    return [(kind, amount) for kind, amount in kinds if amount]
