"""Providers and their keys: how they are, what goes through them, and where a rotation stands."""

from __future__ import annotations

from flask import Response

from coollm.console.page import Page, Visit
from coollm.core.types import Json


def page(visit: Visit) -> Response:
    """All of them."""
    return _shown(visit)


def _shown(visit: Visit, tested: list[Json] | None = None) -> Response:
    providers = visit.get("/admin/v1/providers")["providers"]
    told = visit.get("/admin/v1/keys", uses=1)
    keys: dict[str, list[Json]] = {}
    for row in told["keys"]:
        keys.setdefault(row["provider"], []).append(row)
    return visit.render("providers.html", title="Providers and keys", providers=providers, keys=keys, retired=told["retired"], tested=tested)


def key(visit: Visit, provider: str, key: str) -> Response:
    """One key, and who has used it: the evidence that an old one can go."""
    row = next((one for one in visit.get("/admin/v1/keys", uses=1)["keys"] if (one["provider"], one["key"]) == (provider, key)), None)
    users = visit.get(f"/admin/v1/keys/{provider}/{key}/users", seconds=7 * 86400)["users"]
    return visit.render("key.html", title=f"Key {key}", provider=provider, key=key, row=row, users=users)


def test(visit: Visit) -> Response:
    """One live request with the keys of a provider, or with one of them."""
    asked = {name: value for name in ("provider", "key") if (value := visit.field(name))}
    return _shown(visit, visit.send("POST", "/admin/v1/providers/test", asked)["results"])


PAGES = (
    Page("/ui/providers", ("GET",), "viewer", page, "providers", "Providers"),
    Page("/ui/providers/<provider>/<key>", ("GET",), "viewer", key, "key"),
    Page("/ui/providers/test", ("POST",), "operator", test, "providers_test"),
)
