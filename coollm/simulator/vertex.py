"""Google's token endpoint on the wire, for service accounts. Source: https://developers.google.com/identity/protocols/oauth2/service-account."""

from __future__ import annotations

from coollm.simulator.answer import Asked, Heard, Reply
from coollm.simulator.openai import error

__all__ = ["error", "key", "read_token"]


def key(headers: dict[str, str]) -> str:  # noqa: ARG001
    """The assertion in the body is the key."""
    return "assertion"


def read_token(heard: Heard) -> Asked:
    """An access token for a signed assertion. Raises ValueError for what the API refuses."""
    form = heard.data.decode()
    if "assertion=" not in form or "jwt-bearer" not in form:
        raise ValueError("invalid_grant")
    made = {"access_token": "ya29.simulated", "expires_in": 3600, "token_type": "Bearer"}
    return Asked(model="", key=heard.key, stream=False, body={}, text="", reply=lambda how, _: Reply(body=made))  # noqa: ARG005
