"""Everything a request handler needs, built once from the settings of a generation."""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
from gevent.event import Event
from sqlalchemy.exc import SQLAlchemyError

from coollm.audit_trail import AuditTrail
from coollm.budgets import Budgets
from coollm.cache.answers import AnswerCache
from coollm.call import Account
from coollm.closing import Closer
from coollm.core.audit import AuditLog
from coollm.core.config.load import SIMULATOR_URL, InForce
from coollm.core.config.schema import Provider, Settings
from coollm.core.errors import OperationFailed
from coollm.core.paths import admin_directory, audit_log, find_config
from coollm.core.registry import CACHES, CREDENTIALS, PROVIDERS, STORES
from coollm.core.secrets import Redactor
from coollm.credentials import FixedKey
from coollm.erasure import forget_old_logs
from coollm.gateway import Gateway
from coollm.identity.guard import AdminGuard
from coollm.identity.roster import Uses
from coollm.identity.sessions import Sessions
from coollm.ledger.access_book import AccessBook
from coollm.ledger.anomalies import Anomalies
from coollm.ledger.book import Ledger, open_ledger
from coollm.ledger.console_book import ConsoleBook
from coollm.ledger.live import LiveFigures
from coollm.ledger.override_book import OverrideBook
from coollm.ledger.retention import Retention
from coollm.ledger.shipper import Shipper
from coollm.ledger.shipping import SHIPPER_LOCK, Shipping
from coollm.ledger.threads import in_thread
from coollm.ledger.usage_log import UsageLog
from coollm.limits.keeper import Keeper
from coollm.limits.limiter import Limiter
from coollm.limits.output_sizes import OutputSizes
from coollm.limits.scopes import Scopes
from coollm.limits.watcher import Watcher
from coollm.news import Exchange
from coollm.routing.catalog import Catalog, key_ids
from coollm.routing.router import Router
from coollm.routing.stats import Board
from coollm.stores.base import Store, StoreError
from coollm.stores.guard import GuardedStore
from coollm.telemetry.metrics import Metrics
from coollm.telemetry.record import RequestRecord
from coollm.telemetry.request_log import RequestLog
from coollm.upstream import Upstream

if TYPE_CHECKING:
    from coollm.telemetry.tracing import Tracing

RETENTION_LOCK = "retention.lock"
ANOMALIES_LOCK = "anomalies.lock"
STORE_IDENTITY = "store.identity"
MEBIBYTE = 1024 * 1024


class Part(Protocol):
    """Something that is closed when no generation uses it any more."""

    def close(self) -> None:
        """Lets go of what it holds."""


class Services(msgspec.Struct, frozen=True):
    """The parts of a running gateway, of one generation of its configuration. Two of them can live in one process.

    `owner` is who holds reservations in the store; `stopped` ends what runs beside requests.
    """

    settings: Settings
    generation: int
    stamp: str
    key_since: dict[str, float]
    owner: str
    stopped: Event
    gateway: Gateway
    sizes: OutputSizes
    limiter: Limiter
    overrides: OverrideBook
    watcher: Watcher
    access: AccessBook
    console_book: ConsoleBook
    live: LiveFigures
    uses: Uses
    sessions: Sessions | None
    guard: AdminGuard
    audit: AuditTrail
    budgets: Budgets
    cache: AnswerCache | None
    keeper: Keeper
    upstream: Upstream
    store: GuardedStore
    usage_log: UsageLog
    ledger: Ledger
    shipper: Shipper
    shipping: Shipping
    retention: Retention | None
    metrics: Metrics
    anomalies: Anomalies
    tracing: Tracing | None
    redact: Redactor
    closer: Closer
    state: Path
    logs: Path
    accounts: dict[str, Account]
    started: float

    def parts(self) -> tuple[Part, ...]:
        """What holds connections or processes, and may live on in the next generation."""
        return tuple(part for part in (self.upstream, self.cache, self.ledger, self.shipping, self.tracing) if part is not None)


def build_services(
    in_force: InForce,
    state: Path,
    usage_log_path: Path,
    simulator_url: Callable[[], str] | None = None,
    before: Services | None = None,
) -> Services:
    """Wires a gateway. `simulator_url` starts the built-in simulated vendor, if a provider asks for it, and gives its address.

    What has not changed since the generation `before` lives on: counters in memory, connections, figures of vendors, metrics; the store in any case.

    Raises OperationFailed if the store or the ledger cannot be opened.
    """
    settings = in_force.settings
    accounts = {provider.id: _account(provider, simulator_url) for provider in settings.llm_providers}
    known = (*settings.secrets(), *(before.settings.secrets() if before else ()))  # requests of the generation before may still be told of
    redact = Redactor(known)
    metrics = before.metrics if before else Metrics(settings)
    runtime = settings.storage.runtime
    owner = before.owner if before else f"{platform.node()}:{os.getpid()}:{secrets.token_hex(4)}"
    try:
        if before is not None:
            store = before.store
        else:
            opened: Store = STORES[runtime.type](runtime, state)
            store = GuardedStore(opened, runtime.on_failure, runtime.local_share / settings.server.workers, remembered=state / STORE_IDENTITY)
        cache = before.cache if before and before.settings.policy.cache == settings.policy.cache else _cache(settings, state, owner)
    except StoreError as error:
        raise OperationFailed(f"the store cannot be opened: {error}", "give COOLLM_STATE_DIR or --state-dir a directory that can be written") from error
    usage_log = before.usage_log if before else UsageLog(usage_log_path)
    keeps_ledger = before is not None and before.settings.storage.ledger == settings.storage.ledger
    ledger = before.ledger if before and keeps_ledger else open_ledger(settings, state)
    shipper = before.shipper if before and keeps_ledger else Shipper(usage_log_path, ledger, state / SHIPPER_LOCK, platform.node())
    shipping = before.shipping if before and keeps_ledger else Shipping(usage_log_path, state)
    overrides = OverrideBook(ledger, state)
    limiter = Limiter(store, Scopes(settings, before.limiter.scopes.overrides if before and keeps_ledger else overrides.remembered()), owner)
    access = AccessBook(ledger, state)
    uses = before.uses if before else Uses()
    stored = before.watcher.roster.stored if before and keeps_ledger else access.remembered()
    catalog = Catalog(settings)
    board = before.gateway.router.board if before else Board()
    router = Router(settings.policy, board, limiter, store, in_force.shares)
    sizes = before.sizes if before else OutputSizes()
    upstream = before.upstream if before and before.settings.policy.timeouts == settings.policy.timeouts else Upstream(settings.policy.timeouts)

    def cost_in_ledger(request_id: str) -> int | None:
        """What a request has cost, once all that is written is shipped; None also where the ledger does not answer."""
        try:
            in_thread(shipper.ship)
            return in_thread(lambda: ledger.cost_of(request_id))
        except (SQLAlchemyError, OperationFailed):
            return None

    tracing = before.tracing if before and before.settings.logging.otel == settings.logging.otel else _tracing(settings)

    request_log = RequestLog(redact)

    def watch(records: Sequence[RequestRecord]) -> None:
        request_log.write(records)
        for record in records:
            metrics.observe(record)
            if tracing is not None:
                tracing.tell(record, redact.short)

    def forget_logs(before: float) -> list[str]:
        return forget_old_logs(usage_log_path.parent, before, audit.log)

    audit = _audit(settings, state, usage_log_path.parent)
    closer = Closer(usage_log, limiter, watch)
    kept_days = settings.compliance.data_retention_days
    budgets = Budgets(limiter, ledger, shipper, owner)
    store.recount = budgets.recount
    return Services(
        settings=settings,
        generation=in_force.generation,
        stamp=in_force.stamp,
        key_since=in_force.key_since,
        owner=owner,
        stopped=Event(),
        sizes=sizes,
        gateway=Gateway(settings.policy, accounts, catalog, router, limiter, sizes, cache, upstream, redact, closer),
        limiter=limiter,
        overrides=overrides,
        watcher=Watcher(ledger, overrides, access, limiter, settings, in_force.hash_key, stored, uses),
        access=access,
        console_book=ConsoleBook(ledger),
        live=before.live if before and keeps_ledger else LiveFigures(ledger),
        uses=uses,
        sessions=Sessions(in_force.hash_key) if in_force.hash_key else None,
        guard=AdminGuard(store, settings.server.admin_requests_per_minute),
        audit=audit,
        logs=usage_log_path.parent,
        budgets=budgets,
        cache=cache,
        keeper=Keeper(store, owner, Exchange(router.board, sizes), catalog.target, cost_in_ledger, closer.tell),
        upstream=upstream,
        store=store,
        usage_log=usage_log,
        ledger=ledger,
        shipper=shipper,
        shipping=shipping,
        retention=Retention(ledger, kept_days, state / RETENTION_LOCK, forget_logs) if kept_days else None,
        metrics=metrics,
        anomalies=Anomalies(ledger, state / ANOMALIES_LOCK, metrics.anomaly),
        tracing=tracing,
        redact=redact,
        closer=closer,
        state=state,
        accounts=accounts,
        started=before.started if before else time.time(),
    )


def _tracing(settings: Settings) -> Tracing | None:
    if not settings.logging.otel.enabled:
        return None
    try:
        from coollm.telemetry.tracing import Tracing  # a fifth of a second, and nothing where nobody asks for traces
    except ImportError as error:
        raise OperationFailed(f"logging.otel needs the package '{error.name}', which is not installed", "pip install 'coollm[otel]'") from error
    return Tracing(settings.logging.otel)


def _cache(settings: Settings, state: Path, owner: str) -> AnswerCache | None:
    wanted, runtime = settings.policy.cache, settings.storage.runtime
    if not wanted.enabled:
        return None
    return AnswerCache(wanted, CACHES[runtime.type](runtime, state, wanted.max_size_mb * MEBIBYTE), owner)


def _audit(settings: Settings, state: Path, logs: Path) -> AuditTrail:
    wanted = settings.logging.audit
    log = AuditLog(audit_log(logs, wanted.path), state, admin_directory(find_config().absolute(), state))
    return AuditTrail(log if wanted.enabled else None, is_required=settings.compliance.soc2)


def _account(provider: Provider, simulator_url: Callable[[], str] | None) -> Account:
    try:
        dialect = PROVIDERS[provider.type]
        credential = CREDENTIALS.get(provider.type, FixedKey)
    except ImportError as error:
        way_out = f"pip install 'coollm[{provider.type}]'"
        raise OperationFailed(f"the provider '{provider.id}' needs the package '{error.name}', which is not installed", way_out) from error
    base_url = provider.base_url or dialect.base_url
    if base_url == SIMULATOR_URL:
        if simulator_url is None:
            raise OperationFailed(f"the provider '{provider.id}' uses the simulated vendor, which is not started here")
        base_url = simulator_url() + SIMULATED_PATHS.get(dialect.wire, "/v1")
    try:
        keys = dict(zip(key_ids(provider), [credential(key.reveal()) for key in provider.api_keys] or [credential("")], strict=True))
    except ValueError as error:
        way_out = "give it the key file of a service account, unchanged"
        raise OperationFailed(f"a key of the provider '{provider.id}' cannot be used ({type(error).__name__})", way_out) from error
    return Account(dialect=dialect, base_url=base_url.rstrip("/"), keys=keys)


SIMULATED_PATHS = {
    "openai": "/v1",
    "claude": "",
    "gemini": "/v1beta",
    "cohere": "",
    "voyage": "/voyage/v1",
    "replicate": "/v1",
    "bedrock": "",
    "vertex": "/v1/projects/simulated/locations/global",
}
"""Where each wire format begins on the simulator, as on the vendors' own hosts."""
