"""Whose limits hold for a request: the client's, its team's, and those of models; as configured, or as an administrator has set them since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import msgspec

from coollm.core.config.schema import Client, Limits, Settings
from coollm.core.types import Target, Value
from coollm.limits.charges import REQUESTS, RUNNING, TOKENS
from coollm.limits.overrides import NOTHING_SET, Override, Overrides, merged
from coollm.stores.base import LIVE, Charge

# Names of models come from clients: beyond so many the scopes of a model are looked up again.
MOST_REMEMBERED = 2000

CLIENT, TEAM, MODEL, HEDGE = "client", "team", "model", "hedge"


class Scope(Value, frozen=True):
    """Limits and who they belong to: `kind` is client, team, model or hedge. A budget that was reset counts from `budget_since`, in seconds of the epoch."""

    kind: str
    id: str
    limits: Limits
    budget_since: int = 0
    token_counter: str = ""
    request_charge: Charge | None = None
    running_charge: Charge | None = None

    def __post_init__(self) -> None:
        # What every request is charged alike is made once.
        limits, put = self.limits, msgspec.structs.force_setattr
        put(self, "token_counter", self.counter(TOKENS))
        if limits.req_per_min is not None:
            put(self, "request_charge", Charge(counter=self.counter(REQUESTS), amount=1, limit=limits.req_per_min))
        if limits.concurrent is not None:
            put(self, "running_charge", Charge(counter=self.counter(RUNNING), amount=1, limit=limits.concurrent, span=LIVE))

    def counter(self, what: str) -> str:
        """The counter of its `requests`, `tokens`, `running` or `cost`."""
        return f"{self.kind}:{self.id}:{what}"

    @property
    def has_budget(self) -> bool:
        """Whether its money is counted."""
        return self.limits.budget_usd is not None


LOCAL = Scope(kind=CLIENT, id="local", limits=Limits())
"""The administrator of this host, who has no limits."""


class Scopes:
    """The limits of a configuration with those that were set since. Another change makes another one; nothing in it changes."""

    def __init__(self, settings: Settings, overrides: Overrides = NOTHING_SET, clients: Iterable[Client] | None = None) -> None:
        self.overrides = overrides
        set_for = {(one.kind, one.id): one for one in overrides.rows}
        self._clients = {
            one.client_id: (_scope(CLIENT, one.client_id, one.limits, set_for), one) for one in (settings.api_keys if clients is None else clients)
        }
        self._teams = {one.id: _scope(TEAM, one.id, one.limits, set_for) for one in settings.teams}
        configured = {one.model: one.limits for one in settings.model_limits}
        patterns = dict.fromkeys([*configured, *(one.id for one in overrides.rows if one.kind == MODEL)])
        self._models = [_scope(MODEL, pattern, configured.get(pattern, Limits()), set_for) for pattern in patterns]
        hedge = settings.policy.hedge
        self.hedge = Scope(kind=HEDGE, id="all", limits=Limits(budget_usd=hedge.budget_usd, budget_period=hedge.budget_period)) if hedge.enabled else None
        self._of_client = {client_id: self._with_team(scope, client.team) for client_id, (scope, client) in self._clients.items()}
        self.has_models = bool(self._models)
        self._of_model: dict[tuple[str, str], tuple[Scope, ...]] = {}
        self.has_budgets = any(scope.has_budget for scope in self.all())
        self.counts_running = any(scope.running_charge is not None for scope in self.all())

    def _with_team(self, own: Scope, team: str | None) -> tuple[Scope, ...]:
        return (own, self._teams[team]) if team in self._teams else (own,)

    def all(self) -> list[Scope]:
        """Everybody's and everything's."""
        clients = [scope for scope, _ in self._clients.values()]
        return [*clients, *self._teams.values(), *self._models, *([self.hedge] if self.hedge else [])]

    def of_client(self, client: Client | None) -> tuple[Scope, ...]:
        """The client's own limits, and its team's."""
        if client is None:
            return (LOCAL,)
        found = self._of_client.get(client.client_id)
        return found or self._with_team(Scope(kind=CLIENT, id=client.client_id, limits=client.limits), client.team)

    def budgeted(self) -> tuple[Scope, ...]:
        """Everybody and everything that has a budget."""
        return tuple(scope for scope in self.all() if scope.has_budget)

    def of_target(self, target: Target) -> tuple[Scope, ...]:
        """The limits of the target's model."""
        place = (target.provider, target.model)
        found = self._of_model.get(place)
        if found is None:
            names = (target.model, f"{target.provider}:{target.model}")
            found = tuple(scope for scope in self._models if any(fnmatchcase(name, scope.id) for name in names))
            if len(self._of_model) < MOST_REMEMBERED:
                self._of_model[place] = found
        return found

    def members(self, scope: Scope) -> list[str]:
        """Who or what is counted for a scope: the clients of a team, else itself."""
        return [one.client_id for _, one in self._clients.values() if one.team == scope.id] if scope.kind == TEAM else [scope.id]

    def known(self, kind: str) -> list[str] | None:
        """The ids whose limits may be set; None where any may, as for models."""
        return {CLIENT: list(self._clients), TEAM: list(self._teams), MODEL: None}.get(kind, [])

    def find(self, kind: str, identity: str) -> Scope | None:
        """A scope by its name."""
        return next((scope for scope in self.all() if (scope.kind, scope.id) == (kind, identity)), None)


def _scope(kind: str, identity: str, configured: Limits, set_for: Mapping[tuple[str, str], Override]) -> Scope:
    override = set_for.get((kind, identity))
    if override is None:
        return Scope(kind=kind, id=identity, limits=configured)
    try:
        limits = merged(configured, override)
    except msgspec.ValidationError:
        limits = configured
    return Scope(kind=kind, id=identity, limits=limits, budget_since=override.budget_since)
