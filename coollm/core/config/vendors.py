"""Vendors taken from the environment when a configuration names none."""

from __future__ import annotations

from collections.abc import Mapping

from coollm.core.config.schema import Provider
from coollm.core.secrets import Secret

VENDOR_VARIABLES = {
    "OPENAI_API_KEY": "openai",
    "ANTHROPIC_API_KEY": "claude",
    "CLAUDE_API_KEY": "claude",
    "GEMINI_API_KEY": "gemini",
    "GOOGLE_API_KEY": "gemini",
    "XAI_API_KEY": "grok",
    "GROK_API_KEY": "grok",
    "TOGETHER_API_KEY": "together",
    "OPENROUTER_API_KEY": "openrouter",
    "MISTRAL_API_KEY": "mistral",
    "FIREWORKS_API_KEY": "fireworks",
    "HF_TOKEN": "huggingface",
    "DEEPSEEK_API_KEY": "deepseek",
    "GROQ_API_KEY": "groq",
    "COHERE_API_KEY": "cohere",
    "CO_API_KEY": "cohere",
    "VOYAGE_API_KEY": "voyage",
    "REPLICATE_API_TOKEN": "replicate",
}
"""Variable → provider type. A variable may hold several keys with commas between."""


def providers_from_environment(variables: Mapping[str, str]) -> tuple[tuple[Provider, ...], dict[str, str]]:
    """A provider for each vendor whose key is in `variables`, and the variable that gave it, by provider id."""
    keys: dict[str, list[str]] = {}
    sources: dict[str, str] = {}
    for name, kind in VENDOR_VARIABLES.items():
        for key in variables.get(name, "").split(","):
            if key.strip() and key.strip() not in keys.setdefault(kind, []):
                keys[kind].append(key.strip())
                sources.setdefault(kind, name)
    found = tuple(Provider(id=kind, type=kind, api_keys=tuple(Secret(key) for key in values)) for kind, values in keys.items() if values)
    return found, sources
