"""Whose limits hold for a request: the client's, its team's, and those of models."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from coollm.core.config.schema import Client, Limits, ModelLimits, Settings
from coollm.core.types import Target, Value


class Scope(Value, frozen=True):
    """Limits and who they belong to: `kind` is client, team or model."""

    kind: str
    id: str
    limits: Limits

    def counter(self, what: str) -> str:
        """The counter of its `requests`, `tokens`, `running` or `cost`."""
        return f"{self.kind}:{self.id}:{what}"


LOCAL = Scope(kind="client", id="local", limits=Limits())
"""The administrator of this host, who has no limits."""


class Scopes:
    """The limits of a configuration. Made once for each generation; nothing in it changes."""

    def __init__(self, settings: Settings) -> None:
        self._teams = {team.id: Scope(kind="team", id=team.id, limits=team.limits) for team in settings.teams}
        self._models: Sequence[ModelLimits] = settings.model_limits
        self._clients = {client.client_id: client for client in settings.api_keys}
        clients = [Scope(kind="client", id=client.client_id, limits=client.limits) for client in settings.api_keys]
        self._all = (*clients, *self._teams.values(), *(Scope(kind="model", id=one.model, limits=one.limits) for one in self._models))

    def of_client(self, client: Client | None) -> tuple[Scope, ...]:
        """The client's own limits, and its team's."""
        if client is None:
            return (LOCAL,)
        own = Scope(kind="client", id=client.client_id, limits=client.limits)
        return (own, self._teams[client.team]) if client.team in self._teams else (own,)

    def of_client_id(self, client_id: str) -> tuple[Scope, ...]:
        """The same by the client's id; nothing for one that is not configured any more."""
        client = self._clients.get(client_id)
        return self.of_client(client) if client is not None else ()

    def budgeted(self) -> tuple[Scope, ...]:
        """Everybody and everything that has a budget."""
        return tuple(scope for scope in self._all if scope.limits.budget_usd is not None)

    def of_target(self, target: Target) -> tuple[Scope, ...]:
        """The limits of the target's model."""
        names = (target.model, f"{target.provider}:{target.model}")
        return tuple(Scope(kind="model", id=one.model, limits=one.limits) for one in self._models if any(fnmatchcase(name, one.model) for name in names))
