"""From the model's name, as a client writes it, to the targets that may serve it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from coollm.core.config.schema import Client, Provider, Settings
from coollm.core.errors import NotAllowed, UnknownModel
from coollm.core.list_prices import list_price
from coollm.core.pricing import Price, Rates, flat
from coollm.core.registry import PROVIDERS
from coollm.core.types import Target

KEYLESS = "none"

# Names of models come from clients: a name this long is no model.
LONGEST_NAME = 256


# Names of models come from clients: beyond so many they are looked up again.
MOST_REMEMBERED = 5000


class Catalog:
    """The models of a configuration. Made once for each generation; nothing in it changes, and what a name comes to is remembered."""

    def __init__(self, settings: Settings) -> None:
        self._providers = settings.llm_providers
        self._aliases = settings.model_aliases
        self._fallback = settings.policy.fallback
        self._patterns = {provider.id: _patterns(provider) for provider in self._providers}
        self._resolved: dict[tuple[str, int], tuple[Client | None, tuple[Target, ...]]] = {}  # with the client, so that no other one gets its identity

    def names(self, client: Client | None) -> list[tuple[str, str]]:
        """Every name that the client may ask for, with the provider that owns it: aliases, then `provider:model`. Patterns are no names."""
        found = [(alias, "coollm") for alias in self._aliases if self._is_permitted_name(alias, client)]
        for provider in self._providers:
            if not _may_use(client, provider):
                continue
            for model in provider.listed_models():
                if _may_ask(client, model, f"{provider.id}:{model}"):
                    found.append((f"{provider.id}:{model}", provider.id))
        return found

    def resolve(self, name: str, client: Client | None) -> tuple[Target, ...]:
        """The targets for `name`: those that serve it, then the stand-ins. A client of None is the local administrator and may use everything.

        Raises UnknownModel with the nearest names, and NotAllowed.
        """
        # A client is known by its identity: it is another one when what it may use is changed.
        asked = (name, id(client))
        known = self._resolved.get(asked)
        if known is not None:
            return known[1]
        found = self._resolve(name, client)
        if len(self._resolved) >= MOST_REMEMBERED:
            self._resolved.clear()
        self._resolved[asked] = (client, found)
        return found

    def _resolve(self, name: str, client: Client | None) -> tuple[Target, ...]:
        if len(name) > LONGEST_NAME:
            raise UnknownModel(f"a model's name has at most {LONGEST_NAME} characters", param="model")
        pairs = self._pairs(name)
        if not pairs:
            raise self._unknown(name, client)
        permitted = [(provider, model) for provider, model in pairs if _may_use(client, provider)]
        if not permitted:
            owners = ", ".join(sorted({provider.id for provider, _ in pairs}))
            raise NotAllowed(f"this key may not use the provider of '{name}' ({owners})", param="model", code="provider_not_allowed")
        asked = [(provider, model) for provider, model in permitted if _may_ask(client, name, model, f"{provider.id}:{model}")]
        if not asked:
            raise NotAllowed(f"this key may not use the model '{name}'", param="model", code="model_not_allowed")
        targets = [target for provider, model in asked for target in _targets(provider, model)]
        return (*targets, *self._stand_ins({provider.id for provider, _ in asked}, client))

    def any_of_dialect(self, wire: str, operation: str, named: str, client: Client | None) -> tuple[Target, ...]:
        """The first key of the first provider of a dialect that has this operation, or of the provider that is `named`: what one request leaves there
        (a file, a batch), the next one finds again. Raises UnknownModel and NotAllowed.
        """
        able = [
            provider
            for provider in self._providers
            if PROVIDERS[provider.type].wire == wire and operation in PROVIDERS[provider.type].operations and named in ("", provider.id, provider.type)
        ]
        if not able:
            which = f"the provider '{named}'" if named else "no provider that is configured"
            raise UnknownModel(f"{which} {'does not serve' if named else 'serves'} /v1/{operation}", param="provider", code="provider_not_found")
        permitted = [provider for provider in able if _may_use(client, provider)]
        if not permitted:
            raise NotAllowed(f"this key may not use the provider of /v1/{operation}", code="provider_not_allowed")
        return tuple(_targets(permitted[0], permitted[0].model or operation)[:1])

    def target(self, key: str, model: str) -> Target | None:
        """The target of a vendor key, by its name `provider/key id` and that of the model as a client writes it; None if it is not configured any more."""
        stand_ins = [(provider, provider.model or model) for provider in self._providers]
        for provider, name in (*self._pairs(model), *stand_ins):
            for target in _targets(provider, name):
                if target.key == key:
                    return target
        return None

    def _pairs(self, name: str) -> list[tuple[Provider, str]]:
        if name in self._aliases:
            return [pair for target in self._aliases[name] for pair in self._qualified(target)]
        if ":" in name:
            qualified = self._qualified(name)
            if qualified:
                return qualified
        return [(provider, name) for provider in self._providers if self._serves(provider, name)]

    def _qualified(self, name: str) -> list[tuple[Provider, str]]:
        """`provider:model`, by the provider's id, or by its type where no id is meant. A provider that lists no models serves what it is asked for."""
        owner, _, model = name.partition(":")
        named = [provider for provider in self._providers if provider.id == owner] or [provider for provider in self._providers if provider.type == owner]
        return [(provider, model) for provider in named if model and (not (provider.models or provider.model) or self._serves(provider, model))]

    def _serves(self, provider: Provider, model: str) -> bool:
        return any(fnmatchcase(model, pattern) for pattern in self._patterns[provider.id])

    def _is_permitted_name(self, alias: str, client: Client | None) -> bool:
        return any(_may_use(client, provider) and _may_ask(client, alias, model, f"{provider.id}:{model}") for provider, model in self._pairs(alias))

    def _stand_ins(self, serving: set[str], client: Client | None) -> list[Target]:
        if not self._fallback.enabled:
            return []
        found: list[Target] = []
        for name in self._fallback.providers:
            for provider in self._providers:
                if name in (provider.id, provider.type) and provider.id not in serving and provider.model and _may_use(client, provider):
                    if _may_ask(client, provider.model, f"{provider.id}:{provider.model}"):
                        found += _targets(provider, provider.model, fallback=True)
                    serving.add(provider.id)
        return found

    def _unknown(self, name: str, client: Client | None) -> UnknownModel:
        if not self._providers:
            return UnknownModel("no provider is configured, so no model is served", param="model")
        known = [known for known, _ in self.names(client)]
        bare = [known.partition(":")[2] or known for known in known]
        near = list(dict.fromkeys(difflib.get_close_matches(name, [*known, *bare], n=3, cutoff=0.5)))
        hint = f"; nearest: {', '.join(near)}" if near else "; GET /v1/models lists what there is"
        return UnknownModel(f"the model '{name}' is not served{hint}", param="model")


def _patterns(provider: Provider) -> tuple[str, ...]:
    listed = (*provider.models, *((provider.model,) if provider.model else ()))
    return listed or PROVIDERS[provider.type].families


def _may_use(client: Client | None, provider: Provider) -> bool:
    return client is None or any(name in ("*", provider.id, provider.type) for name in client.allowed_providers)


def _may_ask(client: Client | None, *names: str) -> bool:
    return client is None or any(fnmatchcase(name, pattern) for pattern in client.allowed_models for name in names)


def _targets(provider: Provider, model: str, *, fallback: bool = False) -> Sequence[Target]:
    limits, price = provider.limits, price_of(provider, model)
    return [
        Target(
            provider=provider.id,
            type=provider.type,
            key_id=key_id,
            model=model,
            weight=provider.weight,
            price=price,
            req_per_min=limits.req_per_min,
            tokens_per_min=limits.tokens_per_min,
            max_tokens=limits.max_tokens,
            concurrent=limits.concurrent,
            session_tokens=limits.session_limit,
            session_seconds=int(limits.session_type),
            fallback=fallback,
        )
        for key_id in key_ids(provider)
    ]


def price_of(provider: Provider, model: str) -> Price | None:
    """The price of a provider's model: as configured, else the vendor's list price; None where neither is known."""
    given = provider.pricing
    if given is None:
        return list_price(provider.type, model)
    rates = Rates(
        input=given.input_token_cost,
        output=given.output_token_cost,
        cached_input=given.cached_input_token_cost,
        cache_write=given.cache_write_token_cost,
        reasoning=given.reasoning_token_cost,
    )
    return flat(rates)


def key_ids(provider: Provider) -> list[str]:
    """The ids of a provider's keys: the fingerprint of each, which stays when the list is reordered. A server without keys has one, "none"."""
    return [key.fingerprint() for key in provider.api_keys] or [KEYLESS]
