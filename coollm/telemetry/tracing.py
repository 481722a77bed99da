"""Traces by OpenTelemetry, where `logging.otel` asks for them: a span for each request that has ended, by the semantic conventions for generative AI, and in it
one for each call of a vendor. They hold neither prompts nor keys.

Needs the packages of `coollm[otel]`. Sources: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/, the constants of the package
opentelemetry-semantic-conventions, https://opentelemetry.io/docs/specs/otlp/, https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from coollm import __version__
from coollm.core.config.schema import OpenTelemetry
from coollm.telemetry.record import ANSWERED, RequestRecord

OPERATIONS = {"embeddings": "embeddings", "completions": "text_completion"}
"""By route; every other one is a `chat`."""

PROVIDERS = {
    "claude": "anthropic",
    "gemini": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "bedrock": "aws.bedrock",
    "azure": "azure.ai.openai",
    "mistral": "mistral_ai",
    "grok": "x_ai",
}
"""Names of the conventions for our types of provider; the others are called the same."""

FIRST_ERROR = 500
LONGEST_QUEUE, BATCH, EVERY_MS = 4096, 256, 2000


class Tracing:
    """Sends spans in batches, beside the requests. What cannot be sent is lost, and the exporter's log line says so."""

    def __init__(self, wanted: OpenTelemetry) -> None:
        headers = {"authorization": wanted.authorization.reveal()} if wanted.authorization else None
        resource = Resource.create({"service.name": wanted.service_name, "service.version": __version__, "host.name": platform.node()})
        self._provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(wanted.sample_share)))
        exporter = OTLPSpanExporter(endpoint=wanted.endpoint, headers=headers)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, LONGEST_QUEUE, schedule_delay_millis=EVERY_MS, max_export_batch_size=BATCH))
        self._tracer = self._provider.get_tracer("coollm", __version__)

    def tell(self, record: RequestRecord, redact: Callable[[str], str]) -> None:
        """Makes the spans of a request that has ended. What clients and vendors wrote is redacted."""
        began = time.time() - record.latency_seconds
        parent = TraceContextTextMapPropagator().extract({"traceparent": record.trace_parent}, Context())
        operation, model = OPERATIONS.get(record.route, "chat"), redact(record.requested_model)
        span = self._tracer.start_span(f"{operation} {model}", parent, SpanKind.SERVER, start_time=_nanoseconds(began))
        if span.is_recording():
            span.set_attributes(_attributes(record, operation, model, redact))
            if record.status >= FIRST_ERROR:
                span.set_status(Status(StatusCode.ERROR, record.error or None))
            for attempt in record.attempts:
                target, started = attempt.target, began + attempt.after_seconds
                told: dict[str, Any] = {
                    "gen_ai.operation.name": operation,
                    "gen_ai.provider.name": _name_of(record, target.provider),
                    "gen_ai.request.model": redact(target.model),
                    "coollm.key_id": target.key_id,
                    "coollm.outcome": attempt.outcome,
                }
                made = self._tracer.start_span(
                    f"{operation} {target.provider}", set_span_in_context(span), SpanKind.CLIENT, told, start_time=_nanoseconds(started)
                )
                if attempt.status:
                    made.set_attribute("http.response.status_code", attempt.status)
                if attempt.outcome != ANSWERED:
                    made.set_attribute("error.type", attempt.outcome)
                    made.set_status(Status(StatusCode.ERROR, redact(attempt.reason)))
                made.end(_nanoseconds(started + attempt.seconds))
        span.end(_nanoseconds(began + record.latency_seconds))

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()


def _attributes(record: RequestRecord, operation: str, model: str, redact: Callable[[str], str]) -> dict[str, Any]:
    target, usage = record.target, record.usage
    told: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.request.model": model,
        "gen_ai.request.stream": record.is_stream,
        "http.response.status_code": record.status,
        "http.route": record.route,
        "coollm.request_id": record.request_id,
        "coollm.client": record.client,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
    }
    if usage.cached_input_tokens:
        told["gen_ai.usage.cache_read.input_tokens"] = usage.cached_input_tokens
    if usage.reasoning_tokens:
        told["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning_tokens
    if target is not None:
        told |= {"gen_ai.provider.name": PROVIDERS.get(target.type, target.type), "gen_ai.response.model": redact(target.model)}
    if record.first_token_seconds is not None:
        told["gen_ai.response.time_to_first_chunk"] = record.first_token_seconds
    if record.cost_usd is not None:
        told["coollm.cost_usd"] = record.cost_usd
    if record.error:
        told["error.type"] = record.error
    return told


def _name_of(record: RequestRecord, provider: str) -> str:
    if record.target is not None and record.target.provider == provider:
        return PROVIDERS.get(record.target.type, record.target.type)
    return provider


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
