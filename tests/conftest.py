"""Real parts for the tests: the simulated vendors, the gateway under gunicorn, Redis; each on an ephemeral port, ended by its own process id."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.host.machines import network, new_host, releases, wheelhouse  # noqa: F401  fixtures

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 30


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a skipped test is a failure: everything a test needs can be installed there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("COOLLM_NO_SKIPS") and reporter and reporter.stats.get("skipped") and exitstatus == 0:
        session.exitstatus = 1


def free_port() -> int:
    """A port that nothing listens on, below those that the kernel gives to outgoing connections: else one of them may have it before a server binds it."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_for(condition: Callable[[], Any], seconds: float = START_SECONDS, what: str = "the condition") -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true within {seconds} s")


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without what would leak a developer's own gateway or vendor keys into a test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COOLLM_") and not name.endswith("_API_KEY")}
    return {**kept, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "200", **more}


@contextlib.contextmanager
def running(command: list[str], words: Path, environment: dict[str, str], cwd: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    with words.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=cwd)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class SimulatorHandle:
    """The simulated vendors in a process of their own."""

    def __init__(self, url: str) -> None:
        self.url = url

    def seen(self) -> list[dict[str, Any]]:
        return requests.get(f"{self.url}/_simulator/requests", timeout=10).json()

    def last(self, mark: str) -> dict[str, Any] | None:
        """The last request whose model or key holds `mark`."""
        rows = [row for row in self.seen() if mark in row.get("model", "") or mark in row.get("key", "")]
        return rows[-1] if rows else None


class GatewayHandle:
    """A gateway under gunicorn, started by `coollm serve`."""

    def __init__(self, home: Path, url: str, process: subprocess.Popen[bytes], environment: dict[str, str], client_key: str) -> None:
        self.home = home
        self.run = Path(environment["COOLLM_RUN_DIR"])
        self.port = int(url.rpartition(":")[2])
        self.url = url
        self.process = process
        self.environment = environment
        self.client_key = client_key

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.client_key}"}

    def chat(self, model: str, content: Any = "hello", **more: Any) -> requests.Response:
        body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
        return requests.post(f"{self.url}/v1/chat/completions", json=body, headers=self.headers, timeout=30, stream=bool(more.get("stream")))

    def log(self) -> list[dict[str, Any]]:
        path = self.home / "state" / "logs" / "app.log"
        return [json.loads(line) for line in path.read_text().split("\n") if line] if path.exists() else []

    def requests_logged(self) -> list[dict[str, Any]]:
        return [line for line in self.log() if line["message"] == "request"]

    def logged(self, request_id: str) -> dict[str, Any]:
        return wait_for(lambda: next((line for line in self.requests_logged() if line["request_id"] == request_id), None), 5, "the log line")

    def words(self) -> str:
        return (self.home / "server.txt").read_text()

    def coollm(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return coollm(*arguments, cwd=self.home, environment=self.environment, **options)

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]


def coollm(*arguments: str, cwd: Path, environment: dict[str, str] | None = None, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own."""
    command = [sys.executable, "-m", "coollm_cli.main", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment or clean_environment(HOME=str(cwd)), input=stdin, capture_output=True, text=True, timeout=60)


@contextlib.contextmanager
def serve(
    home: Path,
    configuration: dict[str, Any],
    *,
    workers: int = 2,
    host: str = "127.0.0.1",
    port: int | None = None,
    wrap: Callable[[list[str]], list[str]] | None = None,
    **environment: str,
) -> Iterator[GatewayHandle]:
    """A gateway with `configuration`, in `home`, started by what `wrap` makes of its command."""
    address = f"{host}:{port or free_port()}"
    configuration = {"version": "1.0", **configuration}
    configuration["server"] = {**configuration.get("server", {}), "listen": address}
    url = f"{'https' if configuration['server'].get('tls') else 'http'}://{address}"
    configuration.setdefault("api_keys", [{"id": "app", "key": "client-key-of-the-tests"}])
    config = home / "coollm.yaml"
    config.write_text(yaml.safe_dump(configuration))
    run = Path(tempfile.mkdtemp(prefix="coollm-run-"))
    variables = clean_environment(HOME=str(home), COOLLM_CONFIG=str(config), COOLLM_STATE_DIR=str(home / "state"), COOLLM_RUN_DIR=str(run), **environment)
    command = [sys.executable, "-m", "coollm_cli.main", "serve", "--workers", str(workers)]
    with running(wrap(command) if wrap else command, home / "server.txt", variables, home) as process:
        handle = GatewayHandle(home, url, process, variables, configuration["api_keys"][0]["key"])

        def is_up() -> bool:
            assert process.poll() is None, f"the gateway ended: {handle.words()}"
            with contextlib.suppress(requests.RequestException):
                return requests.get(f"{handle.url}/health", timeout=2, verify=False).status_code in (200, 503)
            return False

        wait_for(is_up, what="the gateway")
        yield handle
    shutil.rmtree(run)


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorHandle]:
    words = tmp_path_factory.mktemp("simulator") / "words.txt"
    command = [sys.executable, "-m", "coollm_cli.main", "simulate", "--listen", "127.0.0.1:0"]
    with running(command, words, clean_environment()) as process:

        def address() -> str | None:
            assert process.poll() is None, words.read_text()
            return words.read_text().partition(" on ")[2].strip() or None

        yield SimulatorHandle(wait_for(address, what="the simulator"))


def simulated(simulator_url: str, **limits: Any) -> list[dict[str, Any]]:
    """One provider of each dialect in front of the simulator, with prices."""
    price = {"input_token_cost": 2.0, "output_token_cost": 8.0, "cached_input_token_cost": 1.0}
    rows = (("openai", "/v1", "gpt-sim"), ("claude", "", "claude-sim"), ("gemini", "/v1beta", "gemini-sim"))
    return [
        {
            "id": kind,
            "type": kind,
            "base_url": simulator_url + path,
            "api_keys": [f"sk-vendor-{kind}-0001"],
            "model": model,
            "models": [model, f"{model}~*"],
            "pricing": price,
            "limits": limits,
        }
        for kind, path, model in rows
    ]


OTHER_VENDORS = (
    ("cohere", "cohere", "", "command-sim", "co-vendor-0001"),
    ("replicate", "replicate", "/v1", "meta/llama-sim", "r8-vendor-0001"),
    ("bedrock", "bedrock", "", "anthropic.claude-sim-v1", "AKIASIM:secret-of-AKIASIM"),
    ("vertex", "vertex", "/v1/projects/p/locations/global", "gemini-vertex-sim", "AIza-vertex-0001"),
    ("vertex-claude", "vertex", "/v1/projects/p/locations/global", "claude-vertex-sim", ""),
    ("voyage", "voyage", "/voyage/v1", "voyage-sim", "pa-vendor-0001"),
    ("custom", "custom", "/v1", "custom-sim", "sk-vendor-custom-0001"),
)


@functools.cache
def service_account(simulator_url: str) -> str:
    """The key file of a service account, whose tokens the simulator gives."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    told = {"type": "service_account", "project_id": "p", "private_key_id": "1", "private_key": pem.decode(), "client_id": "1"}
    return json.dumps({**told, "client_email": "a@p.iam.gserviceaccount.com", "token_uri": f"{simulator_url}/token"}, indent=2)


def every_dialect(simulator_url: str) -> list[dict[str, Any]]:
    """One provider of each wire format in front of the simulator; OpenAI's own also serves its other routes."""
    others = [
        {
            "id": name,
            "type": kind,
            "base_url": simulator_url + path,
            "api_keys": [key or service_account(simulator_url)],
            "model": model,
            "models": [model, f"{model}~*"],
        }
        for name, kind, path, model, key in OTHER_VENDORS
    ]
    providers = [*simulated(simulator_url), *others]
    for provider in providers:
        if provider["id"] in ("openai", "custom"):
            provider["models"] += ["image-sim*", "tts-sim*", "whisper-sim*", "omni-moderation-*", "rerank-sim*", "davinci-sim*", "embed-sim*"]
        if provider["id"] in ("cohere", "gemini"):
            provider["models"] += ["embed-sim*", "rerank-sim*"]
        if provider["id"] in ("voyage", "bedrock", "vertex"):
            provider["models"] += ["rerank-sim*", "amazon.titan-embed-text-sim*", "amazon.nova-embed-sim*", "cohere.embed-sim*", "text-embedding-sim*"]
        if provider["id"] == "vertex":
            provider["models"] += ["gemini-embedding-001*", "gemini-embedding-sim*"]
    return providers


@pytest.fixture(scope="module")
def wide_gateway(simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHandle]:
    """A gateway in front of every simulated vendor, shared by the tests of a module."""
    with serve(tmp_path_factory.mktemp("wide"), {"llm_providers": every_dialect(simulator.url)}) as handle:
        yield handle


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHandle]:
    """A gateway of two workers in front of the three simulated vendors, shared by the tests of a module."""
    home = tmp_path_factory.mktemp("gateway")
    with serve(home, {"llm_providers": simulated(simulator.url)}) as handle:
        yield handle


@contextlib.contextmanager
def redis_server(home: Path, port: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A real Redis, without persistence."""
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(home), "--unixsocket", str(home / "redis.sock"), *options]
    with running(command, home / "words.txt", clean_environment()) as process:
        wait_for(lambda: "Ready to accept connections" in (home / "words.txt").read_text(), what="Redis")
        yield process


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a real Redis."""
    port = free_port()
    with redis_server(tmp_path_factory.mktemp("redis"), port):
        yield f"127.0.0.1:{port}"


class Postgresql:
    """A real PostgreSQL at `home`, as its own user."""

    def __init__(self, home: Path) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").exists() else []
        if not found:
            pytest.skip("postgresql is not installed: apt-get install postgresql")
        self.home, self.port, self._programs = home, free_port(), found[-1]
        self.words = home.parent / f"{home.name}.txt"
        self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
        if self._as_user:
            shutil.chown(home, "postgres", "postgres")
            for parent in home.parents:
                if parent.stat().st_uid == os.getuid() and parent != Path("/") and not parent.stat().st_mode & 1:
                    parent.chmod(parent.stat().st_mode | 0o011)

    def make(self) -> None:
        """An empty database."""
        self.program("initdb", "-D", str(self.home / "data"), "-U", "ledger", "-A", "trust", "--no-sync")

    def follow(self, primary: Postgresql) -> None:
        """A standby of another."""
        words = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "ledger", "--write-recovery-conf", "--no-sync", "--checkpoint=fast"]
        self.program("pg_basebackup", "-D", str(self.home / "data"), *words)

    def promote(self) -> None:
        """Makes a primary of a standby."""
        self.program("pg_ctl", "-D", str(self.home / "data"), "promote")

    def program(self, name: str, *arguments: str) -> None:
        done = subprocess.run([*self._as_user, str(self._programs / name), *arguments], capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        server = [str(self._programs / "postgres"), "-D", str(self.home / "data"), "-p", str(self.port), "-k", str(self.home)]
        with running([*self._as_user, *server, "-c", "listen_addresses=127.0.0.1", "-F"], self.words, clean_environment()) as process:
            wait_for(lambda: "ready to accept" in self.words.read_text(), what="PostgreSQL")
            yield process


@pytest.fixture(scope="session")
def postgresql_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real PostgreSQL."""
    server = Postgresql(tmp_path_factory.mktemp("postgresql"))
    server.make()
    with server.running():
        yield f"postgresql+psycopg://ledger@127.0.0.1:{server.port}/postgres"


@pytest.fixture(scope="session")
def mysql_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MariaDB."""
    server = shutil.which("mariadbd") or shutil.which("mysqld") or ("/usr/sbin/mariadbd" if Path("/usr/sbin/mariadbd").exists() else None)
    install = shutil.which("mariadb-install-db") or shutil.which("mysql_install_db")
    if server is None or install is None:
        pytest.skip("mariadb-server is not installed: apt-get install mariadb-server")
    home, port = tmp_path_factory.mktemp("mariadb"), free_port()
    user = "root" if os.getuid() == 0 else os.environ.get("USER", "nobody")
    data = home / "data"
    options = [f"--datadir={data}", f"--user={user}"]
    subprocess.run([install, "--no-defaults", *options, "--auth-root-authentication-method=normal"], check=True, capture_output=True, timeout=100)
    command = [server, "--no-defaults", *options, f"--port={port}", "--bind-address=127.0.0.1", f"--socket={home}/s", f"--pid-file={home}/pid"]
    with running(command, home / "words.txt", clean_environment()):
        wait_for(lambda: "ready for connections" in (home / "words.txt").read_text(), what="MariaDB")
        client = shutil.which("mariadb") or "mysql"
        make = "CREATE DATABASE ledger; CREATE USER 'ledger'@'127.0.0.1' IDENTIFIED BY 'a-password'; GRANT ALL ON ledger.* TO 'ledger'@'127.0.0.1';"
        subprocess.run([client, f"--socket={home}/s", "-uroot", "-e", make], check=True, timeout=30)
        yield f"mysql+pymysql://ledger:a-password@127.0.0.1:{port}/ledger"
