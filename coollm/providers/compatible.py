"""The vendors that speak OpenAI's format, one row each: address, the model families it serves, and its quirks.

Addresses and quirks come from each vendor's API reference, named beside its row.
"""

from __future__ import annotations

from coollm.providers.openai import OpenAIDialect

VENDORS: dict[str, OpenAIDialect] = {
    vendor.vendor: vendor
    for vendor in (
        # https://platform.openai.com/docs/api-reference
        OpenAIDialect(vendor="openai", base_url="https://api.openai.com/v1", families=("gpt-*", "chatgpt-*", "o1*", "o3*", "o4*")),
        # https://docs.x.ai/docs/api-reference
        OpenAIDialect(vendor="grok", base_url="https://api.x.ai/v1", families=("grok-*",)),
        # https://docs.together.ai/reference/chat-completions-1
        OpenAIDialect(vendor="together", base_url="https://api.together.xyz/v1", max_tokens_field="max_tokens"),
        # https://openrouter.ai/docs/api-reference/overview
        OpenAIDialect(vendor="openrouter", base_url="https://openrouter.ai/api/v1", max_tokens_field="max_tokens"),
        # https://docs.mistral.ai/api: usage comes in the last chunk of itself, unknown parameters are refused
        OpenAIDialect(
            vendor="mistral",
            base_url="https://api.mistral.ai/v1",
            families=("mistral-*", "ministral-*", "codestral-*", "pixtral-*", "magistral-*", "devstral-*"),
            max_tokens_field="max_tokens",
            has_usage_option=False,
        ),
        # https://docs.fireworks.ai/api-reference/post-chatcompletions
        OpenAIDialect(vendor="fireworks", base_url="https://api.fireworks.ai/inference/v1", families=("accounts/*",), max_tokens_field="max_tokens"),
        # https://huggingface.co/docs/inference-providers
        OpenAIDialect(vendor="huggingface", base_url="https://router.huggingface.co/v1", max_tokens_field="max_tokens"),
        # https://api-docs.deepseek.com
        OpenAIDialect(vendor="deepseek", base_url="https://api.deepseek.com/v1", families=("deepseek-*",), max_tokens_field="max_tokens"),
        # https://console.groq.com/docs/openai
        OpenAIDialect(vendor="groq", base_url="https://api.groq.com/openai/v1"),
        # https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle: base_url is https://RESOURCE.openai.azure.com/openai/v1
        OpenAIDialect(vendor="azure", base_url=None, key_header="api-key", key_prefix=""),
        # Any other server of this format: vLLM, Ollama, LocalAI and so on.
        OpenAIDialect(vendor="custom", base_url=None, max_tokens_field="max_tokens"),
    )
}
