"""Somebody who looks at the console: with what a browser sends of its own accord, and without a browser."""

from __future__ import annotations

import html
import itertools
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import requests

from tests.conftest import GatewayHandle

ADMIN_KEY = "the-admin-key-of-the-console-0123456789"
PASSWORD = "correct horse battery"
ROLES = ("viewer", "operator", "admin")

SERVER: dict[str, Any] = {
    "admin_api_key": ADMIN_KEY,
    "admin_requests_per_minute": 100_000,
    "trusted_proxies": ["127.0.0.1"],
    "webui": {"enabled": True, "admin_id": "root", "admin_password": PASSWORD},
}

_ADDRESSES = itertools.count(1)


def new_address() -> str:
    """An address that nobody has had before, as the proxy says: one that fails often is locked out."""
    number = next(_ADDRESSES)
    return f"10.9.{number // 250}.{number % 250 + 1}"


class Visitor:
    """One browser."""

    def __init__(self, gateway: GatewayHandle, address: str | None = None) -> None:
        self.url = gateway.url
        self.session = requests.Session()
        self.session.headers.update({"x-forwarded-for": address or new_address(), "sec-fetch-site": "same-origin"})
        self.page = self.token = ""

    def get(self, path: str, **options: Any) -> requests.Response:
        reply = self.session.get(self.url + path, timeout=30, allow_redirects=options.pop("follow", False), **options)
        self._see(reply)
        return reply

    def post(self, path: str, fields: dict[str, Any] | None = None, *, follow: bool = False, **headers: str | None) -> requests.Response:
        """Sends a form as the page that was seen last has it."""
        told = {"form_token": self.token, **(fields or {})}
        reply = self.session.post(self.url + path, data=told, headers={"origin": self.url, **headers}, timeout=60, allow_redirects=follow)
        self._see(reply)
        return reply

    def _see(self, reply: requests.Response) -> None:
        if "text/html" in reply.headers.get("content-type", ""):
            self.page = reply.text
            found = re.search(r'name="form_token" value="([^"]+)"', self.page)
            self.token = found[1] if found else self.token

    @property
    def cookie(self) -> str:
        return next((one.value or "" for one in self.session.cookies), "")

    def sign_in(self, name: str = "root", password: str = PASSWORD, **more: str) -> requests.Response:
        reply = self.post("/ui/sign-in", {"name": name, "password": password, **more})
        if reply.status_code == 303:
            self.get("/ui/account")
        return reply

    @property
    def wrong(self) -> str:
        """What is refused on the page that was seen last."""
        found = re.search(r'class="wrong" role="alert">(.*?)</p>', self.page, re.DOTALL)
        return html.unescape(found[1]) if found else ""

    @property
    def notice(self) -> str:
        """What it tells as done."""
        found = re.search(r'class="notice" role="status">(.*?)</p>', self.page, re.DOTALL)
        return html.unescape(found[1]) if found else ""


def make_admins(gateway: GatewayHandle) -> dict[str, str]:
    """An administrator of each role, by its name the role, with a key."""
    found = {}
    for role in ROLES:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        reply = requests.post(f"{gateway.url}/admin/v1/admins", json={"id": f"the-{role}", "role": role}, headers=headers, timeout=10)
        assert reply.status_code == 201, reply.text
        found[role] = reply.json()["key"]
    return found


def in_ledger(gateway: GatewayHandle, statement: str, *values: Any) -> list[Any]:
    """Makes time pass for sessions, and the like."""
    file: Path = gateway.home / "state" / "ledger.sqlite"
    with closing(sqlite3.connect(file, timeout=10)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def audited(gateway: GatewayHandle) -> str:
    return (gateway.home / "state" / "logs" / "audit.log").read_text()
