"""A gateway with a console, and administrators of each role."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated
from tests.console.visitor import SERVER, Visitor, make_admins


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHandle]:
    settings = {
        "llm_providers": simulated(simulator.url),
        "server": SERVER,
        "api_keys": [{"id": "app", "key": "client-key-of-the-tests", "limits": {"budget_usd": 50, "budget_period": "day"}}],
        "policy": {"retry": {"max_attempts": 1}},
    }
    with serve(tmp_path_factory.mktemp("console"), settings) as handle:
        yield handle


@pytest.fixture(scope="module")
def keys(gateway: GatewayHandle) -> dict[str, str]:
    return make_admins(gateway)


@pytest.fixture
def root(gateway: GatewayHandle) -> Visitor:
    visitor = Visitor(gateway)
    assert visitor.sign_in().status_code == 303
    return visitor
