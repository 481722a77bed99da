"""The admin API: what the CLI asks a running gateway, over its local socket or with the admin key."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from typing import Any

import gevent
from flask import Response, g, request
from greenlet import greenlet

from coollm import __version__
from coollm.api.answers import json_response
from coollm.api.body import parse_body, read_body
from coollm.api.chat_wire import parse_request
from coollm.api.fields import typed
from coollm.api.health import assess
from coollm.api.routes import Access, Route
from coollm.cancellation import Cancellation
from coollm.core.config.schema import Client
from coollm.core.errors import ClientGone, InvalidRequest
from coollm.core.registry import PROVIDERS
from coollm.core.types import ChatRequest, EmbeddingRequest, Json, Message, ModelRequest, Target, TextPart
from coollm.limits.estimate import estimate_of
from coollm.limits.keeper import DEAD_AFTER_SECONDS
from coollm.providers.verdict import VendorError
from coollm.routing.catalog import key_ids, price_of
from coollm.routing.sticky import stickiness
from coollm.services import Services
from coollm.stores.base import StoreError

PROBE_TEXT = "Reply with the single word: ok"
PROBE_TOKENS = 16
PROBE_TICK_SECONDS = 0.1
MOST_PROBE_SECONDS = 60.0


def status(services: Services) -> Response:
    """This worker, and what all share."""
    assessed = assess(services)
    settings = services.settings
    found: Json = {
        "version": __version__,
        "generation": services.generation,
        "pid": os.getpid(),
        "parent_pid": os.getppid(),
        "uptime_seconds": round(time.time() - services.started),
        "status": assessed["status"],
        "checks": assessed["checks"],
        "listen": str(settings.server.listen),
        "workers": settings.server.workers,
        "store": settings.storage.runtime.type,
        "algorithm": settings.policy.algorithm,
        "providers": [provider.id for provider in settings.llm_providers],
        "clients": len(services.watcher.roster.clients()),
        "orphaned_holds": _orphaned_holds(services),
        "greenlets": sum(isinstance(thing, greenlet) and not thing.dead for thing in gc.get_objects()),
    }
    return json_response(found)


def _orphaned_holds(services: Services) -> int | None:
    """Reservations that nobody has settled for long after their worker died; None if the store does not answer."""
    try:
        return len(services.store.orphans(2 * DEAD_AFTER_SECONDS))
    except StoreError:
        return None


def providers(services: Services) -> Response:
    """Every provider with its keys and their state."""
    cooling = services.store.cooldowns()
    found = []
    for provider in services.settings.llm_providers:
        keys = []
        for key_id in key_ids(provider):
            cooldown = cooling.get(f"{provider.id}/{key_id}")
            stats = services.gateway.router.board.all_of(f"{provider.id}/{key_id}")
            keys.append(
                {
                    "id": key_id,
                    "state": "cooling" if cooldown else "usable",
                    "cause": cooldown.cause if cooldown else None,
                    "usable_in_seconds": round(cooldown.seconds, 1) if cooldown else 0,
                    "in_flight": stats.in_flight,
                    "error_rate": round(stats.error_rate, 3),
                    "latency_ms": round(stats.latency_seconds * 1000) if stats.latency_seconds else None,
                }
            )
        found.append(
            {
                "id": provider.id,
                "type": provider.type,
                "base_url": services.accounts[provider.id].base_url,
                "models": list(provider.listed_models()),
                "keys": keys,
            }
        )
    return json_response({"providers": found})


def prices(services: Services) -> Response:
    """What each listed model costs, in US dollars per million tokens, and where that is known from; nulls where it is not."""
    rows = []
    for provider in services.settings.llm_providers:
        for model in provider.listed_models():
            price = price_of(provider, model)
            rates = price.standard.rates if price else None
            rows.append(
                {
                    "model": f"{provider.id}:{model}",
                    "input": rates.input if rates else None,
                    "cached_input": rates.cached_input if rates else None,
                    "cache_write": rates.cache_write if rates else None,
                    "output": rates.output if rates else None,
                    "reasoning": rates.reasoning if rates else None,
                    "tiers": sorted(price.services) if price else [],
                    "source": price.source if price else None,
                }
            )
    return json_response({"prices": rows})


def probe_providers(services: Services) -> Response:
    """One live request with every vendor key, past routing and limits. The body may name one provider, one key and a model: {"provider", "key", "model"}."""
    asked = parse_body(read_body(services, g.exchange) or b"{}")
    named, wanted, only = typed(asked, "provider", str, "text"), typed(asked, "model", str, "text"), typed(asked, "key", str, "text")
    rows = []
    for provider in services.settings.llm_providers:
        if named not in (None, provider.id):
            continue
        model = wanted or next(iter((*((provider.model,) if provider.model else ()), *provider.listed_models())), None)
        for key_id in (one for one in key_ids(provider) if only in (None, one)):
            rows.append(_probe(services, provider.id, provider.type, key_id, model))
    if not rows:
        what = f"no provider '{named}' is configured" if only is None else f"no provider '{named}' has the key {only}"
        raise InvalidRequest(what, param="provider" if only is None else "key")
    return json_response({"results": rows, "ok": all(row["ok"] for row in rows)})


def _probe(services: Services, provider: str, kind: str, key_id: str, model: str | None) -> Json:
    row: Json = {"provider": provider, "key": key_id, "model": model, "ok": False, "latency_ms": None, "detail": ""}
    if model is None:
        row["detail"] = "no model is configured for this provider: give it `model`, or name one with --model"
        return row
    source: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": PROBE_TEXT}], "max_completion_tokens": PROBE_TOKENS}
    messages = (Message(role="user", parts=(TextPart(text=PROBE_TEXT),)),)
    chat: ModelRequest = ChatRequest(model=model, messages=messages, max_output_tokens=PROBE_TOKENS, source=source)
    if not PROVIDERS[kind].has_chat:
        chat = EmbeddingRequest(model=model, inputs=(PROBE_TEXT,), source={"model": model, "input": PROBE_TEXT})
    target = Target(provider=provider, type=provider, key_id=key_id, model=model)
    started = time.monotonic()
    try:
        services.gateway.ask(chat, target, Cancellation())
    except VendorError as error:
        row["detail"] = services.redact(f"{error.verdict.cause}: {error.verdict.message}")
    except ClientGone as error:
        row["detail"] = str(error)
    else:
        row["ok"] = True
        row["detail"] = "answered"
    row["latency_ms"] = round((time.monotonic() - started) * 1000)
    return row


def explain_route(services: Services) -> Response:
    """The order of the candidates for a request, as this worker sees it now: {"model"} or a whole chat request; "client" asks on behalf of a client."""
    body = parse_body(read_body(services, g.exchange))
    on_behalf, session = body.pop("client", None), body.pop("session", None)
    body.setdefault("messages", [{"role": "user", "content": "?"}])
    chat = parse_request(body)
    client = _client(services, on_behalf)
    targets = services.gateway.catalog.resolve(chat.model, client)
    cooling = services.store.cooldowns()
    candidates = []
    belongs_to = stickiness(services.settings.policy.sticky, chat, session)
    for place, ranked in enumerate(services.gateway.router.rank(targets, belongs_to), 1):
        target = ranked.target
        candidates.append(
            {
                "place": place,
                "provider": target.provider,
                "key": target.key_id,
                "model": target.model,
                "score": ranked.score,
                "components": dict(ranked.components),
                "stand_in": target.fallback,
                "excluded": _why_excluded(services, chat, client, target, cooling),
            }
        )
    chosen = next((row for row in candidates if not row["excluded"]), None)
    return json_response(
        {
            "model": chat.model,
            "algorithm": services.settings.policy.algorithm,
            "worker": os.getpid(),
            "chosen": chosen,
            "candidates": candidates,
        }
    )


def _why_excluded(services: Services, chat: ChatRequest, client: Client | None, target: Target, cooling: Any) -> str:
    cooldown = cooling.get(target.key)
    if cooldown is not None:
        return f"cools down for {cooldown.seconds:.0f} s: {cooldown.cause}"
    share = services.gateway.router.shares.get(target.key)
    if share is not None:
        return f"a new key, first in {share:.3g} of the requests" if share else "gets no new requests: it is being added, or retired"
    if chat.max_output_tokens is not None and target.max_tokens is not None and chat.max_output_tokens > target.max_tokens:
        return f"max_tokens {chat.max_output_tokens} is above the key's limit of {target.max_tokens}"
    scopes = services.limiter.scopes
    charges = services.limiter.charges(scopes.of_client(client), estimate_of(chat, with_most=scopes.has_budgets), target)
    used = services.store.used(charges)
    for charge in charges:
        if used[charge.counter] + charge.amount > charge.limit:
            return f"limit: {used[charge.counter]} of {charge.limit} used, {charge.amount} more needed ({charge.counter})"
    return ""


def _client(services: Services, name: Any) -> Client | None:
    if name is None:
        return None
    client = services.watcher.roster.find(str(name))
    if client is None:
        raise InvalidRequest(f"no client '{str(name)[:80]}'", param="client")
    return client


def probe(services: Services) -> Response:  # noqa: ARG001
    """A stream of the gateway's own, for as many seconds as are asked for: who watches a restart sees by it whether streams live through it."""
    try:
        seconds = min(MOST_PROBE_SECONDS, max(0.0, float(request.args.get("seconds", "1"))))
    except ValueError:
        raise InvalidRequest("seconds is a number", param="seconds") from None

    def ticks() -> Iterator[bytes]:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            yield b"data: tick\n\n"
            gevent.sleep(PROBE_TICK_SECONDS)
        yield b"data: [DONE]\n\n"

    return Response(ticks(), mimetype="text/event-stream")


ROUTES = (
    Route("/admin/v1/probe", ("GET",), Access.VIEWER, probe, "admin_probe"),
    Route("/admin/v1/status", ("GET",), Access.VIEWER, status, "admin_status"),
    Route("/admin/v1/health", ("GET",), Access.VIEWER, lambda services: json_response(assess(services)), "admin_health"),
    Route("/admin/v1/providers", ("GET",), Access.VIEWER, providers, "admin_providers"),
    Route("/admin/v1/prices", ("GET",), Access.VIEWER, prices, "admin_prices"),
    Route("/admin/v1/providers/test", ("POST",), Access.OPERATOR, probe_providers, "admin_providers_test", changes=True),
    Route("/admin/v1/route/explain", ("POST",), Access.VIEWER, explain_route, "admin_route_explain"),
)
