"""The demo: a real gateway in front of simulated vendors, on loopback, in a directory of its own that is removed afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from coollm_cli.ops.gateway_client import GatewayClient
from coollm_cli.ops.init import plan_init, write_init
from coollm_cli.ops.server import ServerPlan, plan_server, server_command

from coollm.core.errors import OperationFailed, Unreachable

START_SECONDS = 30.0
LONGEST_TEMPORARY_PATH = 50


@contextlib.contextmanager
def demo_gateway(workers: int) -> Iterator[ServerPlan]:
    """A gateway that runs while the context is open. Raises OperationFailed with the server's own words if it does not start."""
    # A Unix socket's path is short: a long TMPDIR would not leave room for it.
    has_room = len(tempfile.gettempdir()) <= LONGEST_TEMPORARY_PATH
    home = Path(tempfile.mkdtemp(prefix="coollm-demo-", dir=None if has_room else "/tmp"))  # noqa: S108
    try:
        config = home / "coollm.yaml"
        write_init(plan_init(config, {}))
        plan = plan_server(config, home / "state", f"127.0.0.1:{_free_port()}", workers)
        environment = {**os.environ, **plan.environment, "COOLLM_RUN_DIR": str(home / "run")}
        with (home / "server.txt").open("wb") as words:
            process = subprocess.Popen(server_command(), env=environment, stdout=words, stderr=words)  # noqa: S603  our own interpreter
        try:
            _wait_until_ready(process, plan, home / "server.txt")
            yield plan
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def client_key(plan: ServerPlan) -> str:
    """The key of the demo's client."""
    return plan.settings.api_keys[0].key.reveal()


def _wait_until_ready(process: subprocess.Popen[bytes], plan: ServerPlan, words: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(Unreachable):
            if GatewayClient(url=plan.url).get("/ready").status == 200:
                return
        time.sleep(0.05)
    raise OperationFailed(f"the demo's gateway did not start: {words.read_text('utf-8', 'replace').strip()[-400:] or 'it said nothing'}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
