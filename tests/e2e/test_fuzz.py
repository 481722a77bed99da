"""Fuzzing, for seconds here and for ten minutes in `scripts/soak`: nothing crashes, and no answer is a 500."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated
from tests.e2e import fuzz

ADMIN_KEY = "the-admin-key-of-the-tests-0123456789"
SOAK_SECONDS = 150.0
"""For each of the four."""

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHandle]:
    server = {"admin_api_key": ADMIN_KEY, "admin_requests_per_minute": 1_000_000, "trusted_proxies": ["127.0.0.1"]}
    with serve(tmp_path_factory.mktemp("fuzz"), {"llm_providers": simulated(simulator.url)[:1], "server": server}) as handle:
        yield handle
        assert not [line for line in handle.log() if line["message"] == "fault"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configuration")


@QUICK
@given(document=fuzz.DOCUMENTS, text=fuzz.TEXTS)
def test_the_loader(directory: Path, document: Any, text: str) -> None:
    fuzz.load_document(directory, fuzz.dumped(document))
    fuzz.load_document(directory, text)


@QUICK
@given(pieces=fuzz.FRAMES)
def test_the_reader_of_streams(pieces: list[bytes]) -> None:
    fuzz.read_stream(pieces)


@QUICK
@given(value=fuzz.HEADERS)
def test_the_key_of_a_request(gateway: GatewayHandle, value: bytes) -> None:
    fuzz.authorize(gateway, value, "/v1/models")


@QUICK
@given(place=st.integers(0, 2000), body=fuzz.VALUES)
def test_bodies_of_administrators(gateway: GatewayHandle, place: int, body: Any) -> None:
    fuzz.administer(gateway, ADMIN_KEY, place, body)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_ten_minutes_of_it(gateway: GatewayHandle, directory: Path) -> None:
    rounds = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    run = 0

    def until_over(one: Any, inputs: Any) -> None:
        nonlocal run
        ends = time.monotonic() + SOAK_SECONDS
        while time.monotonic() < ends:
            run += 1
            seed(run)(rounds(given(inputs)(one)))()

    until_over(lambda data: fuzz.load_document(directory, fuzz.dumped(data)), fuzz.DOCUMENTS)
    until_over(fuzz.read_stream, fuzz.FRAMES)
    until_over(lambda data: fuzz.authorize(gateway, data, "/v1/models"), fuzz.HEADERS)
    until_over(lambda data: fuzz.administer(gateway, ADMIN_KEY, *data), st.tuples(st.integers(0, 2000), fuzz.VALUES))
