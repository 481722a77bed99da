"""Counters in Redis (6 and newer), shared by all hosts. A decision is one Lua script: atomic, one round trip, on the server's own clock.

Every key has the hash tag `{coollm}`, so that the keys of one decision are in one slot.
Sources: https://redis.io/docs/latest/develop/programmability/eval-intro/ and the `redis` package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from coollm.core.config.schema import RuntimeStorage
from coollm.core.config.values import Address
from coollm.core.errors import OperationFailed
from coollm.stores.base import (
    WINDOW_SECONDS,
    Candidate,
    Charge,
    Cooldown,
    Correction,
    Decision,
    Skipped,
    Store,
    StoreError,
    Used,
    shortest_wait,
)

TIMEOUT_SECONDS = 2.0
PREFIX = "{coollm}:"
COOLDOWNS = PREFIX + "cooldowns"

_CLOCK = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
"""

_WINDOW = """
local window = tonumber(ARGV[1])
local function counted(key)
  local rows, total, stale = redis.call('HGETALL', key), 0, {}
  local buckets = {}
  for i = 1, #rows, 2 do
    local bucket, amount = tonumber(rows[i]), tonumber(rows[i + 1])
    if bucket >= math.floor(now) - window then
      total = total + amount
      buckets[#buckets + 1] = {bucket, amount}
    else
      stale[#stale + 1] = rows[i]
    end
  end
  if #stale > 0 then redis.call('HDEL', key, unpack(stale)) end
  return total, buckets
end
"""

# KEYS: cooldowns, then the counters. ARGV: window, JSON {charges: [[key index, amount, limit]], candidates: [[key, [charges]]]}.
_DECIDE = (
    _CLOCK
    + _WINDOW
    + """
local used = {}
local ask = cjson.decode(ARGV[2])
-- Seconds until the charge fits: 0 now, -1 never.
local function wait(charge)
  local key, amount, limit = KEYS[charge[1]], charge[2], charge[3]
  if not used[key] then
    local total, buckets = counted(key)
    used[key] = {total, buckets}
  end
  local total, buckets = used[key][1], used[key][2]
  if total + amount <= limit then return 0 end
  if amount > limit then return -1 end
  table.sort(buckets, function(a, b) return a[1] < b[1] end)
  for _, row in ipairs(buckets) do
    total = total - row[2]
    if total + amount <= limit then return math.max(0.001, row[1] + window + 1 - now) end
  end
  return 0
end
local function charge_all(charges, result)
  for _, charge in ipairs(charges) do
    redis.call('HINCRBY', KEYS[charge[1]], math.floor(now), charge[2])
    redis.call('EXPIRE', KEYS[charge[1]], window + 5)
    result[#result + 1] = tostring(used[KEYS[charge[1]]][1] + charge[2])
  end
end
for index, charge in ipairs(ask.charges) do
  local seconds = wait(charge)
  if seconds ~= 0 then return {'refused', tostring(index - 1), tostring(seconds)} end
end
local skipped = {}
for index, candidate in ipairs(ask.candidates) do
  local reason, seconds = nil, 0
  local cooling = redis.call('HGET', KEYS[1], candidate[1])
  if cooling then
    local until_, cause = string.match(cooling, '^(%S+) (.*)$')
    if tonumber(until_) > now then reason, seconds = 'cooling: ' .. cause, tonumber(until_) - now end
  end
  if not reason then
    for number, charge in ipairs(candidate[2]) do
      seconds = wait(charge)
      if seconds ~= 0 then reason = 'limit ' .. tostring(number - 1); break end
    end
  end
  if not reason then
    local result = {'granted', tostring(index - 1), tostring(math.floor(now)), cjson.encode(skipped)}
    charge_all(ask.charges, result)
    charge_all(candidate[2], result)
    return result
  end
  skipped[#skipped + 1] = {reason, seconds}
end
return {'none', cjson.encode(skipped)}
"""
)

# KEYS: the counters. ARGV: window, then bucket and difference of each.
_SETTLE = (
    _CLOCK
    + """
for i, key in ipairs(KEYS) do
  local bucket, difference = ARGV[2 * i], tonumber(ARGV[2 * i + 1])
  local held = redis.call('HGET', key, bucket)
  if held then redis.call('HSET', key, bucket, string.format('%d', math.max(0, tonumber(held) + difference))) end
end
return 1
"""
)

# KEYS: cooldowns. ARGV: key, seconds, cause.
_COOL = (
    _CLOCK
    + """
local held = redis.call('HGET', KEYS[1], ARGV[1])
local deadline = now + tonumber(ARGV[2])
if held and tonumber(string.match(held, '^%S+')) > deadline then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.6f', deadline) .. ' ' .. ARGV[3])
return 1
"""
)

_LIST = (
    _CLOCK
    + """
local rows, result = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #rows, 2 do
  local until_, cause = string.match(rows[i + 1], '^(%S+) (.*)$')
  if tonumber(until_) > now then
    result[#result + 1] = rows[i]; result[#result + 1] = tostring(tonumber(until_) - now); result[#result + 1] = cause
  else
    redis.call('HDEL', KEYS[1], rows[i])
  end
end
return result
"""
)

_USED = (
    _CLOCK
    + _WINDOW
    + """
local result = {}
for _, key in ipairs(KEYS) do result[#result + 1] = tostring((counted(key))) end
return result
"""
)


def open_store(settings: RuntimeStorage, state: Path) -> Store:  # noqa: ARG001  the signature of every store
    """The store at `storage.runtime.addr`. Raises OperationFailed if the `redis` package is not installed."""
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise OperationFailed("storage.runtime.type is redis, but the redis package is not installed", "pip install 'coollm[redis]'") from error
    password = settings.password.reveal() if settings.password else None
    common: dict[str, Any] = {
        "password": password,
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        # Once more, for a pooled connection that the server has closed; the package's own many retries would hold requests for seconds.
        "retry": Retry(NoBackoff(), 1),
    }
    address = settings.addr or ""
    if address.startswith("unix:"):
        return RedisStore(redis.Redis(unix_socket_path=address.removeprefix("unix:"), **common))
    host, port = Address.parse(address)
    return RedisStore(redis.Redis(host=host, port=port, ssl=settings.tls, **common))


class RedisStore:
    """The contract in hashes, one for each counter, whose fields are seconds."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._decide_script = client.register_script(_DECIDE)
        self._settle_script = client.register_script(_SETTLE)
        self._cool_script = client.register_script(_COOL)
        self._list_script = client.register_script(_LIST)
        self._used_script = client.register_script(_USED)

    def decide(self, charges: Sequence[Charge], candidates: Sequence[Candidate]) -> Decision:
        keys = [COOLDOWNS]
        places: dict[str, int] = {}

        def written(charge: Charge) -> list[int]:
            if charge.counter not in places:
                keys.append(PREFIX + charge.counter)
                places[charge.counter] = len(keys)
            return [places[charge.counter], charge.amount, charge.limit]

        ask = {
            "charges": [written(charge) for charge in charges],
            "candidates": [[candidate.key, [written(charge) for charge in candidate.charges]] for candidate in candidates],
        }
        reply = self._call(self._decide_script, keys, [WINDOW_SECONDS, orjson.dumps(ask)])
        return _decision(reply, charges, candidates)

    def settle(self, corrections: Iterable[Correction]) -> None:
        wanted = [one for one in corrections if one.difference]
        if wanted:
            arguments = [value for one in wanted for value in (one.bucket, one.difference)]
            self._call(self._settle_script, [PREFIX + one.counter for one in wanted], [WINDOW_SECONDS, *arguments])

    def cool(self, key: str, seconds: float, cause: str) -> None:
        self._call(self._cool_script, [COOLDOWNS], [key, seconds, cause])

    def cooldowns(self) -> Mapping[str, Cooldown]:
        reply = self._call(self._list_script, [COOLDOWNS], [])
        triples = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        return {key.decode(): Cooldown(seconds=float(seconds), cause=cause.decode()) for key, seconds, cause in triples}

    def used(self, counters: Sequence[str]) -> Mapping[str, int]:
        if not counters:
            return {}
        reply = self._call(self._used_script, [PREFIX + counter for counter in counters], [WINDOW_SECONDS])
        return {counter: int(float(used)) for counter, used in zip(counters, reply, strict=True)}

    def ping(self) -> None:
        self._run(self._client.ping)

    def close(self) -> None:
        self._client.close()

    def _call(self, script: Any, keys: list[str], arguments: list[Any]) -> Any:
        return self._run(lambda: script(keys=keys, args=arguments))

    @staticmethod
    def _run(work: Callable[[], Any]) -> Any:
        import redis

        try:
            return work()
        except (redis.RedisError, OSError) as error:
            raise StoreError(f"Redis: {error}") from error


def _decision(reply: list[bytes], charges: Sequence[Charge], candidates: Sequence[Candidate]) -> Decision:
    verdict = reply[0]
    if verdict == b"refused":
        return Decision(refused=charges[int(reply[1])], retry_after_seconds=_seconds(float(reply[2])))
    skipped = _skipped(orjson.loads(reply[3] if verdict == b"granted" else reply[1]), candidates)
    if verdict == b"none":
        return Decision(skipped=skipped, retry_after_seconds=shortest_wait(skipped))
    chosen = int(reply[1])
    every = (*charges, *candidates[chosen].charges)
    used = tuple(Used(counter=one.counter, used=int(float(total)), limit=one.limit) for one, total in zip(every, reply[4:], strict=True))
    return Decision(chosen=chosen, bucket=int(reply[2]), skipped=skipped, used=used)


def _skipped(rows: Any, candidates: Sequence[Candidate]) -> tuple[Skipped, ...]:
    """Cjson writes an empty table as {}."""
    found = []
    for candidate, (reason, seconds) in zip(candidates, rows or [], strict=False):
        number = reason.removeprefix("limit ")
        named = f"limit: {candidate.charges[int(number)].counter}" if number != reason else reason
        found.append(Skipped(key=candidate.key, reason=named, retry_after_seconds=_seconds(seconds)))
    return tuple(found)


def _seconds(seconds: float) -> float | None:
    return None if seconds < 0 else seconds
