"""The gateway and its peers, each with one worker pinned to a core, in front of a vendor on the other."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SERVER_CORE, LOAD_CORE = "0", "1"
TICKS = os.sysconf("SC_CLK_TCK")
CLIENT_KEY = "bench-client-key-0001"
PATH = "/v1/chat/completions"

ANSWER = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "bench",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 120, "refusal": None}, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 120, "total_tokens": 220},
    }
)
BODY = json.dumps({"model": "bench", "messages": [{"role": "user", "content": "word " * 100}], "max_tokens": 200})


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Server:
    """A server under test: its port, its processes, and the headers that it wants."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes], words: Path, headers: dict[str, str] | None = None) -> None:
        self.name = name
        self.port = port
        self.url = f"http://127.0.0.1:{port}{PATH}"
        self.process = process
        self.words = words
        self.headers = {"content-type": "application/json", "authorization": f"Bearer {CLIENT_KEY}", **(headers or {})}
        self.ready_seconds = 0.0

    def request(self, body: str) -> bytes:
        """The bytes of a request."""
        told = {"host": f"127.0.0.1:{self.port}", **self.headers, "content-length": str(len(body.encode()))}
        return "\r\n".join([f"POST {PATH} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items()), "", body]).encode()

    def pids(self) -> list[int]:
        """The process and all below it."""
        found, waiting = [], [self.process.pid]
        while waiting:
            pid = waiting.pop(0)
            found.append(pid)
            with contextlib.suppress(FileNotFoundError):
                waiting += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return found

    def cpu_seconds(self) -> float:
        """Of all its processes."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def memory_mb(self) -> float:
        """Resident memory of its largest process."""
        sizes = [0.0]
        for pid in self.pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, IndexError):
                sizes.append(int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) / 1024)
        return max(sizes)

    def wait(self, seconds: float = 90.0, body: str = BODY) -> None:
        """Until it answers; `ready_seconds` has how long that was."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            with contextlib.suppress(OSError):
                request = urllib.request.Request(self.url, body.encode(), self.headers)
                with urllib.request.urlopen(request, timeout=5) as answer:
                    if answer.status == 200:
                        self.ready_seconds = round(time.monotonic() - began, 2)
                        return
            time.sleep(0.02)
        sys.exit(f"error: {self.name} does not answer at {self.url}\n{self.words.read_text()[-2000:]}")


@contextlib.contextmanager
def started(command: list[str], environment: dict[str, str], words: Path, core: str = SERVER_CORE) -> Iterator[subprocess.Popen[bytes]]:
    """A process on a core, ended with everything that it started."""
    with words.open("wb") as file:
        process = subprocess.Popen(["taskset", "-c", core, *command], stdout=file, stderr=file, env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


@contextlib.contextmanager
def nginx(home: Path, name: str, location: str, core: str = SERVER_CORE) -> Iterator[Server]:
    """An nginx with one worker."""
    port = free_port()
    (home / name).mkdir()
    (home / name / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {home}/{name}/pid; error_log {home}/{name}/error.log;\n"
        "events { worker_connections 8192; }\n"
        "http { access_log off; default_type application/json; keepalive_requests 10000000; client_body_buffer_size 2m; client_max_body_size 8m;\n"
        f"  client_body_temp_path {home}/{name}/body; proxy_temp_path {home}/{name}/proxy;\n"
        f"{location.replace('PORT', str(port))} }}\n"
    )
    words = home / f"{name}.txt"
    with started(["nginx", "-p", str(home / name), "-c", str(home / name / "nginx.conf")], {}, words, core) as process:
        yield Server(name, port, process, words)


@contextlib.contextmanager
def vendor(home: Path) -> Iterator[Server]:
    """One that answers at once."""
    with nginx(home, "vendor", f"server {{ listen 127.0.0.1:PORT; location / {{ return 200 '{ANSWER}'; }} }}", LOAD_CORE) as server:
        yield server


@contextlib.contextmanager
def stream_vendor(home: Path) -> Iterator[int]:
    """One that streams; its port."""
    port = free_port()
    environment = {"PYTHONPATH": str(ROOT / "scripts")}
    with started([sys.executable, "-m", "benchmark.streams", "vendor", str(port)], environment, home / "stream-vendor.txt", LOAD_CORE):
        yield port


@contextlib.contextmanager
def nginx_proxy(home: Path, vendor_port: int, name: str = "nginx") -> Iterator[Server]:
    """The limit: nginx as a proxy, which does nothing else."""
    proxied = f"upstream vendor {{ server 127.0.0.1:{vendor_port}; keepalive 128; }} server {{ listen 127.0.0.1:PORT backlog=2048; location / {{ "
    proxied += 'proxy_pass http://vendor; proxy_http_version 1.1; proxy_buffering off; proxy_set_header connection ""; } }'
    with nginx(home, name, proxied) as server:
        yield server


@contextlib.contextmanager
def coollm(
    home: Path, store: str, vendor_port: int, *, name: str = "", workers: int = 1, cores: str = SERVER_CORE, webui: dict[str, object] | None = None
) -> Iterator[Server]:
    """The gateway with a store, all features on: limits of client and keys, usage log, ledger, metrics, routing over three keys."""
    name = name or f"coollm {store}"
    port, place = free_port(), home / name
    place.mkdir()
    limits = {"req_per_min": 100_000_000, "tokens_per_min": 100_000_000_000}
    settings = {
        "version": "1.0",
        "server": {"listen": f"127.0.0.1:{port}", "workers": workers, **({"webui": webui} if webui else {})},
        "llm_providers": [
            {
                "id": "vendor",
                "type": "custom",
                "base_url": f"http://127.0.0.1:{vendor_port}/v1",
                "api_keys": ["sk-bench-1", "sk-bench-2", "sk-bench-3"],
                "models": ["bench"],
                "limits": limits,
            }
        ],
        "api_keys": [{"id": "bench", "key": CLIENT_KEY, "limits": limits}],
        "storage": {"runtime": {"type": store, **({"addr": f"unix:{home}/redis.sock"} if store == "redis" else {})}},
        "policy": {"algorithm": "hybrid"},
    }
    (place / "coollm.yaml").write_text(json.dumps(settings))
    run = tempfile.mkdtemp(prefix="coollm-bench-")
    environment = {"COOLLM_STATE_DIR": str(place / "state"), "COOLLM_RUN_DIR": run, "HOME": str(place)}
    command = [sys.executable, "-m", "coollm_cli.main", "serve", "--config", str(place / "coollm.yaml")]
    try:
        with started(command, environment, home / f"{name}.txt", cores) as process:
            yield Server(name, port, process, home / f"{name}.txt")
    finally:
        shutil.rmtree(run, ignore_errors=True)


@contextlib.contextmanager
def redis(home: Path) -> Iterator[None]:
    """A Redis on the other core, on a Unix socket."""
    command = ["redis-server", "--port", "0", "--unixsocket", str(home / "redis.sock"), "--save", "", "--dir", str(home)]
    with started(command, {}, home / "redis.txt", LOAD_CORE):
        yield


@contextlib.contextmanager
def litellm(home: Path, vendor_port: int) -> Iterator[Server]:
    """The newest LiteLLM proxy of the package index, without a database, with one worker."""
    environment = ROOT / "build" / "litellm"
    if not (environment / "bin" / "litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        subprocess.run([environment / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "litellm[proxy]"], check=True)
    port = free_port()
    base = f"http://127.0.0.1:{vendor_port}/v1"
    models = [{"model_name": "bench", "litellm_params": {"model": "openai/bench", "api_base": base, "api_key": f"sk-{key}"}} for key in range(3)]
    (home / "litellm.yaml").write_text(json.dumps({"model_list": models, "general_settings": {"master_key": CLIENT_KEY}}))
    command = [str(environment / "bin" / "litellm"), "--config", str(home / "litellm.yaml"), "--port", str(port), "--host", "127.0.0.1"]
    settings = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": str(home)}
    with started(command, settings, home / "litellm.txt") as process:
        yield Server("litellm", port, process, home / "litellm.txt")


@contextlib.contextmanager
def portkey(home: Path, vendor_port: int) -> Iterator[Server]:
    """The newest Portkey gateway of the npm registry."""
    folder = ROOT / "build" / "portkey"
    program = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "@portkey-ai/gateway"], check=True, cwd=folder)
    port = free_port()
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{vendor_port}/v1"}
    with started(["node", str(program), f"--port={port}", "--headless"], {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}, home / "portkey.txt") as process:
        yield Server("portkey", port, process, home / "portkey.txt", headers)
