"""Answers in Redis, shared by all hosts. They have a hash tag of their own, so that in a cluster they are beside the counters.

KEYS of all scripts: the answer, the claim, when each answer was last asked for (a sorted set), when each ends (another), and their sizes (a hash).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coollm.cache.base import CLAIM_SECONDS, Absent, AnswerStore
from coollm.core.config.schema import RuntimeStorage
from coollm.stores.redis_client import Redis, Script, connect

HASH_TAG = "{coollm-cache}"
PREFIX = f"{HASH_TAG}:"
ANSWER, CLAIM = PREFIX + "answer:", PREFIX + "claim:"
SHARED_KEYS = (PREFIX + "asked", PREFIX + "ends", PREFIX + "sizes", PREFIX + "bytes")

_TIME = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
"""

# ARGV: the key, owner, milliseconds of a claim.
_LOOK = Script(
    _TIME
    + """
local value = redis.call('GET', KEYS[1])
if value then
  redis.call('ZADD', KEYS[3], now, ARGV[1])
  return {'kept', value}
end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[2] then return {'fetched'} end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return {'yours'}
"""
)

# ARGV: the key, owner, value, seconds, most bytes, prefix of answers. What has ended is forgotten first, then what was not asked for longest.
_KEEP = Script(
    _TIME
    + """
local function forget(key)
  local size = redis.call('HGET', KEYS[5], key)
  if size then redis.call('DECRBY', KEYS[6], size) end
  redis.call('DEL', ARGV[6] .. key)
  redis.call('ZREM', KEYS[3], key); redis.call('ZREM', KEYS[4], key); redis.call('HDEL', KEYS[5], key)
end
forget(ARGV[1])
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, 100)) do forget(key) end
redis.call('SET', KEYS[1], ARGV[3], 'EX', ARGV[4])
redis.call('ZADD', KEYS[3], now, ARGV[1]); redis.call('ZADD', KEYS[4], now + tonumber(ARGV[4]), ARGV[1])
redis.call('HSET', KEYS[5], ARGV[1], #ARGV[3])
local total = redis.call('INCRBY', KEYS[6], #ARGV[3])
while total > tonumber(ARGV[5]) do
  local oldest = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
  if not oldest then break end
  forget(oldest)
  total = tonumber(redis.call('GET', KEYS[6]))
end
if redis.call('GET', KEYS[2]) == ARGV[2] then redis.call('DEL', KEYS[2]) end
return 1
"""
)

# ARGV: the key, owner.
_GIVE_UP = Script("if redis.call('GET', KEYS[2]) == ARGV[2] then redis.call('DEL', KEYS[2]) end; return 1")

# ARGV: the key, owner, milliseconds.
_RENEW = Script("if redis.call('GET', KEYS[2]) == ARGV[2] then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end; return 1")


def open_answers(settings: RuntimeStorage, state: Path, most_bytes: int) -> AnswerStore:  # noqa: ARG001  the signature of all
    """The answers at `storage.runtime.addr`. Raises as the store of counters there."""
    return RedisAnswers(connect(settings, HASH_TAG, waits=False), most_bytes)


class RedisAnswers:
    """The contract in scripts."""

    def __init__(self, redis: Redis, most_bytes: int) -> None:
        self._redis = redis
        self._most_bytes = most_bytes

    def look(self, key: str, owner: str) -> bytes | Absent:
        reply = self._call(_LOOK, key, owner, round(CLAIM_SECONDS * 1000))
        if reply[0] == b"kept":
            return bytes(reply[1])
        return Absent.YOURS if reply[0] == b"yours" else Absent.FETCHED_BY_ANOTHER

    def renew(self, keys: Sequence[str], owner: str) -> None:
        for key in keys:
            self._call(_RENEW, key, owner, round(CLAIM_SECONDS * 1000))

    def keep(self, key: str, value: bytes, seconds: int, owner: str) -> None:
        self._call(_KEEP, key, owner, value, seconds, self._most_bytes, ANSWER)

    def give_up(self, key: str, owner: str) -> None:
        self._call(_GIVE_UP, key, owner)

    def size(self) -> int:
        return int(self._redis.command("GET", PREFIX + "bytes") or 0)

    def close(self) -> None:
        self._redis.close()

    def _call(self, script: Script, key: str, *arguments: Any) -> Any:
        return self._redis.run(script, [ANSWER + key, CLAIM + key, *SHARED_KEYS], [key, *arguments])
