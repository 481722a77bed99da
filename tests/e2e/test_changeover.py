"""A configuration that is applied while the gateway runs: new requests have the new one, those under way end with their own, and what has not changed lives on."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated, wait_for


def configuration(gateway: GatewayHandle) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((gateway.home / "coollm.yaml").read_text())
    return loaded


def apply(gateway: GatewayHandle, settings: dict[str, Any], *more: str) -> dict[str, Any]:
    (gateway.home / "new.yaml").write_text(yaml.safe_dump(settings))
    done = gateway.coollm("config", "apply", "new.yaml", "--json", *more)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_requests_under_way_end_with_the_configuration_they_began_with(simulator: SimulatorHandle, tmp_path: Path) -> None:
    with serve(tmp_path, {"llm_providers": simulated(simulator.url)}) as gateway:
        settings = configuration(gateway)
        streams = [gateway.chat("gpt-sim~tokens=40~rate=20", stream=True) for _ in range(6)]
        settings["api_keys"] = [{"id": "other", "key": "the-key-of-another-client"}]
        settings["llm_providers"] = settings["llm_providers"][1:]
        told = apply(gateway, settings, "--message", "for the night; the-key-of-another-client")
        assert told["generation"] == 2
        # Every worker has it: the former key is known to none.
        assert {gateway.chat("claude-sim").status_code for _ in range(20)} == {401}
        headers = {"authorization": "Bearer the-key-of-another-client"}
        body = {"model": "claude-sim", "messages": [{"role": "user", "content": "hi"}]}
        assert {requests.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=5).status_code for _ in range(10)} == {200}
        # The provider of the streams is gone, and they come to their end.
        for stream in streams:
            assert stream.status_code == 200
            assert "".join(stream.iter_content(None, decode_unicode=True)).endswith("data: [DONE]\n\n")
        assert (gateway.home / "coollm.yaml").read_text() == (gateway.home / "new.yaml").read_text()
        history = json.loads(gateway.coollm("config", "history", "--json").stdout)["generations"]
        assert [(one["number"], one["in_force"]) for one in history] == [(2, True), (1, False)]
        assert history[0]["reason"] == "for the night; ********"
        between = gateway.coollm("config", "diff", "1", "2", "--exit-code")
        assert (between.returncode, "-- id: app" in between.stdout, "the-key-of-another-client" in between.stdout) == (4, True, False)
        assert gateway.coollm("config", "diff", "--exit-code").returncode == 0
        again = gateway.coollm("config", "apply", "new.yaml")
        assert "nothing to do" in again.stdout
        assert "coo_llm_config_generation 2.0" in requests.get(f"{gateway.url}/metrics", timeout=5).text
        back = gateway.coollm("undo")
        assert back.returncode == 0, back.stderr
        assert gateway.chat("gpt-sim").status_code == 200


def test_counters_in_memory_and_running_holds_live_on(simulator: SimulatorHandle, tmp_path: Path) -> None:
    client = {"id": "app", "key": "client-key-of-the-tests", "limits": {"req_per_min": 5, "concurrent": 2}}
    settings = {"llm_providers": simulated(simulator.url), "api_keys": [client], "storage": {"runtime": {"type": "memory"}}}
    with serve(tmp_path, settings, workers=1) as gateway:
        assert [gateway.chat("gpt-sim").status_code for _ in range(3)] == [200] * 3
        stream = gateway.chat("gpt-sim~tokens=60~rate=20", stream=True)
        changed = configuration(gateway)
        changed["policy"] = {"algorithm": "cost"}
        apply(gateway, changed)
        answers = [gateway.chat("gpt-sim").status_code for _ in range(3)]
        assert answers == [200, 429, 429], "four were used before"
        assert "[DONE]" in "".join(stream.iter_content(None, decode_unicode=True))


def test_many_generations_leave_nothing_behind(simulator: SimulatorHandle, tmp_path: Path) -> None:
    """Each with another ledger and other time-outs, so that little lives on."""
    with serve(tmp_path, {"llm_providers": simulated(simulator.url)}, workers=1) as gateway:
        generations = tmp_path / "state" / "generations"
        (folder,) = generations.iterdir()
        settings = configuration(gateway)
        (worker,) = gateway.workers()[:1]

        def served() -> int:
            return int(json.loads((gateway.run / f"port-{gateway.port}" / "workers" / str(worker)).read_text())["generation"])

        def change(number: int) -> None:
            settings["policy"] = {"timeouts": {"total": f"{600 + number}s"}}
            settings["storage"] = {"ledger": {"url": f"sqlite:///{tmp_path}/ledger-{number % 2}.sqlite"}}
            (folder / str(number)).mkdir()
            (folder / str(number) / "config.yaml").write_text(yaml.safe_dump(settings))
            (folder / str(number) / "note.json").write_text(json.dumps({"applied": 0, "by": "test", "reason": "", "digest": ""}))
            beside = folder / ".current"
            beside.write_text(json.dumps({"number": number, "previous": number - 1, "revert_at": None}))
            beside.replace(folder / "current")
            wait_for(lambda: served() == number, 10, f"generation {number}")
            assert gateway.chat("gpt-sim").status_code == 200

        for number in range(2, 8):
            change(number)
        time.sleep(1)
        before = len(os.listdir(f"/proc/{worker}/fd")), json.loads(gateway.coollm("status", "--json").stdout)["instances"][0]["memory_mb"]
        greenlets = _greenlets(gateway)
        for number in range(8, 40):
            change(number)
        time.sleep(1.5)
        after = len(os.listdir(f"/proc/{worker}/fd")), json.loads(gateway.coollm("status", "--json").stdout)["instances"][0]["memory_mb"]
        assert after[0] <= before[0] + 3, (before, after)
        assert after[1] <= before[1] + 12, (before, after)
        assert _greenlets(gateway) <= greenlets + 3


def _greenlets(gateway: GatewayHandle) -> int:
    import http.client
    import socket

    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(gateway.run / f"port-{gateway.port}" / "admin.sock"))
    connection.request("GET", "/admin/v1/status")
    found: int = json.loads(connection.getresponse().read())["greenlets"]
    connection.close()
    return found


def test_what_cannot_be_served_is_not(simulator: SimulatorHandle, tmp_path: Path) -> None:
    with serve(tmp_path, {"llm_providers": simulated(simulator.url)}) as gateway:
        settings = configuration(gateway)
        settings["storage"] = {"ledger": {"url": "postgresql+nodriver://localhost/x"}}
        (gateway.home / "new.yaml").write_text(yaml.safe_dump(settings))
        done = gateway.coollm("config", "apply", "new.yaml")
        assert done.returncode == 7, done.stderr
        assert "cannot be opened" in done.stderr
        assert gateway.chat("gpt-sim").status_code == 200
        (gateway.home / "new.yaml").write_text("version: '1.0'\nserver: {workers: many}\n")
        done = gateway.coollm("config", "apply", "new.yaml")
        assert done.returncode == 3
        assert "new.yaml:2" in done.stderr
        before = (gateway.home / "coollm.yaml").read_text()
        settings = configuration(gateway)
        settings["policy"] = {"algorithm": "cost"}
        told = apply(gateway, settings, "--dry-run")
        assert told["changed"] is False
        assert any("+policy" in note for note in told["notes"])
        assert (gateway.home / "coollm.yaml").read_text() == before
