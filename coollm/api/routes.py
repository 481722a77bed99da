"""What a route is, and who may use it. There is no route without a rule."""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec
from flask import Response

from coollm.api.http import Reply
from coollm.core.types import AdminRole


class Access(enum.StrEnum):
    """Who may use a route: everybody, clients with a key, or administrators of a role or a higher one: those who may look, those who may set limits and test
    keys, and those who may do everything. The administrator of the host, on the local socket, may use all.
    """

    PUBLIC = "public"
    CLIENT = "client"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


ROLE_OF: dict[Access, AdminRole] = {Access.VIEWER: "viewer", Access.OPERATOR: "operator", Access.ADMIN: "admin"}
"""The role that a route asks for."""


class Route(msgspec.Struct, frozen=True):
    """An address and what answers there. What begins with /v1 answers under /api/v1 too. What goes to a vendor gets a line in the log.

    A route to models is `hot`: it is served past Flask, and its address has no variables. The others have a `handler`, whose documentation
    is their summary. A route that `changes` something is told of in the audit log, before and after.
    """

    path: str
    methods: tuple[str, ...]
    access: Access
    handler: Callable[..., Response] | None
    name: str
    is_completion: bool = False
    hot: Callable[..., Reply] | None = None
    summary: str = ""
    changes: bool = False

    def paths(self) -> tuple[str, ...]:
        """The address, and its alias if it has one."""
        return (self.path, f"/api{self.path}") if self.path.startswith("/v1") else (self.path,)
