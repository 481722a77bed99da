"""The vendors that speak OpenAI's format, one row each: address, the model families it serves, and its quirks.

Addresses, quirks and routes come from each vendor's API reference or its own client library, named beside its row.
"""

from __future__ import annotations

from coollm.providers.openai import OpenAIDialect

ALL = ("*",)

VENDORS: dict[str, OpenAIDialect] = {
    vendor.vendor: vendor
    for vendor in (
        # https://platform.openai.com/docs/api-reference; /completions is for its old models alone
        OpenAIDialect(
            vendor="openai",
            base_url="https://api.openai.com/v1",
            families=("gpt-*", "chatgpt-*", "o1*", "o3*", "o4*", "text-embedding-*", "whisper-*", "tts-*", "dall-e-*", "omni-moderation-*"),
            responses=ALL,
            completions=("gpt-3.5-turbo-instruct*", "davinci-*", "babbage-*"),
            operations=frozenset({"audio", "images", "moderations", "files", "batches"}),
        ),
        # https://docs.x.ai/docs/api-reference
        OpenAIDialect(vendor="grok", base_url="https://api.x.ai/v1", families=("grok-*",), responses=ALL, operations=frozenset({"images", "files"})),
        # the `together` package
        OpenAIDialect(
            vendor="together",
            base_url="https://api.together.xyz/v1",
            max_tokens_field="max_tokens",
            completions=ALL,
            operations=frozenset({"audio", "images", "rerank", "files", "batches"}),
        ),
        # https://openrouter.ai/docs/api-reference/overview
        OpenAIDialect(vendor="openrouter", base_url="https://openrouter.ai/api/v1", max_tokens_field="max_tokens", completions=ALL),
        # https://docs.mistral.ai/api and the `mistralai` package: usage comes in the last chunk of itself, unknown parameters are refused
        OpenAIDialect(
            vendor="mistral",
            base_url="https://api.mistral.ai/v1",
            families=("mistral-*", "ministral-*", "codestral-*", "pixtral-*", "magistral-*", "devstral-*", "voxtral-*"),
            max_tokens_field="max_tokens",
            has_usage_option=False,
            operations=frozenset({"audio", "moderations", "files"}),
        ),
        # https://docs.fireworks.ai/api-reference
        OpenAIDialect(
            vendor="fireworks",
            base_url="https://api.fireworks.ai/inference/v1",
            families=("accounts/*",),
            max_tokens_field="max_tokens",
            completions=ALL,
            operations=frozenset({"rerank"}),
        ),
        # https://huggingface.co/docs/inference-providers
        OpenAIDialect(vendor="huggingface", base_url="https://router.huggingface.co/v1", max_tokens_field="max_tokens"),
        # https://api-docs.deepseek.com
        OpenAIDialect(vendor="deepseek", base_url="https://api.deepseek.com/v1", families=("deepseek-*",), max_tokens_field="max_tokens"),
        # the `groq` package
        OpenAIDialect(vendor="groq", base_url="https://api.groq.com/openai/v1", operations=frozenset({"audio", "files", "batches"})),
        # https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle: base_url is https://RESOURCE.openai.azure.com/openai/v1
        OpenAIDialect(
            vendor="azure",
            base_url=None,
            key_header="api-key",
            key_prefix="",
            responses=ALL,
            operations=frozenset({"audio", "images", "files", "batches"}),
        ),
        # https://github.com/ollama/ollama/blob/main/docs/openai.md
        OpenAIDialect(vendor="ollama", base_url="http://127.0.0.1:11434/v1", max_tokens_field="max_tokens", completions=ALL),
        # https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
        OpenAIDialect(vendor="vllm", base_url=None, responses=ALL, completions=ALL, operations=frozenset({"audio", "rerank"})),
        # Any other server of this format: LocalAI, llama.cpp and so on. Its /responses, if it has any, is not relied on.
        OpenAIDialect(
            vendor="custom",
            base_url=None,
            max_tokens_field="max_tokens",
            completions=ALL,
            operations=frozenset({"audio", "images", "moderations", "rerank", "files", "batches"}),
        ),
    )
}
