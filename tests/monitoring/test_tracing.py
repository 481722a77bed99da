"""Traces as a collector receives them: OTLP over HTTP, a span for each request and each call of a vendor, and nothing that a client or a vendor wrote."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes

from tests.conftest import GatewayHandle, serve, wait_for

PROMPT = "the words of a client that nobody else may read"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Collector:
    """Where traces are sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.raw = b""
        self.headers: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.raw += body
                collector.headers.append(dict(self.headers.items()))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    collector.spans += [(resource.resource, span) for scope in resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1/traces"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def configuration(url: str, **otel: Any) -> dict[str, Any]:
    return {
        "llm_providers": [
            {
                "id": "one",
                "type": "claude",
                "base_url": "simulator://",
                "api_keys": ["sk-ant-one~status=500"],
                "models": ["claude-sim"],
                "pricing": {"input_token_cost": 2.0, "output_token_cost": 8.0},
            },
            {"id": "two", "type": "openai", "base_url": "simulator://", "api_keys": ["sk-two"], "models": ["claude-sim"]},
        ],
        "policy": {"algorithm": "round_robin", "retry": {"max_attempts": 1}},
        "logging": {"otel": {"enabled": True, "endpoint": url, "authorization": "Bearer secret-of-the-collector", **otel}},
    }


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.server.shutdown()


def told(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def ask(gateway: GatewayHandle, **headers: str) -> requests.Response:
    body = {"model": "claude-sim", "messages": [{"role": "user", "content": PROMPT}]}
    return requests.post(f"{gateway.url}/v1/chat/completions", json=body, headers=gateway.headers | headers, timeout=30)


def test_spans(tmp_path: Path, collector: Collector) -> None:
    with serve(tmp_path, configuration(collector.url), workers=1) as gateway:
        answers = [ask(gateway, traceparent=f"00-{TRACE}-{PARENT}-01") for _ in range(4)]
        assert {answer.status_code for answer in answers} == {200}
        ids = {answer.headers["x-request-id"] for answer in answers}
        wait_for(lambda: len([one for _, one in collector.spans if one.kind == one.SPAN_KIND_SERVER]) == 4, 20, "the spans")
    servers = [span for _, span in collector.spans if span.kind == span.SPAN_KIND_SERVER]
    assert {told(span)["coollm.request_id"] for span in servers} == ids
    for span in servers:
        own = told(span)
        assert span.name == "chat claude-sim"
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT), "the trace of the client goes on"
        assert own[gen_ai_attributes.GEN_AI_OPERATION_NAME] == "chat"
        assert own[gen_ai_attributes.GEN_AI_REQUEST_MODEL] == "claude-sim"
        assert own[gen_ai_attributes.GEN_AI_PROVIDER_NAME] in ("openai", gen_ai_attributes.GenAiProviderNameValues.ANTHROPIC.value)
        assert own[gen_ai_attributes.GEN_AI_USAGE_OUTPUT_TOKENS] > 0
        assert own[http_attributes.HTTP_RESPONSE_STATUS_CODE] == 200
        assert span.end_time_unix_nano > span.start_time_unix_nano
        calls = [one for _, one in collector.spans if one.parent_span_id == span.span_id]
        assert [told(call)["coollm.outcome"] for call in calls][-1] == "answered"
        for call in calls:
            assert call.kind == call.SPAN_KIND_CLIENT
            assert span.start_time_unix_nano - 2e6 <= call.start_time_unix_nano <= call.end_time_unix_nano <= span.end_time_unix_nano + 2e6
    failed = [one for _, one in collector.spans if told(one).get("coollm.outcome") not in (None, "answered")]
    assert failed, "the first provider fails"
    assert told(failed[0])[error_attributes.ERROR_TYPE] == told(failed[0])["coollm.outcome"]
    resource = {one.key: one.value.string_value for one in collector.spans[0][0].attributes}
    assert resource["service.name"] == "coollm"
    assert collector.headers[0]["authorization"] == "Bearer secret-of-the-collector"
    for secret in (PROMPT, "sk-ant-one", "sk-two", "Hello"):
        assert secret.encode() not in collector.raw


def test_a_part_of_the_requests_and_a_collector_that_is_gone(tmp_path: Path, collector: Collector) -> None:
    with serve(tmp_path, configuration(collector.url, sample_share=0), workers=1) as gateway:
        assert ask(gateway).status_code == 200
        assert ask(gateway, traceparent=f"00-{TRACE}-{PARENT}-01").status_code == 200
        wait_for(lambda: collector.spans, 20, "the one whose client is traced")
        assert {span.trace_id.hex() for _, span in collector.spans} == {TRACE}
        collector.server.shutdown()
        collector.server.server_close()
        assert [ask(gateway, traceparent=f"00-{TRACE}-{PARENT}-01").status_code for _ in range(20)] == [200] * 20
