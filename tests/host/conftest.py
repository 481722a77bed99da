"""Hosts, and a gateway installed on one of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.host.clients import clients
from tests.host.hosts import TestHost
from tests.host.machines import WHEELHOUSE

KEY = "coollm-client-of-the-host-tests"

CONFIG = f"""version: "1.0"
server:
  listen: "0.0.0.0:2906"
  workers: 1
  drain_seconds: 30
llm_providers:
  - id: openai
    type: openai
    base_url: "simulator://"
    api_keys: ["sk-one", "sk-two", "sk-three"]
    model: gpt-sim
    models: ["gpt-sim", "gpt-sim~*"]
    pricing: {{input_token_cost: 2.5, output_token_cost: 10}}
api_keys:
  - id: app
    key: "{KEY}"
    limits: {{req_per_min: 1000000}}
"""


BOOTSTRAP = f"/usr/bin/python3 -m venv /srv/bootstrap && /srv/bootstrap/bin/pip install -q --no-compile --no-index --find-links {WHEELHOUSE} coollm"


class Installed:
    """A host on which the gateway is installed."""

    def __init__(self, host: TestHost) -> None:
        self.host = host

    def coollm(self, *arguments: str, check: bool = True, timeout: float = 800) -> subprocess.CompletedProcess[str]:
        return self.host.run("coollm " + " ".join(arguments), check=check, timeout=timeout)

    def json(self, *arguments: str, check: bool = True) -> Any:
        return json.loads(self.coollm(*arguments, "--json", check=check).stdout)

    def load(
        self, rate: int = 200, connections: int = 40, streams: int = 50, stream_seconds: float = 20, model: str = "openai:gpt-sim"
    ) -> AbstractContextManager[dict[str, Any]]:
        """Clients that go on while the block runs."""
        return clients(self.host.beside(), "http://127.0.0.1:2906", KEY, rate, connections, streams, stream_seconds, model)


@pytest.fixture(scope="session")
def installed(new_host: Callable[[], TestHost]) -> Installed:
    """A host with two instances of one worker each."""
    host = new_host()
    host.run(BOOTSTRAP)
    host.run("mkdir -p /etc/coollm")
    host.write("/etc/coollm/config.yaml", CONFIG)
    host.run(f"/srv/bootstrap/bin/coollm install --wheelhouse {WHEELHOUSE} --yes")
    return Installed(host)


def put_hook(releases: Path) -> None:
    """Lets hosts kill a command as it writes its journal: PYTHONPATH={RELEASES}/kill KILL_AT=N."""
    (releases / "kill").mkdir(exist_ok=True)
    shutil.copy(Path(__file__).parent / "kill" / "sitecustomize.py", releases / "kill")
