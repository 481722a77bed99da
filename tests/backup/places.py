"""Stores with the API of S3, as real ones are asked over HTTP, and a network before them that does its worst."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.conftest import ROOT, clean_environment, free_port, running, wait_for

BUCKET = "backups"


def answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=1).request("GET", "/")
        return True
    return False


@contextlib.contextmanager
def moto_server(words: Path) -> Iterator[int]:
    """The S3 of moto, with a bucket."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, words, clean_environment()):
        wait_for(lambda: answers(port), what="moto")
        yield port


@contextlib.contextmanager
def s3rver(words: Path, data: Path) -> Iterator[int]:
    """Another implementation, which shares nothing with the first: it knows neither checksums in trailers nor conditional writes."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: apt-get install nodejs npm")
    folder, source = ROOT / "build" / "node-s3", Path(__file__).parent / "node"
    lock = (source / "package-lock.json").read_text()
    if not (folder / "done").exists() or (folder / "done").read_text() != lock:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent", f"--cache={ROOT / 'build' / 'npm-cache'}"], cwd=folder, check=True, timeout=110)
        (folder / "done").write_text(lock)
    port = free_port()
    command = [
        "node",
        "node_modules/s3rver/bin/s3rver.js",
        "-d",
        str(data),
        "-a",
        "127.0.0.1",
        "-p",
        str(port),
        "--no-vhost-buckets",
        "--configure-bucket",
        BUCKET,
    ]
    with running(command, words, clean_environment(), cwd=folder):
        wait_for(lambda: answers(port), what="s3rver")
        yield port


class Network:
    """Passes requests on to a store, and does to them what its fields say."""

    def __init__(self, port: int) -> None:
        self.fail_next = 0
        self.fail_with: tuple[int, str] = (500, "InternalError")
        self.cut_next = 0
        self.cut_after = 1000
        self.lie = False
        self.delay = 0.0
        self.seen: list[tuple[str, str]] = []
        network = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                network.seen.append((self.command, self.path))
                length = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(length) if length else b""
                time.sleep(network.delay)
                if network.fail_next > 0:
                    network.fail_next -= 1
                    status, code = network.fail_with
                    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
                    self.send_response(status)
                    self.send_header("content-length", str(len(text)))
                    self.send_header("content-type", "application/xml")
                    self.end_headers()
                    self.wfile.write(text if self.command != "HEAD" else b"")
                    return
                behind = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    behind.putheader(name, value)
                behind.endheaders(body)
                answer = behind.getresponse()
                data = answer.read()
                is_object = self.command == "GET" and "?" not in self.path
                if network.lie and is_object and len(data) > 2000:
                    data = data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]
                cut = network.cut_next > 0 and is_object and len(data) > network.cut_after
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    dropped = name.lower().startswith("x-amz-checksum") and network.lie
                    if name.lower() not in ("transfer-encoding", "connection", "content-length") and not dropped:
                        self.send_header(name, value)
                length = answer.getheader("content-length") if self.command == "HEAD" else str(len(data))
                self.send_header("content-length", length or "0")
                self.end_headers()
                if cut:
                    network.cut_next -= 1
                    self.wfile.write(data[: network.cut_after])
                    self.wfile.flush()
                    self.connection.close()
                    self.close_connection = True
                    return
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def reset_moto(port: int) -> None:
    with urlopen(f"http://127.0.0.1:{port}/moto-api/reset", data=b"") as answer:
        assert answer.status == 200
