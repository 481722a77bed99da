"""Watches the gateway while it is changed: requests on its public address, streams through its instances, and what its workers tell; it makes the receipt."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coollm_cli.ops.gateway_client import GatewayClient
from coollm_cli.ops.host import client_of

from coollm.core.config.schema import Settings
from coollm.core.config.values import Address
from coollm.core.errors import CoollmError, OperationFailed
from coollm.core.instances import read_reports

PROBE_EVERY_SECONDS = 0.1
PROBE_PATIENCE_SECONDS = 30.0
STREAM_SECONDS = 2.0
TOLD_SECONDS = 0.8
HEALTHY_SECONDS = 15.0
PROBE_TOKENS = 16
TOTALS = ("requests", "failed", "streams_finished", "streams_cut")


class PublicProbe:
    """Asks the public address ten times a second, with a new connection each time. Use it as a context."""

    def __init__(self, settings: Settings) -> None:
        listen = settings.server.listen
        self._address = Address(listen.reachable_host, listen.port)
        self._is_tls = settings.server.tls is not None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.failed = 0
        self.longest_seconds = 0.0

    def __enter__(self) -> PublicProbe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(PROBE_EVERY_SECONDS):
            began = time.monotonic()
            try:
                self._ask()
            except (OSError, http.client.HTTPException):
                self.failed += 1
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)

    def _ask(self) -> None:
        host, port = self._address
        connection: http.client.HTTPConnection
        if self._is_tls:
            # Whom the certificate names is not what is asked here: it is this host.
            context = ssl._create_unverified_context()  # noqa: S323, SLF001
            connection = http.client.HTTPSConnection(host, port, timeout=PROBE_PATIENCE_SECONDS, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=PROBE_PATIENCE_SECONDS)
        try:
            connection.request("GET", "/health", headers={"connection": "close"})
            connection.getresponse().read()
        finally:
            connection.close()


class StreamProbe:
    """A stream through one instance, begun before it is restarted: it has to come to its end."""

    def __init__(self, name: str, directory: Path) -> None:
        self._client = client_of(name, directory)
        self.is_whole = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.is_whole = any(b"[DONE]" in line for line in self._client.lines(f"/admin/v1/probe?seconds={STREAM_SECONDS}"))
        except CoollmError:
            self.is_whole = False

    def end(self) -> bool:
        """Waits for its end; whether it was whole."""
        self._thread.join(STREAM_SECONDS + PROBE_PATIENCE_SECONDS)
        return self.is_whole


def totals(run: Path, names: Sequence[str]) -> dict[str, list[int]]:
    """What the workers of these instances have served since they started, those that have ended too."""
    return {f"{name}/{report.pid}": [getattr(report, total) for total in TOTALS] for name in names for report in read_reports(run / name)}


def totals_of(version: str, run: Path, names: Sequence[str]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """The same, of workers of a version, and of all others."""
    everyone = totals(run, names)
    own = {f"{name}/{report.pid}" for name in names for report in read_reports(run / name) if report.version == version}
    return {key: told for key, told in everyone.items() if key in own}, {key: told for key, told in everyone.items() if key not in own}


def since(before: dict[str, list[int]], now: dict[str, list[int]]) -> dict[str, int]:
    """The difference, by total."""
    sums = [0] * len(TOTALS)
    for worker, told in now.items():
        earlier = before.get(worker, [0] * len(TOTALS))
        sums = [total + after - first for total, after, first in zip(sums, told, earlier, strict=True)]
    return dict(zip(TOTALS, sums, strict=True))


def find_probe_model(client: GatewayClient, settings: Settings) -> str | None:
    """A model that answers now, for the gate of instances that come; None if no vendor answers, which is not their fault, or no provider names a model."""
    for provider in settings.llm_providers:
        for model in provider.listed_models()[:1]:
            if _is_answered(client, f"{provider.id}:{model}"):
                return f"{provider.id}:{model}"
    return None


def wait_until_healthy(name: str, directory: Path, probe_model: str | None) -> None:
    """The gate: an instance that has just come says it is not down, and answers a request as the others did. Raises OperationFailed."""
    client = client_of(name, directory)
    ends = time.monotonic() + HEALTHY_SECONDS
    while True:
        reason, seconds = _why_unhealthy(client, probe_model)
        if not reason:
            return
        # Another store than before is not used for a minute, and says for how long still.
        ends = max(ends, time.monotonic() + seconds + HEALTHY_SECONDS) if seconds else ends
        if time.monotonic() >= ends:
            raise OperationFailed(f"instance {name} is not healthy: {reason}", f"journalctl -u coollm@{name}")
        time.sleep(0.5)


def _why_unhealthy(client: GatewayClient, probe_model: str | None) -> tuple[str, float]:
    """Why, and in how many seconds that is over by itself, 0 where nobody knows."""
    try:
        body = client.get("/health", timeout=5.0).body
    except CoollmError as error:
        return error.message, 0.0
    if not isinstance(body, dict) or "status" not in body:
        return "what answers is not a coollm gateway", 0.0
    if body["status"] == "down":
        down = [check for check in body.get("checks", []) if check["status"] == "down"]
        return "; ".join(check["detail"] for check in down), max((float(check.get("seconds") or 0.0) for check in down), default=0.0)
    if probe_model is not None and not _is_answered(client, probe_model):
        return f"a request for {probe_model} is not answered, which another instance answered before", 0.0
    return "", 0.0


def _is_answered(client: GatewayClient, model: str) -> bool:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Reply with the single word: ok"}], "max_tokens": PROBE_TOKENS}
    try:
        return client.post("/v1/chat/completions", body, timeout=30.0).status == 200
    except CoollmError:
        return False
