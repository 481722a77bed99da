"""The gateway beside nginx, Portkey and LiteLLM, in one interleaved run: one worker on one core, vendor and load on the other.

| part       | what is measured                                                                                                     |
|------------|----------------------------------------------------------------------------------------------------------------------|
| throughput | 64 connections, requests of some 600 bytes, answers of 950: requests per second and core, CPU, memory, time to ready |
| latency    | an open loop at 200, 500 and 1,000 requests a second                                                                  |
| streams    | 500 and 1,000 streams of 50 chunks a second: CPU and added delay of a chunk, memory of a stream                       |
| bodies     | requests of 1 MB                                                                                                      |
| console    | requests per second with nobody and with so many people at the web console                                            |
| fleet      | seconds of `coollm fleet status` for 1, 10 and 30 hosts                                                               |
| commands   | `coollm --help` and `coollm health` beside a Typer program of two commands                                            |

All features of the gateway are on: authentication, limits of client and key, usage log, ledger, metrics, routing over three keys.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark.profile import profile
from benchmark.servers import BODY, LOAD_CORE, ROOT, SERVER_CORE, Server, coollm, litellm, nginx_proxy, portkey, redis, stream_vendor, vendor

CONNECTIONS = 64
STORES = ("memory", "sqlite", "redis")
RATES = (200, 500, 1000)
STREAMS = (500, 1000)
PARTS = ("throughput", "latency", "streams", "bodies", "commands", "capacity", "metrics", "console", "fleet")
CAPACITY_RATES = (500, 1000, 1500)
OBSERVED = 20_000
WATCHERS = 10
FLEETS, FLEET_ROUNDS = (1, 10, 30), 5

WRK = """
wrk.method = "POST"
%s
wrk.body = [[%s]]
done = function(summary, latency, requests)
  io.write(string.format("RESULT %%d %%d %%d %%d\\n", summary.requests, summary.errors.status + summary.errors.connect +
    summary.errors.read + summary.errors.timeout, latency:percentile(50), latency:percentile(99)))
end
"""
TYPER = """
import typer
app = typer.Typer()

@app.command()
def hello(name: str) -> None:
    "Says hello."

@app.command()
def bye(name: str) -> None:
    "Says bye."

app()
"""
Row = dict[str, Any]


def wrk(server: Server, home: Path, seconds: int, body: str, connections: int) -> Row:
    """One round of closed-loop load."""
    script = home / f"{server.name}.lua"
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in server.headers.items())
    script.write_text(WRK % (headers, body))
    before, began = server.cpu_seconds(), time.monotonic()
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--timeout", "10s", "-s", str(script), server.url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cpu, took = server.cpu_seconds() - before, time.monotonic() - began
    requests, errors, median, slowest = map(int, re.findall(r"RESULT (\d+) (\d+) (\d+) (\d+)", said)[0])
    row = {"rate": requests / took, "cpu_us": cpu / max(1, requests) * 1e6, "p50_ms": median / 1000, "p99_ms": slowest / 1000}
    return {**row, "failed": errors}


def medians(rows: list[Row]) -> Row:
    """Of each figure the median; failures are added up."""
    return {name: sum(row[name] for row in rows) if name == "failed" else round(statistics.median(row[name] for row in rows), 2) for name in rows[0]}


def interleaved(servers: list[Server], rounds: int, measure: Callable[[Server], Row]) -> dict[str, Row]:
    """All servers in turns, so that what else the machine does meets them all."""
    found: dict[str, list[Row]] = {server.name: [] for server in servers}
    for _ in range(rounds):
        for server in servers:
            found[server.name].append(measure(server))
    return {name: medians(rows) for name, rows in found.items()}


def load(module: str, *words: str) -> Row:
    """Runs a load generator of ours on its core; its last line is its result."""
    command = ["taskset", "-c", LOAD_CORE, sys.executable, "-m", f"benchmark.{module}", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    found: Row = json.loads(said.splitlines()[-1])
    return found


class Bench:
    """One run. `home` is thrown away after it."""

    def __init__(self, home: Path, arguments: argparse.Namespace) -> None:
        self._home = home
        self._quick = arguments.quick
        self._without = arguments.without

    def _start(self, stack: contextlib.ExitStack, makers: dict[str, Callable[[], Any]]) -> list[Server]:
        servers = []
        for name, make in makers.items():
            if name not in self._without:
                server = stack.enter_context(make())
                server.wait()
                servers.append(server)
        return servers

    def throughput(self) -> dict[str, Row]:
        """Closed loop, all servers. Two workers of the gateway have two cores, one of which they share with the load."""
        seconds, rounds = (2, 3) if self._quick else (6, 5)
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(vendor(self._home)).port
            stack.enter_context(redis(self._home))
            makers: dict[str, Callable[[], Any]] = {"nginx": lambda: nginx_proxy(self._home, port)}
            makers |= {f"coollm {store}": lambda store=store: coollm(self._home, store, port) for store in STORES}
            both, cores = "coollm sqlite, 2 workers", f"{SERVER_CORE},{LOAD_CORE}"
            makers[both] = lambda: coollm(self._home, "sqlite", port, name=both, workers=2, cores=cores)
            makers |= {"portkey": lambda: portkey(self._home, port), "litellm": lambda: litellm(self._home, port)}
            servers = self._start(stack, makers)
            rows = interleaved(servers, rounds, lambda server: wrk(server, self._home, seconds, BODY, CONNECTIONS))
            for server in servers:
                rows[server.name] |= {"memory_mb": round(server.memory_mb()), "ready_seconds": server.ready_seconds}
        return rows

    def latency(self) -> dict[str, Row]:
        """Open loop."""
        seconds, rounds = (3, 1) if self._quick else (10, 3)
        found: dict[str, Row] = {}
        with contextlib.ExitStack() as stack:
            direct = stack.enter_context(vendor(self._home))
            direct.name = "no gateway"
            direct.wait()
            makers: dict[str, Callable[[], Any]] = {"nginx": lambda: nginx_proxy(self._home, direct.port)}
            makers |= {"coollm memory": lambda: coollm(self._home, "memory", direct.port), "portkey": lambda: portkey(self._home, direct.port)}
            servers = [direct, *self._start(stack, makers)]
            for server in servers:
                (self._home / f"{server.name}.request").write_bytes(server.request(BODY))

            def measure(rate: int) -> Callable[[Server], Row]:
                def one(server: Server) -> Row:
                    return load("openloop", "127.0.0.1", str(server.port), str(rate), str(seconds), str(self._home / f"{server.name}.request"))

                return one

            for rate in RATES:
                for name, row in interleaved(servers, rounds, measure(rate)).items():
                    found.setdefault(name, {})[f"{rate}"] = row
        return found

    def streams(self) -> dict[str, Row]:
        """Many streams through one worker."""
        seconds = 4 if self._quick else 15
        found: dict[str, Row] = {}
        body = json.dumps({**json.loads(BODY), "stream": True})
        with stream_vendor(self._home) as port:
            makers: dict[str, Callable[[], Any]] = {
                "no gateway": lambda: contextlib.nullcontext(None),
                "nginx": lambda: nginx_proxy(self._home, port, "nginx-streams"),
                "coollm memory": lambda: coollm(self._home, "memory", port, name="coollm streams"),
            }
            for name, make in makers.items():
                for count in () if name in self._without else STREAMS:
                    found.setdefault(name, {})[f"{count}"] = self._streamed(name, make, port, count, seconds, body)
                    shutil.rmtree(self._home / "nginx-streams", ignore_errors=True)
                    shutil.rmtree(self._home / "coollm streams", ignore_errors=True)
        return found

    def _streamed(self, name: str, make: Callable[[], Any], vendor_port: int, count: int, seconds: int, body: str) -> Row:
        with make() as server:
            port = server.port if server else vendor_port
            if server:
                server.wait(body=body)
            time.sleep(1.0)
            request = server.request(body) if server else f"POST / HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
            file = self._home / "stream.request"
            file.write_bytes(request)
            before_mb = server.memory_mb() if server else 0.0
            command = [
                "taskset",
                "-c",
                LOAD_CORE,
                sys.executable,
                "-m",
                "benchmark.streams",
                "client",
                "127.0.0.1",
                str(port),
                str(count),
                str(seconds),
                str(file),
            ]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")})
            if process.stdout is None or "READY" not in process.stdout.readline():
                sys.exit(f"error: the streams through {name} do not begin")
            before = server.cpu_seconds() if server else 0.0
            row: Row = json.loads(process.stdout.readline())
            if server:
                row["cpu_us"] = round((server.cpu_seconds() - before) / max(1, row["chunks"]) * 1e6, 1)
                row["kb_per_stream"] = round((server.memory_mb() - before_mb) * 1024 / count, 1)
            process.wait()
            return row

    def bodies(self) -> dict[str, Row]:
        """Requests of a megabyte."""
        seconds, rounds = (2, 1) if self._quick else (5, 3)
        body = json.dumps({"model": "bench", "messages": [{"role": "user", "content": "x" * 1_000_000}], "max_tokens": 200})
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(vendor(self._home)).port
            makers: dict[str, Callable[[], Any]] = {"nginx": lambda: nginx_proxy(self._home, port), "coollm memory": lambda: coollm(self._home, "memory", port)}
            return interleaved(self._start(stack, makers), rounds, lambda server: wrk(server, self._home, seconds, body, 16))

    def capacity(self) -> dict[str, Row]:
        """What `coollm capacity` predicts from a load at a fixed rate, and what is then reached in a closed loop."""
        seconds = 4 if self._quick else 8
        found: dict[str, Row] = {}
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(vendor(self._home)).port
            server = stack.enter_context(coollm(self._home, "sqlite", port))
            server.wait()
            file = self._home / "capacity.request"
            file.write_bytes(server.request(BODY))
            environment = {**os.environ, **_environment_of(server)}
            ours = ["taskset", "-c", LOAD_CORE, sys.executable, "-m", "coollm_cli.main", "capacity", "--json", "--seconds", str(seconds)]
            ours += ["--config", str(self._home / "coollm sqlite" / "coollm.yaml")]
            measured = medians([wrk(server, self._home, seconds, BODY, CONNECTIONS) for _ in range(1 if self._quick else 3)])
            for rate in CAPACITY_RATES:
                words = [sys.executable, "-m", "benchmark.openloop", "127.0.0.1", str(server.port), str(rate), str(seconds + 4), str(file)]
                process = subprocess.Popen(
                    ["taskset", "-c", LOAD_CORE, *words], stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
                )
                time.sleep(1.5)
                told = json.loads(subprocess.run(ours, capture_output=True, check=True, text=True, env=environment).stdout)
                process.wait()
                row: Row = {"predicted": told["saturation_requests_per_second"], "measured": round(measured["rate"]), "busy": told["now"]["busy"]}
                found[f"{rate} requests/s"] = row
        return found

    def metrics(self) -> dict[str, Row]:
        """What the metrics of a request cost, and a scrape with as many series as there can be."""
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(self._home)
        from benchmark.metrics import measure

        return measure(OBSERVED)

    def console(self) -> dict[str, Row]:
        """The same gateway without a console, and with one that people look at."""
        from benchmark.console import NAME, PASSWORD, signed_in, watched

        seconds, rounds = (4, 1) if self._quick else (10, 5)
        webui = {"enabled": True, "admin_id": NAME, "admin_password": PASSWORD}
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(vendor(self._home)).port
            without, watching = "no console", f"{WATCHERS} people at the console"
            makers: dict[str, Callable[[], Any]] = {
                without: lambda: coollm(self._home, "sqlite", port, name=without),
                watching: lambda: coollm(self._home, "sqlite", port, name=watching, webui=webui),
            }
            servers = self._start(stack, makers)
            cookies = signed_in(servers[-1], WATCHERS)

            def measure(server: Server) -> Row:
                with watched(server, cookies if server.name == watching else []):
                    return wrk(server, self._home, seconds, BODY, CONNECTIONS)

            return interleaved(servers, rounds, measure)

    def fleet(self) -> dict[str, Row]:
        """Seconds of `coollm fleet status` for one host and for thirty."""
        from benchmark.fleet import measure

        place = self._home / "fleet"
        place.mkdir()
        return measure(place, FLEETS, FLEET_ROUNDS)

    def commands(self) -> dict[str, Row]:
        """How long a command takes, from its start to its end."""
        (self._home / "two.py").write_text(TYPER)
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(vendor(self._home)).port
            server = stack.enter_context(coollm(self._home, "memory", port))
            server.wait()
            ours = [sys.executable, "-m", "coollm_cli.main"]
            wanted = {
                "typer --help": [sys.executable, str(self._home / "two.py"), "--help"],
                "coollm --help": [*ours, "--help"],
                "coollm health": [*ours, "health", "--config", str(self._home / "coollm memory" / "coollm.yaml")],
            }
            environment = {**os.environ, **_environment_of(server)}
            times: dict[str, list[float]] = {name: [] for name in wanted}
            for _ in range(5 if self._quick else 15):
                for name, command in wanted.items():
                    began = time.monotonic()
                    subprocess.run(command, capture_output=True, check=True, env=environment)
                    times[name].append(time.monotonic() - began)
        return {name: {"seconds": round(statistics.median(taken), 3)} for name, taken in times.items()}


def _environment_of(server: Server) -> dict[str, str]:
    """Where the gateway under test keeps its files."""
    told = Path(f"/proc/{server.process.pid}/environ").read_bytes().decode().split("\0")
    return {name: value for name, _, value in (one.partition("=") for one in told) if name.startswith("COOLLM_")}


def show(found: dict[str, dict[str, Row]]) -> None:
    """The tables, with what each is to nginx and to the peers."""
    for part, rows in found.items():
        print(f"\n{part}\n")
        SHOWN[part](rows)
    for rows in found.values():
        for name, row in rows.items():
            for one in [row, *(inner for inner in row.values() if isinstance(inner, dict))]:
                if one.get("failed"):
                    print(f"\n{name}: {one['failed']} failed")


def _show_throughput(rows: dict[str, Row]) -> None:
    print("| | requests/s per core | CPU µs per request | p50 / p99 ms | memory MB | ready s | of nginx | × Portkey | × LiteLLM |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        times = [f"{row['rate'] / rows[peer]['rate']:.0f}" if peer in rows else "-" for peer in ("portkey", "litellm")]
        of_nginx = f"1/{rows['nginx']['rate'] / row['rate']:.1f}" if "nginx" in rows else "-"
        shown = [name, f"{row['rate']:,.0f}", f"{row['cpu_us']:.1f}", f"{row['p50_ms']} / {row['p99_ms']}", row["memory_mb"], row["ready_seconds"], of_nginx]
        print("| " + " | ".join(map(str, [*shown, *times])) + " |")


def _show_latency(rows: dict[str, Row]) -> None:
    print("| p50 / p99 ms at | " + " | ".join(f"{rate} requests/s" for rate in RATES) + " |")
    print("|---|" + "---|" * len(RATES))
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{row[str(rate)]['p50_ms']:.2f} / {row[str(rate)]['p99_ms']:.2f}" for rate in RATES) + " |")


def _show_streams(rows: dict[str, Row]) -> None:
    print("| | streams | chunks | delay p50 / p99 ms | CPU µs per chunk | KB per stream |")
    print("|---|---|---|---|---|---|")
    for name, row in rows.items():
        for one in row.values():
            shown = [name, one["streams"], one["chunks"], f"{one['p50_ms']} / {one['p99_ms']}", one.get("cpu_us", "-"), one.get("kb_per_stream", "-")]
            print("| " + " | ".join(map(str, shown)) + " |")


def _show_bodies(rows: dict[str, Row]) -> None:
    print("| 1 MB | requests/s | of nginx |\n|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['rate']:,.0f} | {row['rate'] / rows['nginx']['rate']:.0%} |")


def _show_commands(rows: dict[str, Row]) -> None:
    print("| command | seconds | × Typer |\n|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['seconds']} | {row['seconds'] / rows['typer --help']['seconds']:.2f} |")


def _show_capacity(rows: dict[str, Row]) -> None:
    print("| at | a worker is busy | predicted requests/s | reached | error |\n|---|---|---|---|---|")
    for name, row in rows.items():
        error = row["predicted"] / row["measured"] - 1
        print(f"| {name} | {row['busy']:.0%} | {row['predicted']:,} | {row['measured']:,} | {error:+.0%} |")


def _show_metrics(rows: dict[str, Row]) -> None:
    print("| | |\n|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['value']} |")


def _show_console(rows: dict[str, Row]) -> None:
    print("| | requests/s | CPU of a request | p50 | p99 | failed |\n|---|---|---|---|---|---|")
    first = next(iter(rows.values()))
    for name, row in rows.items():
        share = row["rate"] / first["rate"]
        print(f"| {name} | {row['rate']:,.0f} ({share:.3f}) | {row['cpu_us']:.0f} µs | {row['p50_ms']} ms | {row['p99_ms']} ms | {row['failed']} |")


SHOWN = {
    "throughput": _show_throughput,
    "latency": _show_latency,
    "streams": _show_streams,
    "bodies": _show_bodies,
    "commands": _show_commands,
    "capacity": _show_capacity,
    "metrics": _show_metrics,
    "console": _show_console,
    "fleet": _show_metrics,
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short rounds: about a minute and a half")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--only", nargs="*", default=PARTS, choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME", help="leave out: nginx, portkey, litellm, 'coollm memory' and so on")
    parser.add_argument("--profile", choices=STORES, metavar="STORE", help="where a request's time goes, with a store; measures nothing else")
    arguments = parser.parse_args()
    if os.cpu_count() == 1:
        sys.exit("error: two cores are needed, one for the server and one for the load")
    if arguments.profile:
        profile(arguments.profile)
        return
    home = Path(tempfile.mkdtemp(prefix="coollm-bench-"))
    try:
        found = {}
        for part in PARTS:
            if part in arguments.only:
                (home / part).mkdir()
                found[part] = getattr(Bench(home / part, arguments), part)()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print(json.dumps(found, indent=2)) if arguments.json else show(found)


if __name__ == "__main__":
    main()
