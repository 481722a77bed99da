"""GET /openapi.json is true: it has every route, and whatever is sent there is answered as it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from openapi_spec_validator import validate

from coollm.api.openapi import BODIES, describe
from coollm.core.registry import ENDPOINTS
from tests.conftest import GatewayHandle, SimulatorHandle, every_dialect, serve

MODELS = [
    "gpt-sim",
    "claude-sim",
    "gemini-sim",
    "command-sim",
    "anthropic.claude-sim-v1",
    "voyage-sim",
    "custom:rerank-sim",
    "openai:embed-sim",
    "no-such-model",
]
ADMIN_KEY = "admin-key-of-the-tests"


def with_simulated_models(value: Any) -> Any:
    """The description, with models that are there in the place of any text: else all that is ever asked for is refused at the door."""
    if isinstance(value, dict):
        return {name: {"enum": MODELS} if name == "model" and isinstance(inner, dict) else with_simulated_models(inner) for name, inner in value.items()}
    return [with_simulated_models(inner) for inner in value] if isinstance(value, list) else value


SCHEMA = schemathesis.openapi.from_dict(with_simulated_models(describe()))


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHandle]:
    configuration = {"llm_providers": every_dialect(simulator.url), "server": {"admin_api_key": ADMIN_KEY, "admin_requests_per_minute": 1_000_000}}
    with serve(tmp_path_factory.mktemp("openapi"), configuration) as handle:
        yield handle


def test_it_is_served_and_valid(gateway: GatewayHandle) -> None:
    told = requests.get(f"{gateway.url}/openapi.json", timeout=5).json()
    assert told == describe()
    validate(told)


def test_every_route_is_in_it() -> None:
    operations = {(path, method) for path, methods in describe()["paths"].items() for method in methods}
    routes = [route for family in ENDPOINTS.values() for route in family]
    assert operations == {(re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route.path), method.lower()) for route in routes for method in route.methods}
    assert {route.name for route in routes if "POST" in route.methods} == set(BODIES), "every body is described"


@SCHEMA.parametrize()
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
def test_whatever_is_sent_is_answered_as_documented(case: schemathesis.Case, gateway: GatewayHandle) -> None:
    key = ADMIN_KEY if case.path.startswith("/admin") else gateway.client_key
    response = case.call(base_url=gateway.url, headers={**dict(case.headers or {}), "authorization": f"Bearer {key}"}, timeout=30)
    documented = describe()["paths"][case.path][case.method.lower()]["responses"] if case.method.lower() in describe()["paths"][case.path] else {"405": {}}
    assert response.status_code != 500, (case.as_curl_command(), response.text)
    assert str(response.status_code) in documented, (case.as_curl_command(), response.status_code, response.text[:300])
    if response.status_code >= 400 and not case.path.startswith(("/health", "/ready", "/metrics")):
        assert response.json()["error"]["message"]


def test_no_traceback_was_logged(gateway: GatewayHandle) -> None:
    assert "Traceback" not in gateway.words()
    assert not [line for line in gateway.log() if line["message"] == "fault"]
