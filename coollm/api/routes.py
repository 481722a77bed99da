"""What a route is, and who may use it. There is no route without a rule."""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec
from flask import Response


class Access(enum.StrEnum):
    """Who may use a route: everybody, clients with a key, or the administrator. The administrator of the host, on the local socket, may use all."""

    PUBLIC = "public"
    CLIENT = "client"
    ADMIN = "admin"


class Route(msgspec.Struct, frozen=True):
    """An address and what answers there. What begins with /v1 answers under /api/v1 too. What goes to a vendor gets a line in the log."""

    path: str
    methods: tuple[str, ...]
    access: Access
    handler: Callable[..., Response]
    name: str
    is_completion: bool = False

    def paths(self) -> tuple[str, ...]:
        """The address, and its alias if it has one."""
        return (self.path, f"/api{self.path}") if self.path.startswith("/v1") else (self.path,)
