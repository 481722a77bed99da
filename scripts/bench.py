"""The gateway beside nginx and LiteLLM: one worker on one core, 64 connections, requests of some 600 bytes and answers of 950; vendor and load on the other.

All features are on: authentication, limits of client and key, usage log, ledger, metrics, routing over three keys. Rounds of all are interleaved; of each the
median counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS = 64
TICKS = os.sysconf("SC_CLK_TCK")
CLIENT_KEY = "bench-client-key-0001"

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

WRK = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer %s"
wrk.body = [[%s]]
local bad = 0
done = function(summary, latency, requests)
  io.write(string.format("RESULT %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration, summary.errors.status + summary.errors.connect +
    summary.errors.read + summary.errors.timeout, latency:percentile(50), latency:percentile(99)))
end
"""


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Server:
    """A server under test: its address, its processes, and how it is started."""

    def __init__(self, name: str, url: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.url = url
        self.process = process
        self.rounds: list[tuple[float, float, float, float]] = []
        self.errors = 0

    def pids(self) -> list[int]:
        """The process and all below it."""
        found, waiting = [], [self.process.pid]
        while waiting:
            pid = waiting.pop()
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

    def measure(self, script: Path, seconds: int) -> None:
        """One round."""
        before, started = self.cpu_seconds(), time.monotonic()
        command = ["taskset", "-c", "1", "wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds}s", "--latency", "-s", str(script), self.url]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        cpu, took = self.cpu_seconds() - before, time.monotonic() - started
        requests, _, errors, median, slowest = map(int, re.findall(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", said)[0])
        self.errors += errors
        self.rounds.append((requests / took, cpu / max(1, requests) * 1e6, median / 1000, slowest / 1000))

    def row(self) -> dict[str, Any]:
        """The medians of all rounds."""
        rate, cpu, median, slowest = (statistics.median(column) for column in zip(*self.rounds, strict=True))
        return {
            "name": self.name,
            "requests_per_second_per_core": round(rate),
            "cpu_us_per_request": round(cpu, 1),
            "latency_ms_p50": round(median, 2),
            "latency_ms_p99": round(slowest, 2),
            "memory_mb": round(self.memory_mb()),
            "errors": self.errors,
        }


@contextlib.contextmanager
def nginx(home: Path, name: str, location: str, core: int) -> Iterator[Server]:
    """An nginx with one worker on a core."""
    port = free_port()
    (home / name).mkdir()
    (home / name / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {home}/{name}/pid; error_log {home}/{name}/error.log;\n"
        "events { worker_connections 4096; }\n"
        "http { access_log off; default_type application/json; keepalive_requests 10000000; client_body_buffer_size 128k;\n"
        f"  client_body_temp_path {home}/{name}/body; proxy_temp_path {home}/{name}/proxy;\n"
        f"{location.replace('PORT', str(port))} }}\n"
    )
    with started(["taskset", "-c", str(core), "nginx", "-p", str(home / name), "-c", str(home / name / "nginx.conf")], {}, home / f"{name}.txt") as process:
        yield Server(name, f"http://127.0.0.1:{port}/v1/chat/completions", process)


@contextlib.contextmanager
def started(command: list[str], environment: dict[str, str], words: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended with everything that it started."""
    with words.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


def answers(url: str, seconds: float, words: Path) -> float:
    """Waits for a first answer; the seconds that it took."""
    began = time.monotonic()
    headers = {"content-type": "application/json", "authorization": f"Bearer {CLIENT_KEY}"}
    while time.monotonic() - began < seconds:
        with contextlib.suppress(OSError):
            request = urllib.request.Request(url, BODY.encode(), headers)
            with urllib.request.urlopen(request, timeout=5) as answer:
                if answer.status == 200:
                    return time.monotonic() - began
        time.sleep(0.05)
    sys.exit(f"error: {url} does not answer\n{words.read_text()[-2000:]}")


@contextlib.contextmanager
def coollm(home: Path, store: str, vendor: str, name: str) -> Iterator[Server]:
    """The gateway with one worker and a store."""
    port, place = free_port(), home / name
    place.mkdir()
    limits = {"req_per_min": 100_000_000, "tokens_per_min": 100_000_000_000}
    keys = ["sk-bench-1", "sk-bench-2", "sk-bench-3"]
    settings = {
        "version": "1.0",
        "server": {"listen": f"127.0.0.1:{port}", "workers": 1},
        "llm_providers": [
            {
                "id": "vendor",
                "type": "custom",
                "base_url": vendor,
                "api_keys": keys,
                "models": ["bench"],
                "limits": limits,
            }
        ],
        "api_keys": [{"id": "bench", "key": CLIENT_KEY, "limits": limits}],
        "storage": {"runtime": {"type": store, **({"addr": f"unix:{home}/redis.sock"} if store == "redis" else {})}},
        "policy": {"algorithm": "hybrid"},
    }
    (place / "coollm.yaml").write_text(json.dumps(settings))
    environment = {"COOLLM_STATE_DIR": str(place / "state"), "COOLLM_RUN_DIR": tempfile.mkdtemp(prefix="coollm-bench-"), "HOME": str(place)}
    command = ["taskset", "-c", "0", sys.executable, "-m", "coollm_cli.main", "serve", "--config", str(place / "coollm.yaml")]
    with started(command, environment, home / f"{name}.txt") as process:
        yield Server(name, f"http://127.0.0.1:{port}/v1/chat/completions", process)


@contextlib.contextmanager
def redis(home: Path) -> Iterator[None]:
    """A Redis on the other core, on a Unix socket."""
    command = ["taskset", "-c", "1", "redis-server", "--port", "0", "--unixsocket", str(home / "redis.sock"), "--save", "", "--dir", str(home)]
    with started(command, {}, home / "redis.txt"):
        yield


@contextlib.contextmanager
def litellm(home: Path, vendor: str, environment: Path) -> Iterator[Server]:
    """The newest LiteLLM proxy of the package index, without a database, with one worker."""
    if not (environment / "bin" / "litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        subprocess.run([environment / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "litellm[proxy]"], check=True)
    port = free_port()
    models = [{"model_name": "bench", "litellm_params": {"model": "openai/bench", "api_base": vendor, "api_key": f"sk-{key}"}} for key in range(3)]
    (home / "litellm.yaml").write_text(json.dumps({"model_list": models, "general_settings": {"master_key": CLIENT_KEY}}))
    command = ["taskset", "-c", "0", str(environment / "bin" / "litellm"), "--config", str(home / "litellm.yaml"), "--port", str(port), "--host", "127.0.0.1"]
    settings = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": str(home)}
    with started(command, settings, home / "litellm.txt") as process:
        yield Server("litellm", f"http://127.0.0.1:{port}/v1/chat/completions", process)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All rounds of all servers."""
    seconds, rounds = (2, 3) if arguments.quick else (6, 5)
    home = Path(tempfile.mkdtemp(prefix="coollm-bench-"))
    script = home / "post.lua"
    script.write_text(WRK % (CLIENT_KEY, BODY))
    (home / "answer.json").write_text(ANSWER)
    vendor_location = f"server {{ listen 127.0.0.1:PORT; location / {{ return 200 '{ANSWER}'; }} }}"
    with contextlib.ExitStack() as stack:
        vendor = stack.enter_context(nginx(home, "vendor", vendor_location, 1))
        address = vendor.url.removesuffix("/v1/chat/completions")
        proxied = f"upstream vendor {{ server {address.removeprefix('http://')}; keepalive 128; }} server {{ listen 127.0.0.1:PORT; location / {{ "
        proxied += 'proxy_pass http://vendor; proxy_http_version 1.1; proxy_set_header connection ""; } }'
        stack.enter_context(redis(home))
        wanted: dict[str, Callable[[], Any]] = {
            "nginx": lambda: nginx(home, "nginx", proxied, 0),
            **{f"coollm {store}": lambda store=store: coollm(home, store, f"{address}/v1", f"coollm {store}") for store in ("memory", "sqlite", "redis")},
            "litellm": lambda: litellm(home, f"{address}/v1", ROOT / "build" / "litellm"),
        }
        servers, start_up = [], {}
        for name, make in wanted.items():
            if name in arguments.without:
                continue
            server = stack.enter_context(make())
            start_up[name] = answers(server.url, 90, home / f"{name}.txt")
            servers.append(server)
        for _ in range(rounds):
            for server in servers:
                server.measure(script, seconds)
        rows = [{**server.row(), "ready_seconds": round(start_up[server.name], 2)} for server in servers]
    shutil.rmtree(home, ignore_errors=True)
    return {"throughput": rows, "connections": CONNECTIONS, "rounds": rounds, "seconds": seconds}


def show(found: dict[str, Any]) -> None:
    """The table, with what each is to the others."""
    rows = found["throughput"]
    by_name = {row["name"]: row for row in rows}
    print("| | requests/s per core | CPU µs per request | p50 / p99 ms | memory MB | ready s | of nginx | × LiteLLM |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        rate = row["requests_per_second_per_core"]
        of_nginx = f"1/{by_name['nginx']['requests_per_second_per_core'] / rate:.1f}" if "nginx" in by_name else "-"
        times = f"{rate / by_name['litellm']['requests_per_second_per_core']:.0f}" if "litellm" in by_name else "-"
        latency = f"{row['latency_ms_p50']} / {row['latency_ms_p99']}"
        print(f"| {row['name']} | {rate:,} | {row['cpu_us_per_request']} | {latency} | {row['memory_mb']} | {row['ready_seconds']} | {of_nginx} | {times} |")
        if row["errors"]:
            print(f"\n{row['name']}: {row['errors']} requests failed\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME", help="leave out: nginx, litellm, 'coollm memory', 'coollm sqlite', 'coollm redis'")
    arguments = parser.parse_args()
    if os.cpu_count() == 1:
        sys.exit("error: two cores are needed, one for the server and one for the load")
    found = run(arguments)
    print(json.dumps(found, indent=2)) if arguments.json else show(found)


if __name__ == "__main__":
    main()
