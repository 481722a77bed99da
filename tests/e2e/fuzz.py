"""Inputs that nobody would send in good faith, for the loader of configurations, keys, streams of vendors and bodies of administrators."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import requests
import yaml
from hypothesis import strategies as st

from coollm.core.config.load import load
from coollm.providers.sse import EventStream
from tests.conftest import GatewayHandle

WORDS = st.sampled_from(
    [
        "id",
        "key",
        "limits",
        "llm_providers",
        "api_keys",
        "server",
        "policy",
        "${secret:x}",
        "${file:/etc/shadow}",
        "${command:/bin/true}",
        "${",
        "$${",
        "*",
        "null",
        "openai",
        "../../etc/passwd",
        "' OR 1=1 --",
        "*)(uid=*",
        "{{7*7}}",
        "%s%n",
        "\0",
        "\ud800",
        "é" * 300,
        "1e999",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=40) | WORDS
VALUES: Any = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12) | WORDS, inner, max_size=4), max_leaves=12)
SECTIONS = st.sampled_from(["version", "server", "llm_providers", "api_keys", "teams", "model_aliases", "policy", "storage", "logging", "auth", "compliance"])
DOCUMENTS = st.dictionaries(SECTIONS, VALUES, max_size=6)
TEXTS = st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("latin-1"))
HEADERS = st.binary(min_size=0, max_size=400).map(lambda data: bytes(byte for byte in data if byte not in b"\r\n\0"))
FRAMES = st.lists(st.binary(max_size=60) | st.sampled_from([b"data: {}\n\n", b"data: [DONE]\n\n", b"event: x\n", b":\n", b"\r\n", b"data:"]), max_size=12)


def load_document(directory: Path, text: str) -> None:
    """A configuration is loaded, or every fault of it is told; each with words that fit on a line."""
    path = directory / "coollm.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    loaded = load(path, {"A": "b"}, state=directory)
    assert (loaded.settings is None) == bool(loaded.faults)
    for fault in loaded.faults:
        assert str(fault)


def dumped(document: Any) -> str:
    try:
        return yaml.safe_dump(document, allow_unicode=True)
    except (UnicodeEncodeError, yaml.YAMLError):
        return repr(document)


def read_stream(pieces: list[bytes]) -> None:
    """However a stream is cut, the frames are the same."""
    reader, whole = EventStream(), EventStream()
    found = [frame for piece in pieces for frame in reader.feed(piece)]
    assert found == list(whole.feed(b"".join(pieces)))


def authorize(gateway: GatewayHandle, value: bytes, path: str) -> None:
    """Whatever stands in the header, it is a 400 or a 401 and the connection is answered."""
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as connection:
        connection.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: " + value + b"\r\n\r\n")
        status = connection.makefile("rb").readline().split()
    assert int(status[1]) in (400, 401, 429, 431), status


ROUTES = (
    ("POST", "/admin/v1/clients"),
    ("PUT", "/admin/v1/clients/app"),
    ("POST", "/admin/v1/admins"),
    ("POST", "/admin/v1/login"),
    ("POST", "/admin/v1/config/validate"),
    ("PUT", "/admin/v1/config/policy"),
    ("POST", "/admin/v1/route/explain"),
    ("PUT", "/admin/v1/limits/client/app"),
    ("POST", "/admin/v1/providers/test"),
    ("POST", "/admin/v1/compliance/erase"),
)


def administer(gateway: GatewayHandle, key: str, place: int, body: Any) -> None:
    """Whatever an administrator sends is answered, and never by a fault of the gateway."""
    method, path = ROUTES[place % len(ROUTES)]
    try:
        data = json.dumps(body).encode()
    except (ValueError, UnicodeEncodeError):
        data = repr(body).encode("utf-8", "replace")
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "x-forwarded-for": f"10.1.{place % 250}.{len(data) % 250}"}
    reply = requests.request(method, gateway.url + path, data=data, headers=headers, timeout=30)
    assert reply.status_code != 500, (method, path, data, reply.text)
    assert reply.status_code < 500 or reply.status_code in (502, 503), (method, path, data, reply.text)
