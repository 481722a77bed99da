"""Secrets of a gateway that runs: set, imported, changed, put under another master key; killed in between."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests

from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated

KILL = Path(__file__).parent.parent / "host" / "kill"


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("secrets")
    providers = simulated(simulator.url)[:1]
    with serve(home, {"llm_providers": providers, "server": {"admin_api_key": "canary-admin-0123456789"}}) as handle:
        yield handle


def last_key(simulator: SimulatorHandle, gateway: GatewayHandle) -> str:
    reply = gateway.chat("gpt-sim")
    assert reply.status_code == 200, reply.text
    return simulator.seen()[-1]["key"]


def test_what_stood_in_clear_is_moved_and_can_be_changed_while_it_runs(gateway: GatewayHandle, simulator: SimulatorHandle) -> None:
    assert "stands here in clear" in gateway.coollm("config", "validate").stdout
    plan = gateway.coollm("secrets", "import", "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "sk-vendor-openai-0001" not in plan.stdout + plan.stderr
    done = gateway.coollm("secrets", "import", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["secrets"] == ["client-app", "openai-1", "server-admin-api-key"]
    assert last_key(simulator, gateway) == "-openai-0001"
    for file in gateway.home.rglob("*"):
        if file.is_file():
            text = file.read_bytes()
            assert not any(secret in text for secret in (b"sk-vendor-openai-0001", b"canary-admin-0123456789", b"client-key-of-the-tests")), file
    assert "in clear" not in gateway.coollm("config", "validate").stdout

    done = gateway.coollm("secrets", "set", "openai-1", "--yes", stdin="sk-vendor-openai-0002\n")
    assert done.returncode == 0, done.stderr
    assert last_key(simulator, gateway) == "-openai-0002"
    listed = json.loads(gateway.coollm("secrets", "list", "--json").stdout)["secrets"]
    assert next(row for row in listed if row["name"] == "openai-1")["used_by"] == ["llm_providers[0].api_keys[0]"]
    done = gateway.coollm("undo", "--yes")
    assert done.returncode == 0, done.stderr
    assert last_key(simulator, gateway) == "-openai-0001"
    refused = gateway.coollm("secrets", "delete", "openai-1", "--yes")
    assert refused.returncode == 1
    assert "is used by llm_providers[0].api_keys[0]" in refused.stderr


def test_the_master_key_is_changed_under_load_and_each_broken_off_change_is_finished(gateway: GatewayHandle) -> None:
    statuses: list[int] = []
    stopped = threading.Event()

    def load() -> None:
        with requests.Session() as session:
            while not stopped.wait(0.02):
                body = {"model": "gpt-sim", "messages": [{"role": "user", "content": "x"}]}
                statuses.append(session.post(f"{gateway.url}/v1/chat/completions", json=body, headers=gateway.headers, timeout=30).status_code)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        key_file = gateway.home / "state" / "master.key"
        for write in range(1, 40):
            before = key_file.read_bytes()
            environment = {**gateway.environment, "PYTHONPATH": str(KILL), "KILL_AT": str(write)}
            command = [sys.executable, "-m", "coollm_cli.main", "secrets", "rotate-master", "--yes"]
            done = subprocess.run(command, cwd=gateway.home, env=environment, capture_output=True, text=True, check=False, timeout=60)
            if done.returncode == 0:
                break
            assert done.returncode == -signal.SIGKILL, done.stderr
            assert gateway.coollm("secrets", "set", f"beside-{write}", "--dry-run").returncode == 0
            again = gateway.coollm("secrets", "rotate-master", "--yes")
            assert again.returncode == 0, again.stderr
            assert key_file.read_bytes() != before
            assert sorted(path.name for path in key_file.parent.glob("master.key*")) == ["master.key"]
        else:
            pytest.fail("it was killed at every write")
        assert write > 8
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    assert gateway.coollm("config", "validate").returncode == 0


def test_a_passphrase_in_the_place_of_a_key_file(gateway: GatewayHandle) -> None:
    words = gateway.home / "words"
    words.write_text("correct horse battery staple\n")
    done = gateway.coollm("secrets", "rotate-master", "--passphrase-file", str(words), "--yes")
    assert done.returncode == 0, done.stderr
    assert "coollm-master-passphrase" in (gateway.home / "state" / "master.key").read_text()
    assert "nobody can be asked" in gateway.coollm("config", "validate").stderr
    with_words = {**gateway.environment, "COOLLM_PASSPHRASE_FILE": str(words)}
    command = [sys.executable, "-m", "coollm_cli.main"]
    for arguments in (["config", "validate"], ["secrets", "rotate-master", "--yes"]):
        done = subprocess.run([*command, *arguments], cwd=gateway.home, env=with_words, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
    assert (gateway.home / "state" / "master.key").read_text().startswith("coollm-master-key ")
    assert gateway.chat("gpt-sim").status_code == 200


def test_a_secret_that_is_not_there_is_a_fault_with_its_place(gateway: GatewayHandle) -> None:
    text = (gateway.home / "coollm.yaml").read_text().replace("openai-1", "openai-9")
    (gateway.home / "new.yaml").write_text(text)
    done = gateway.coollm("config", "apply", "new.yaml", "--yes")
    assert done.returncode == 3
    assert "there is no secret 'openai-9'; did you mean 'openai-1'?" in done.stderr


def test_a_secret_is_no_argument(gateway: GatewayHandle) -> None:
    done = gateway.coollm("secrets", "set", "openai-1", "sk-on-the-command-line", stdin="")
    assert done.returncode == 2
    done = gateway.coollm("secrets", "set", "openai-1", stdin="")
    assert done.returncode == 2
    assert "nothing was given" in done.stderr
