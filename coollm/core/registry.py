"""The registries: name → "module:attribute", loaded on use.

A provider, store, algorithm or family of routes is one new file and one row here; an OpenAI-like vendor is one row of `coollm/providers/compatible.py`
and one row here. The contract suites of `tests/contract` iterate these tables.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any


class Registry(Mapping[str, Any]):
    """Names and what they stand for. `registry[name]` imports the module at the first use; `names()` imports nothing."""

    def __init__(self, kind: str, rows: Mapping[str, str]) -> None:
        self.kind = kind
        self._rows = dict(rows)

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = self._rows[name].partition(":")
        found: Any = import_module(module)
        for step in attribute.split("."):
            found = found[step] if isinstance(found, Mapping) else getattr(found, step)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def names(self) -> tuple[str, ...]:
        """All names, in the order of the table."""
        return tuple(self._rows)


PROVIDERS = Registry(
    "provider type",
    {
        "openai": "coollm.providers.compatible:VENDORS.openai",
        "claude": "coollm.providers.claude:DIALECT",
        "gemini": "coollm.providers.gemini:DIALECT",
        "grok": "coollm.providers.compatible:VENDORS.grok",
        "together": "coollm.providers.compatible:VENDORS.together",
        "openrouter": "coollm.providers.compatible:VENDORS.openrouter",
        "mistral": "coollm.providers.compatible:VENDORS.mistral",
        "fireworks": "coollm.providers.compatible:VENDORS.fireworks",
        "huggingface": "coollm.providers.compatible:VENDORS.huggingface",
        "deepseek": "coollm.providers.compatible:VENDORS.deepseek",
        "groq": "coollm.providers.compatible:VENDORS.groq",
        "replicate": "coollm.providers.replicate:DIALECT",
        "cohere": "coollm.providers.cohere:DIALECT",
        "voyage": "coollm.providers.voyage:DIALECT",
        "azure": "coollm.providers.compatible:VENDORS.azure",
        "bedrock": "coollm.providers.bedrock:DIALECT",
        "vertex": "coollm.providers.vertex:DIALECT",
        "ollama": "coollm.providers.compatible:VENDORS.ollama",
        "vllm": "coollm.providers.compatible:VENDORS.vllm",
        "custom": "coollm.providers.compatible:VENDORS.custom",
    },
)

CREDENTIALS = Registry(
    "provider type whose keys are exchanged for something else",
    {
        "bedrock": "coollm.providers.bedrock_key:credential",
        "vertex": "coollm.providers.vertex_key:credential",
    },
)

ALGORITHMS = Registry(
    "routing algorithm",
    {
        "round_robin": "coollm.routing.round_robin:ALGORITHM",
        "weighted": "coollm.routing.weighted:ALGORITHM",
        "least_loaded": "coollm.routing.least_loaded:ALGORITHM",
        "latency": "coollm.routing.latency:ALGORITHM",
        "cost": "coollm.routing.cost:ALGORITHM",
        "hybrid": "coollm.routing.hybrid:ALGORITHM",
    },
)

STORES = Registry(
    "store",
    {
        "memory": "coollm.stores.memory:open_store",
        "sqlite": "coollm.stores.sqlite:open_store",
        "redis": "coollm.stores.redis:open_store",
    },
)

CACHES = Registry(
    "store of answers",
    {
        "memory": "coollm.cache.memory:open_answers",
        "sqlite": "coollm.cache.sqlite:open_answers",
        "redis": "coollm.cache.redis:open_answers",
    },
)

ENDPOINTS = Registry(
    "endpoint",
    {
        "chat": "coollm.api.chat:ROUTES",
        "completions": "coollm.api.completions:ROUTES",
        "responses": "coollm.api.responses:ROUTES",
        "messages": "coollm.api.messages:ROUTES",
        "embeddings": "coollm.api.embeddings:ROUTES",
        "rerank": "coollm.api.rerank:ROUTES",
        "pass_through": "coollm.api.pass_through:ROUTES",
        "models": "coollm.api.models:ROUTES",
        "health": "coollm.api.health:ROUTES",
        "metrics": "coollm.api.metrics:ROUTES",
        "openapi": "coollm.api.openapi:ROUTES",
        "admin": "coollm.api.admin:ROUTES",
        "usage": "coollm.api.usage:ROUTES",
        "budgets": "coollm.api.budgets:ROUTES",
        "clients": "coollm.api.clients:ROUTES",
        "admins": "coollm.api.admins:ROUTES",
        "configuration": "coollm.api.configuration:ROUTES",
        "observe": "coollm.api.observe:ROUTES",
        "compliance": "coollm.api.compliance:ROUTES",
        "claims": "coollm.api.claims:ROUTES",
        "requests": "coollm.api.requests:ROUTES",
        "operations": "coollm.api.operations:ROUTES",
    },
)


def did_you_mean(name: str, candidates: Mapping[str, Any] | tuple[str, ...] | list[str] | set[str]) -> str:
    """The text "; did you mean 'x'?" with the nearest of the candidates, or nothing if none is near."""
    near = difflib.get_close_matches(str(name), [str(candidate) for candidate in candidates], n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
