"""The command line, as a user calls it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from coollm_cli.main import COMMANDS, load

from tests.conftest import GatewayHandle, clean_environment, coollm, free_port, running, wait_for


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary directory whose path leaves room for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="c-", dir="/tmp") as directory:
        yield Path(directory)


def test_version(tmp_path: Path) -> None:
    done = coollm("--version", cwd=tmp_path)
    assert re.fullmatch(r"coollm \d+\.\d+\.\d+\n", done.stdout)


def walk(command: Any, path: str) -> list[tuple[str, Any]]:
    found = [(path, command)]
    for name, inner in getattr(command, "commands", {}).items():
        found += walk(inner, f"{path} {name}")
    return found


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_every_command_has_the_help_of_its_row_and_an_example(row: Any) -> None:
    command = load(row)
    for path, inner in walk(command, row.name):
        is_group = bool(getattr(inner, "commands", {}))
        assert inner.help, path
        assert is_group or re.search(r"Example: (sudo )?(\.venv/bin/)?coollm", inner.help), path
    assert command.help.startswith(row.help.removesuffix(".")), (command.help, row.help)


def test_usage_errors(tmp_path: Path) -> None:
    for arguments in (
        ["sreve"],
        ["serve", "--wrokers", "2"],
        ["chat"],
        ["help", "nothing"],
        ["completion", "tcsh"],
        ["serve", "--listen", "here"],
        ["route", "explain"],
    ):
        (tmp_path / "coollm.yaml").write_text("version: '1.0'")
        done = coollm(*arguments, cwd=tmp_path)
        assert done.returncode == 2, arguments
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) <= 2
        assert done.stdout == ""
    assert "serve" in coollm("sreve", cwd=tmp_path).stderr


def test_exit_codes_are_listed(tmp_path: Path) -> None:
    codes = {row["code"] for row in json.loads(coollm("help", "exit-codes", "--json", cwd=tmp_path).stdout)["exit_codes"]}
    assert codes == {0, 1, 2, 3, 4, 5, 6, 7, 130}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(tmp_path: Path, shell: str) -> None:
    done = coollm("completion", shell, cwd=tmp_path)
    assert done.returncode == 0
    assert "_COOLLM_COMPLETE" in done.stdout


def test_bash_completes_commands(tmp_path: Path) -> None:
    environment = clean_environment(_COOLLM_COMPLETE="complete_bash", COMP_WORDS="coollm config va", COMP_CWORD="2")
    code = "import sys; sys.argv = ['coollm']; from coollm_cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["validate"]


def test_init_writes_a_configuration_that_starts_as_it_is(tmp_path: Path, short_path: Path) -> None:
    dry = coollm("init", "--dry-run", cwd=tmp_path)
    assert "would write" in dry.stdout
    assert list(tmp_path.iterdir()) == []
    done = coollm("init", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    keys = [line.partition("=")[2].strip('"') for line in (tmp_path / ".env").read_text().splitlines() if "=" in line]
    assert len(keys) == 3
    assert not any(key in (tmp_path / "coollm.yaml").read_text() + done.stdout for key in keys), "no secret in the configuration or on the screen"
    again = coollm("init", cwd=tmp_path)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
    assert coollm("config", "validate", cwd=tmp_path).stdout.startswith("coollm.yaml: valid")
    port = free_port()
    environment = clean_environment(HOME=str(tmp_path), COOLLM_RUN_DIR=str(short_path / "run"))
    command = [sys.executable, "-m", "coollm_cli.main", "serve", "--listen", f"127.0.0.1:{port}"]
    with running(command, tmp_path / "words.txt", environment, tmp_path) as process:
        wait_for(lambda: coollm("health", cwd=tmp_path, environment=environment).returncode == 0, what="health")
        said = coollm("chat", "--json", "Say hello", cwd=tmp_path, environment=environment)
        answer = json.loads(said.stdout)
        assert answer["provider"] == "openai"
        assert answer["cost_usd"] > 0
        assert answer["output_tokens"] > 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_init_takes_the_vendors_of_the_environment(tmp_path: Path) -> None:
    environment = clean_environment(HOME=str(tmp_path), OPENAI_API_KEY="sk-canary-1", ANTHROPIC_API_KEY="sk-ant-canary-2")
    done = coollm("init", "--json", cwd=tmp_path, environment=environment)
    assert json.loads(done.stdout)["vendors"] == ["openai", "claude"]
    assert "canary" not in (tmp_path / "coollm.yaml").read_text() + done.stdout + done.stderr
    shown = coollm("config", "show", "--json", cwd=tmp_path, environment=environment)
    assert [provider["id"] for provider in json.loads(shown.stdout)["llm_providers"]] == ["openai", "claude"]


def test_validate_tells_all_faults(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("server: {listen: here}\npolicy: {algorithm: fastest}\nloging: {}\n")
    done = coollm("config", "validate", "bad.yaml", cwd=tmp_path)
    assert done.returncode == 3
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert [line.split(": ")[1] for line in errors] == ["bad.yaml:1:18", "bad.yaml:2:21", "bad.yaml:3:1"]
    assert "did you mean 'logging'?" in errors[2]
    data = json.loads(coollm("config", "validate", "bad.yaml", "--json", cwd=tmp_path).stdout)
    assert data["valid"] is False
    assert [(error["line"], error["column"], error["path"]) for error in data["errors"]] == [
        (1, 18, "server.listen"),
        (2, 21, "policy.algorithm"),
        (3, 1, "loging"),
    ]
    assert set(data["errors"][0]) == {"file", "line", "column", "path", "message", "hint"}
    missing = coollm("config", "validate", "none.yaml", cwd=tmp_path)
    assert (missing.returncode, "no such file" in missing.stderr) == (3, True)


def test_show_explain_and_schema(tmp_path: Path) -> None:
    (tmp_path / "coollm.yaml").write_text('server: {admin_api_key: "canary-admin-key", workers: 3}\n')
    shown = coollm("config", "show", cwd=tmp_path)
    assert yaml.safe_load(shown.stdout)["server"]["workers"] == 3
    origins = coollm("config", "show", "--origin", cwd=tmp_path)
    explained = coollm("config", "explain", "server.workers", cwd=tmp_path)
    assert "coollm.yaml:1:54" in explained.stdout
    assert "Worker processes" in explained.stdout
    assert "canary" not in shown.stdout + origins.stdout
    assert coollm("config", "explain", "server.workrs", cwd=tmp_path).returncode == 2
    assert json.loads(coollm("config", "schema", cwd=tmp_path).stdout)["type"] == "object"


def test_nothing_runs(tmp_path: Path) -> None:
    environment = clean_environment(HOME=str(tmp_path), COOLLM_RUN_DIR=str(tmp_path / "run"))
    (tmp_path / "coollm.yaml").write_text(f"server: {{listen: '127.0.0.1:{free_port()}'}}")
    for command in (["status"], ["health"], ["models"], ["providers"], ["chat", "hi"], ["route", "explain", "--model", "x"]):
        done = coollm(*command, cwd=tmp_path, environment=environment)
        assert done.returncode == 5, (command, done.stderr)
        assert done.stderr.startswith("error: ") or command == ["status"]


def test_serve_says_at_once_what_is_wrong(tmp_path: Path, gateway: GatewayHandle) -> None:
    (tmp_path / "coollm.yaml").write_text("policy: {algorithm: x}")
    assert coollm("serve", cwd=tmp_path).returncode == 3
    (tmp_path / "coollm.yaml").write_text(f"server: {{listen: '127.0.0.1:{gateway.port}'}}")
    taken = coollm("serve", cwd=tmp_path)
    assert (taken.returncode, "cannot listen" in taken.stderr) == (1, True)
    (tmp_path / "coollm.yaml").write_text(f"{{server: {{listen: '127.0.0.1:{free_port()}'}}, logging: {{file: /proc/none/app.log}}}}")
    unwritable = coollm("serve", cwd=tmp_path)
    assert (unwritable.returncode, "/proc/none" in unwritable.stderr, "Traceback" in unwritable.stderr) == (1, True, False)
    (tmp_path / "coollm.yaml").write_text("server: {tls: {cert_file: /none.crt, key_file: /none.key}}")
    assert "cannot be read" in coollm("serve", cwd=tmp_path).stderr


def test_status_health_models_providers(gateway: GatewayHandle) -> None:
    status = json.loads(gateway.coollm("status", "--json").stdout)["instances"]
    assert [(one["status"], one["pid"], one["workers"]) for one in status] == [("ok", gateway.process.pid, 2)]
    health = gateway.coollm("health", "--json")
    assert (health.returncode, json.loads(health.stdout)["status"]) == (0, "ok")
    assert gateway.coollm("health", "--quiet").stdout == ""
    assert "openai:gpt-sim" in gateway.coollm("models").stdout
    assert gateway.coollm("providers").stdout.count("usable") == 3
    tested = gateway.coollm("providers", "test", "--json")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert [row["ok"] for row in json.loads(tested.stdout)["results"]] == [True, True, True]
    failed = gateway.coollm("providers", "test", "claude", "--model", "claude-sim~status=401")
    assert (failed.returncode, "key_rejected" in failed.stdout) == (4, True)
    unknown = gateway.coollm("providers", "test", "nobody")
    assert (unknown.returncode, "no provider 'nobody'" in unknown.stderr) == (1, True)


def test_chat_streams_and_tells_what_it_took(gateway: GatewayHandle) -> None:
    done = gateway.coollm("chat", "--model", "claude:claude-sim~tokens=6", "Say hello")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 6
    assert re.search(r"claude claude-sim~tokens=6, key [0-9a-f]{8}: \d+ \+ 6 tokens, \$0\.\d+, \d+ ms \(first token \d+ ms\), req_", done.stderr)
    piped = gateway.coollm("chat", "-m", "gemini-sim~echo=1", "-", stdin="from standard input")
    assert "from standard input" in piped.stdout
    refused = gateway.coollm("chat", "-m", "nothing-like-it", "x")
    assert (refused.returncode, "nearest" in refused.stderr or "not served" in refused.stderr) == (1, True)
    over_http = coollm(
        "chat", "--json", "--url", gateway.url, "hi", cwd=gateway.home, environment={**gateway.environment, "COOLLM_API_KEY": gateway.client_key}
    )
    assert json.loads(over_http.stdout)["provider"] == "openai"


def test_route_explain(gateway: GatewayHandle) -> None:
    found = json.loads(gateway.coollm("route", "explain", "--model", "claude-sim", "--json").stdout)
    assert found["chosen"]["provider"] == "claude"
    assert set(found["candidates"][0]["components"]) == {"token_ratio", "req_ratio", "error_score", "latency", "cost_ratio"}
    request = gateway.home / "request.json"
    request.write_text(json.dumps({"model": "gpt-sim", "messages": [{"role": "user", "content": "x"}]}))
    assert "now: openai key" in gateway.coollm("route", "explain", "--request", str(request)).stdout
    reply = gateway.chat("gpt-sim")
    past = gateway.coollm("route", "explain", "--id", reply.headers["x-request-id"])
    assert "answered" in past.stdout
    assert gateway.coollm("route", "explain", "--id", "req_nothing").returncode == 1
    assert gateway.coollm("explain", reply.headers["x-request-id"]).stdout == past.stdout
    assert gateway.coollm("route", "explain", "--model", "nothing-like-it").returncode == 1


def test_the_demo_ends_by_itself_and_leaves_nothing(short_path: Path) -> None:
    environment = clean_environment(HOME=str(short_path), TMPDIR=str(short_path))
    done = coollm("demo", "--once", cwd=short_path, environment=environment)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"\d+ \+ \d+ tokens, \$0\.\d+, \d+ ms", done.stdout)) == 3
    assert len(re.findall(r"key [0-9a-f]{8}", done.stdout)) == 3
    assert list(short_path.iterdir()) == []


def test_a_socket_path_that_is_too_long_is_said(tmp_path: Path) -> None:
    (tmp_path / "coollm.yaml").write_text(f"server: {{listen: '127.0.0.1:{free_port()}'}}")
    done = coollm("serve", cwd=tmp_path, environment=clean_environment(HOME=str(tmp_path), COOLLM_RUN_DIR=str(tmp_path / ("x" * 100))))
    assert (done.returncode, "too long" in done.stderr, "COOLLM_RUN_DIR" in done.stderr) == (1, True, True)


def test_the_demo_stops_at_once_on_interrupt(short_path: Path) -> None:
    environment = clean_environment(HOME=str(short_path), TMPDIR=str(short_path))
    process = subprocess.Popen([sys.executable, "-m", "coollm_cli.main", "demo"], env=environment, stdout=subprocess.PIPE, text=True, cwd=short_path)
    assert process.stdout is not None
    assert any("Ctrl-C" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    process.stdout.close()
    assert list(short_path.iterdir()) == []


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "coollm.yaml").write_text("version: '1.0'")
    process = subprocess.Popen(
        [sys.executable, "-m", "coollm_cli.main", "config", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=clean_environment()
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.wait(20)
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


def test_a_fault_of_ours_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from coollm_cli import main

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def broken(row: Any) -> Any:
        secret = "canary-in-a-variable"
        raise RuntimeError(secret)

    monkeypatch.setattr(main, "load", broken)
    assert main.run(["status"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: this is a fault of coollm (RuntimeError)")
    assert "canary" not in said + next(tmp_path.glob("coollm-fault-*")).read_text()


def test_simulate_refuses_unknown_behaviour(tmp_path: Path) -> None:
    done = coollm("simulate", "--listen", "127.0.0.1:0", "--set", "latncy_ms=5", cwd=tmp_path)
    assert (done.returncode, "did you mean 'latency_ms'" in done.stderr) == (2, True)
