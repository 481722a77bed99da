"""Web pages of other origins, as browsers ask for them. Source: https://fetch.spec.whatwg.org/#http-cors-protocol."""

from __future__ import annotations

from coollm.core.config.schema import Cors

EVERY = "*"
METHODS = "GET, POST, PUT, DELETE, OPTIONS"
HEADERS = "authorization, content-type, x-api-key, x-request-id, anthropic-version, anthropic-beta, openai-organization, x-session-id"
EXPOSED = "x-request-id, x-coollm-provider, x-coollm-key, x-coollm-cost-usd, x-coollm-cache, retry-after"
KEPT_SECONDS = "600"


def cors_headers(cors: Cors, origin: str, *, is_preflight: bool = False) -> dict[str, str]:
    """What a browser is told; nothing for an origin that may not ask."""
    if not origin or (origin not in cors.origins and EVERY not in cors.origins):
        return {}
    told = {"access-control-allow-origin": origin if origin in cors.origins else EVERY, "vary": "origin"}
    if cors.credentials and origin in cors.origins:
        told["access-control-allow-credentials"] = "true"
    if is_preflight:
        told |= {"access-control-allow-methods": METHODS, "access-control-allow-headers": HEADERS, "access-control-max-age": KEPT_SECONDS}
    else:
        told["access-control-expose-headers"] = EXPOSED
    return told
