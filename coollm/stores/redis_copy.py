"""Copies of the counters in Redis for backups: one JSON line for each key, whatever the version of Redis that wrote or reads it.

    {"key": "{coollm}:…", "type": "hash", "expires": 1790000000000, "value": {…}}

`expires` is a time of the epoch in milliseconds, 0 for never. Source: https://redis.io/docs/latest/commands/scan/ and the `redis` package.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from coollm.core.batches import batches
from coollm.core.config.schema import RuntimeStorage
from coollm.core.config.values import Address
from coollm.core.errors import CheckFailed, OperationFailed, Unreachable
from coollm.stores.redis import NEWS, PREFIX
from coollm.stores.redis_client import library_options

FILE_NAME = "redis.jsonl"
BATCH = 500

_READ: dict[str, Callable[[Any, str], Any]] = {
    "string": lambda pipe, key: pipe.get(key),
    "hash": lambda pipe, key: pipe.hgetall(key),
    "zset": lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True),
    "set": lambda pipe, key: pipe.smembers(key),
    "list": lambda pipe, key: pipe.lrange(key, 0, -1),
}
_WRITE: dict[str, Callable[[Any, str, Any], Any]] = {
    "string": lambda pipe, key, value: pipe.set(key, value),
    "hash": lambda pipe, key, value: pipe.hset(key, mapping=value),
    "zset": lambda pipe, key, value: pipe.zadd(key, dict(value)),
    "set": lambda pipe, key, value: pipe.sadd(key, *value),
    "list": lambda pipe, key, value: pipe.rpush(key, *value),
}


def save(settings: RuntimeStorage, file: Path) -> int:
    """Writes every key of ours. Returns how many there are. Raises Unreachable, OperationFailed and OSError."""
    with _Translated(), file.open("wb") as lines, contextlib.closing(_open(settings)) as client:
        count = 0
        for keys in batches(client.scan_iter(match=f"{PREFIX}*", count=BATCH), BATCH):
            for line in _rows(client, [key for key in keys if not key.startswith(NEWS)]):
                lines.write(orjson.dumps(line, default=list) + b"\n")
                count += 1
        return count


def _rows(client: Any, keys: list[str]) -> Iterator[dict[str, Any]]:
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.type(key)
        pipe.pttl(key)
    told = pipe.execute()
    kinds, left = told[::2], told[1::2]
    now = int(time.time() * 1000)
    known = [(key, kind, ttl) for key, kind, ttl in zip(keys, kinds, left, strict=True) if kind in _READ]
    for key, kind, _ in known:
        _READ[kind](pipe, key)
    for (key, kind, ttl), value in zip(known, pipe.execute(), strict=True):
        if value:
            yield {"key": key, "type": kind, "expires": now + ttl if ttl > 0 else 0, "value": value}


def count(file: Path) -> int:
    """How many keys a copy has. Raises CheckFailed if it makes no sense."""
    return sum(1 for _ in _read(file))


def load(settings: RuntimeStorage, file: Path) -> int | None:
    """Writes the keys of a copy that have not expired where there are none of ours, all or nothing; None where there are: they are newer. Raises as `save`."""
    with _Translated(), contextlib.closing(_open(settings)) as client:
        if next(client.scan_iter(match=f"{PREFIX}*", count=BATCH), None) is not None:
            return None
        pipe = client.pipeline(transaction=True)
        now, written = int(time.time() * 1000), 0
        for row in _read(file):
            if row["expires"] and row["expires"] <= now:
                continue
            _WRITE[row["type"]](pipe, row["key"], row["value"])
            if row["expires"]:
                pipe.pexpireat(row["key"], row["expires"])
            written += 1
        pipe.execute()
        return written


def _read(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with file.open("rb") as lines:
            for line in lines:
                row = orjson.loads(line)
                if not str(row["key"]).startswith(PREFIX) or row["type"] not in _WRITE:
                    raise CheckFailed(f"{file.name}: a key in it is not one of ours")
                yield row
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckFailed(f"{file.name}: this is no copy of Redis") from error


def _open(settings: RuntimeStorage) -> Any:
    import redis
    from redis.cluster import ClusterNode
    from redis.sentinel import Sentinel

    options = {**library_options(settings), "decode_responses": True}
    address = settings.addr or ""
    if address.startswith("unix:"):
        login = {name: options[name] for name in ("username", "password", "decode_responses")}
        return redis.Redis(unix_socket_path=address.removeprefix("unix:"), **login)
    nodes = [Address.parse(one) for one in address.split(",")]
    if settings.mode == "cluster":
        return redis.RedisCluster(startup_nodes=[ClusterNode(one.host, one.port) for one in nodes], **options)
    if settings.mode == "sentinel":
        return Sentinel([(one.host, one.port) for one in nodes]).master_for(settings.master_name, **options)
    return redis.Redis(nodes[0].host, nodes[0].port, **options)


class _Translated:
    """Errors of the package become ours."""

    def __enter__(self) -> None:
        try:
            import redis  # noqa: F401
        except ImportError as error:
            raise OperationFailed("storage.runtime.type is redis, but the redis package is not installed", "pip install 'coollm[redis]'") from error

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import redis

        if isinstance(error, redis.RedisError | redis.exceptions.RedisClusterException):
            raise Unreachable(f"Redis: {' '.join(str(error).split())[:200]}", "see that storage.runtime.addr answers") from error
