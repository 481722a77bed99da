"""A client of Redis (6 and newer): alone, behind Sentinel, or a cluster. Source: the `redis` package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coollm.core.config.schema import RuntimeStorage
from coollm.core.config.values import Address
from coollm.core.errors import OperationFailed
from coollm.stores.base import StoreError

TIMEOUT_SECONDS = 2.0


def connect(settings: RuntimeStorage) -> Any:
    """A client for `storage.runtime`. Raises OperationFailed if the `redis` package is not installed, and StoreError if a cluster does not answer."""
    try:
        import redis
    except ImportError as error:
        raise OperationFailed("storage.runtime.type is redis, but the redis package is not installed", "pip install 'coollm[redis]'") from error
    try:
        return _client(settings)
    except redis.RedisError as error:
        raise StoreError(f"Redis: {error}") from error


def _client(settings: RuntimeStorage) -> Any:
    import redis
    from redis.backoff import NoBackoff
    from redis.cluster import ClusterNode
    from redis.retry import Retry
    from redis.sentinel import Sentinel

    common: dict[str, Any] = {
        "username": settings.username,
        "password": settings.password.reveal() if settings.password else None,
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        # Once more, for a pooled connection that the server has closed; the package's own many retries would hold requests for seconds.
        "retry": Retry(NoBackoff(), 1),
    }
    tls: dict[str, Any] = {"ssl": True, "ssl_ca_certs": settings.ca_file, "ssl_check_hostname": True} if settings.tls else {}
    if (settings.addr or "").startswith("unix:"):
        return redis.Redis(unix_socket_path=(settings.addr or "").removeprefix("unix:"), **common)
    addresses = [Address.parse(one) for one in (settings.addr or "").split(",")]
    if settings.mode == "cluster":
        return redis.RedisCluster(startup_nodes=[ClusterNode(one.host, one.port) for one in addresses], **tls, **common)
    if settings.mode == "sentinel":
        told = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
        sentinels = Sentinel([(one.host, one.port) for one in addresses], sentinel_kwargs=told)
        return sentinels.master_for(settings.master_name, **tls, **common)
    return redis.Redis(host=addresses[0].host, port=addresses[0].port, **tls, **common)


def asked(work: Callable[[], Any]) -> Any:
    """What `work` asks of Redis. Raises StoreError where it does not answer."""
    import redis

    try:
        return work()
    except (redis.RedisError, OSError) as error:
        raise StoreError(f"Redis: {error}") from error
