"""The fields of app.log's lines of requests, for whoever indexes them: types as Elasticsearch calls them, and what each is."""

from __future__ import annotations

from typing import NamedTuple


class Field(NamedTuple):
    """`kind` is a type of Elasticsearch's mappings; `means` has at most 50 characters, as their metadata may."""

    name: str
    kind: str
    means: str


FIELDS = (
    Field("time", "date", "when the line was written, ISO 8601"),
    Field("level", "keyword", "info; warning where a vendor or the gateway failed"),
    Field("logger", "keyword", "which part of the gateway"),
    Field("message", "text", "`request` for a request that has ended"),
    Field("request_id", "keyword", "as in x-request-id"),
    Field("client", "keyword", "who asked"),
    Field("route", "keyword", "chat, messages, embeddings and so on"),
    Field("requested_model", "keyword", "as the client wrote it, redacted"),
    Field("provider", "keyword", "who answered, or was asked last"),
    Field("model", "keyword", "its model"),
    Field("key_id", "keyword", "its key's id, never the key"),
    Field("status", "short", "HTTP status"),
    Field("stream", "boolean", "whether a stream was asked for"),
    Field("ending", "keyword", "answered, refused, cut, client_gone, cached …"),
    Field("input_tokens", "long", "tokens, without those of the next three"),
    Field("cached_input_tokens", "long", "tokens that the vendor had cached"),
    Field("cache_write_tokens", "long", "tokens that the vendor wrote to its cache"),
    Field("cache_write_1h_tokens", "long", "the same, for an hour"),
    Field("output_tokens", "long", "tokens, without reasoning"),
    Field("reasoning_tokens", "long", "tokens of reasoning"),
    Field("service_tier", "keyword", "the vendor's tier"),
    Field("estimated", "boolean", "the vendor told no usage"),
    Field("cost_usd", "double", "US dollars; null where no price is known"),
    Field("latency_ms", "double", "the whole request, milliseconds"),
    Field("time_to_first_token_ms", "double", "of a stream, milliseconds"),
    Field("cache", "keyword", "hit or miss, where the cache may answer"),
    Field("saved_usd", "double", "what the cache saved"),
    Field("dropped", "keyword", "parameters that the vendor could not be told"),
    Field("error", "keyword", "the code of the error; `coollm explain CODE`"),
    Field("attempts", "nested", "calls of vendors: outcome, reason, status, ms"),
)
