"""Who asks, and what that one may do."""

from __future__ import annotations

from typing import Literal

from coollm.core.config.schema import Client
from coollm.core.types import ADMIN_ROLES, AdminRole, Value


class Principal(Value, frozen=True):
    """Who asks. `kind` is local (the host's own administrator), key, password, ldap or client; `name` is what the audit log calls him, `via` the prefix of the
    key that was used. `role` is None for a client.
    """

    kind: Literal["local", "key", "password", "ldap", "client"]
    name: str
    role: AdminRole | None = None
    address: str = ""
    via: str = ""
    client: Client | None = None

    def may(self, needed: AdminRole) -> bool:
        """Whether the role is enough."""
        return self.role is not None and ADMIN_ROLES.index(self.role) >= ADMIN_ROLES.index(needed)
