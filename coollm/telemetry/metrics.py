"""Prometheus metrics of requests, summed over all workers of the host.

With PROMETHEUS_MULTIPROC_DIR set (the server sets it) every worker writes to files there and a scrape of any of them reads all
(https://prometheus.github.io/client_python/multiprocess/). What a request adds is summed up in the worker and written once a second.
"""

from __future__ import annotations

import math
import os
import time
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gevent
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client.exposition import choose_encoder

from coollm import __version__
from coollm.core.config.schema import Settings
from coollm.core.instances import resident_bytes
from coollm.core.types import Target, Usage
from coollm.server.run_files import metrics_lock
from coollm.telemetry.exemplars import Example, Examples, WithExemplars
from coollm.telemetry.record import ANSWERED, CLIENT_GONE, HIT, STOPPED, Attempt, RequestRecord

LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
OVERHEAD_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)

# Models come from clients where a provider lists none: beyond this many the label says "other".
MOST_MODELS = 400

# The same of clients: what each of them uses is in the ledger in any case.
MOST_CLIENTS = 1000
OTHER = "other"


WRITE_EVERY_SECONDS = 1.0
OPEN_METRICS = "application/openmetrics-text"

KINDS = ("input", "cached_input", "cache_write", "output", "reasoning")


class SummedHistogram(Histogram):
    """A histogram that many observations are added to at once."""

    def add(self, counts: Sequence[int], total: float) -> None:
        """So many more observations in each bucket, the last one having no bound, and their sum."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class _Times:
    """Observations that are not written yet."""

    __slots__ = ("bounds", "counts", "last", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.last: dict[int, tuple[str, float]] = {}

    def example(self, request_id: str, seconds: float) -> None:
        """One more, which its class can be known by."""
        place = bisect_left(self.bounds, seconds)
        self.counts[place] += 1
        self.total += seconds
        self.last[place] = (request_id, seconds)

    def observe(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def write(self, histogram: Any) -> None:
        """Adds all to a histogram, and begins anew."""
        histogram.add(self.counts, self.total)
        self.counts = [0] * len(self.counts)
        self.total = 0.0


class _Sums:
    """What the requests of one client, or to one target, have come to since it was last written."""

    __slots__ = ("cost", "errors", "first_token", "latency", "requests", "tokens")

    def __init__(self) -> None:
        self.latency = _Times(LATENCY_BUCKETS)
        self.first_token = _Times(LATENCY_BUCKETS)
        self.clear()

    def clear(self) -> None:
        """Begins anew."""
        self.requests = 0
        self.errors = 0
        self.cost = 0.0
        self.tokens = [0] * len(KINDS)

    def add(self, usage: Usage, cost_usd: float | None) -> None:
        """One more request."""
        self.requests += 1
        tokens = self.tokens
        tokens[0] += usage.input_tokens
        tokens[3] += usage.output_tokens
        if usage.cached_input_tokens or usage.cache_write_tokens or usage.cache_write_1h_tokens:
            tokens[1] += usage.cached_input_tokens
            tokens[2] += usage.all_cache_write_tokens
        if usage.reasoning_tokens:
            tokens[4] += usage.reasoning_tokens
        if cost_usd:
            self.cost += cost_usd


class Metrics:
    """The metrics of one gateway, in a registry of its own."""

    def __init__(self, settings: Settings) -> None:
        self.registry = CollectorRegistry()
        self.is_enabled = settings.logging.prometheus.enabled
        self._models: set[str] = set()
        self._budgets: set[tuple[str, str]] = set()
        self._children: dict[tuple[Any, ...], Any] = {}
        self._examples: Examples = {}
        self._of_clients: dict[str, _Sums] = {}
        self._of_targets: dict[tuple[str, str, str, int], _Sums] = {}
        self._overheads = _Times(OVERHEAD_BUCKETS)
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
        self._admin_requests = self._counter("coo_llm_admin_requests", "Requests to the admin API.", "endpoint", "status")
        self._admin_rate_limits = self._counter("coo_llm_admin_rate_limits", "Requests to the admin API that its rate limit or a lock-out refused.")
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
        self.store_up = Gauge("coo_llm_store_up", "Whether the store of limits answers.", registry=self.registry, multiprocess_mode="livemostrecent")
        self.key_health = Gauge(
            "coo_llm_key_health",
            "1 if a vendor key is usable, 0 if it cools down.",
            ["provider", "key"],
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        self.generation = Gauge("coo_llm_config_generation", "The configuration that is served.", registry=self.registry, multiprocess_mode="livemin")
        self.last_backup = self._time("coo_llm_backup_last_success_timestamp_seconds", "When the last backup of this host was made; 0 for never.")
        self.last_drill = self._time("coo_llm_backup_last_drill_timestamp_seconds", "When a restore of this host was last proven; 0 for never.")
        self.drill_seconds = self._time("coo_llm_backup_last_drill_seconds", "How long that restore took.")
        self.audit_verified = self._time("coo_llm_audit_verified_timestamp_seconds", "When the audit log was last verified; 0 for never.")
        self.audit_faults = self._time("coo_llm_audit_faults", "What is wrong with the audit log, as it was last verified.")
        self.anomaly = Gauge(
            "coo_llm_anomaly_ratio",
            "How many times its usual hour a client that is out of its ordinary has come to; 0 when that is over.",
            ["client", "kind"],
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        self._cpu = Counter("coo_llm_worker_cpu_seconds", "Processor time of all workers.", registry=self.registry)
        self._memory = Gauge("coo_llm_worker_memory_bytes", "Memory of all workers.", registry=self.registry, multiprocess_mode="livesum")
        self._workers = Gauge("coo_llm_workers", "Workers that run.", registry=self.registry, multiprocess_mode="livesum")
        self._cpu_told = 0.0
        host_memory = Gauge("coo_llm_host_memory_bytes", "Memory that this host has.", registry=self.registry, multiprocess_mode="livemax")
        host_memory.set(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE"))
        self.config_drift = Gauge(
            "coo_llm_config_drift", "1 if the configuration's file is not what is served.", registry=self.registry, multiprocess_mode="mostrecent"
        )
        self.certificate_expiry = Gauge(
            "coo_llm_certificate_expiry_timestamp_seconds",
            "When the certificate that is served ends; 0 without one.",
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.key_age = Gauge(
            "coo_llm_key_age_seconds",
            "How long ago a vendor key of the secret store was set.",
            ["provider", "key"],
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        build = Gauge("coo_llm_build_info", "The version that runs.", ["version"], registry=self.registry, multiprocess_mode="livemax")
        build.labels(__version__).set(1)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> SummedHistogram:
        return SummedHistogram(name, text, labels, buckets=buckets, registry=self.registry)

    def _child(self, metric: Any, *labels: str) -> Any:
        key = (id(metric), *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child

    def observe(self, record: RequestRecord) -> None:
        """Takes in a request that has ended. What is rare is written at once."""
        if not self.is_enabled:
            return
        own = self._of_clients.get(record.client)
        if own is None:
            client = record.client if len(self._of_clients) < MOST_CLIENTS else OTHER
            own = self._of_clients.setdefault(client, _Sums())
        own.add(record.usage, record.cost_usd)
        if record.error:
            own.errors += 1
        for attempt in record.attempts:
            if attempt.outcome != ANSWERED:
                self._observe_failure(attempt)
        if record.status == 429 and not record.attempts:
            self._child(self._rate_limits, "client").inc()
        for kind, identity, share in record.budgets:
            if (kind, identity) in self._budgets or len(self._budgets) < MOST_CLIENTS:
                self._budgets.add((kind, identity))
                self._child(self._budget_used, kind, identity).set(share)
        if record.cache is not None:
            self._child(self._cache_requests, record.cache).inc()
            self._cache_saved.inc(record.saved_usd)
        if record.target is not None and record.cache != HIT:
            self._observe_target(record, record.target)

    def administered(self, endpoint: str, status: int) -> None:
        """Takes in a request to the admin API."""
        if self.is_enabled:
            self._child(self._admin_requests, endpoint, str(status)).inc()
            if status == 429:
                self._admin_rate_limits.inc()

    def _observe_failure(self, attempt: Attempt) -> None:
        if attempt.outcome == "rate_limited":
            self._child(self._rate_limits, "provider").inc()
        if attempt.outcome not in ("skipped", CLIENT_GONE, STOPPED):
            self._child(self._errors, attempt.target.provider, attempt.outcome).inc()

    def _observe_target(self, record: RequestRecord, target: Target) -> None:
        place = (target.provider, target.model, target.key_id, record.status)
        sums = self._of_targets.get(place)
        if sums is None:
            place = (target.provider, self._model(f"{target.provider}:{target.model}", target.model), target.key_id, record.status)
            sums = self._of_targets.get(place)
            if sums is None:
                sums = self._of_targets[place] = _Sums()
        sums.add(record.usage, record.cost_usd)
        sums.latency.example(record.request_id, record.latency_seconds)
        if record.first_token_seconds is not None:
            sums.first_token.observe(record.first_token_seconds)
        if not record.is_stream:
            overhead = record.latency_seconds - record.upstream_seconds
            self._overheads.observe(overhead if overhead > 0 else 0.0)

    def run(self) -> None:
        """Writes what has come together, until the worker ends."""
        while True:
            gevent.sleep(WRITE_EVERY_SECONDS)
            self.write()

    def write(self) -> None:
        """Writes what has come together since the last time."""
        self._write_process()
        self._overheads.write(self._overhead)
        for client, sums in self._of_clients.items():
            if sums.requests:
                self._write(sums, (client,), (client,), self._client_requests, self._client_tokens, self._client_cost)
                if sums.errors:
                    self._child(self._client_errors, client).inc(sums.errors)
                sums.clear()
        for (provider, model, key, status), sums in self._of_targets.items():
            if sums.requests:
                place = (provider, model, key)
                self._write(sums, (*place, str(status)), place, self._requests, self._tokens, self._cost)
                sums.latency.write(self._child(self._latency, provider, model))
                self._keep_examples(provider, model, sums.latency)
                if any(sums.first_token.counts):
                    sums.first_token.write(self._child(self._first_token, provider, model))
                sums.clear()

    def _keep_examples(self, provider: str, model: str, times: _Times) -> None:
        for place, (request_id, seconds) in times.last.items():
            bound = times.bounds[place] if place < len(times.bounds) else math.inf
            self._examples[provider, model, bound] = Example(request_id, seconds, time.time())
        times.last.clear()

    def _write_process(self) -> None:
        """What this worker itself uses."""
        used = time.process_time()
        self._cpu.inc(used - self._cpu_told)
        self._cpu_told = used
        self._memory.set(resident_bytes())
        self._workers.set(1)

    def _write(self, sums: _Sums, counted: tuple[str, ...], place: tuple[str, ...], requests: Counter, tokens: Counter, cost: Counter) -> None:
        self._child(requests, *counted).inc(sums.requests)
        for kind, amount in zip(KINDS, sums.tokens, strict=True):
            if amount:
                self._child(tokens, *place, kind).inc(amount)
        if sums.cost:
            self._child(cost, *place).inc(sums.cost)

    def _model(self, name: str, model: str) -> str:
        if name not in self._models and len(self._models) >= MOST_MODELS:
            return OTHER
        self._models.add(name)
        return model

    def _time(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry, multiprocess_mode="mostrecent")

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition of all workers, and its content type. What the others have counted in the last second may be missing."""
        self.write()
        encoder, content_type = choose_encoder(accept)
        if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            return encoder(self._with_examples(self.registry, content_type)), content_type
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        with metrics_lock(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]), to_change=False):
            return encoder(self._with_examples(registry, content_type)), content_type

    def _with_examples(self, registry: CollectorRegistry, content_type: str) -> Any:
        return WithExemplars(registry, self._examples) if content_type.startswith(OPEN_METRICS) else registry
