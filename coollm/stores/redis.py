"""Counters in Redis (6 and newer), alone, behind Sentinel or in a cluster, shared by all hosts.

A decision is one Lua script: atomic, one round trip, on the server's own clock.

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
    KEPT_AFTER_SECONDS,
    LIVE_RETRY_SECONDS,
    Candidate,
    Charge,
    Cooldown,
    Correction,
    Decision,
    Hold,
    Orphan,
    Skipped,
    Store,
    StoreError,
    Used,
    shortest_wait,
)

TIMEOUT_SECONDS = 2.0
PREFIX = "{coollm}:"
COOLDOWNS = PREFIX + "cooldowns"
HOLDS = PREFIX + "holds"
OWNERS = PREFIX + "owners"
FORGET_OWNERS_SECONDS = 3600

_CLOCK = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local function whole(number) return string.format('%.0f', number) end
"""

# A charge is {key index, amount, limit, kind, a, b}: kind 0 is a window of `a` seconds in buckets of `b`, 1 a period from `a` to `b` (0: for ever), 2 is live.
_SPANS = """
local function bucket_of(charge)
  if charge[4] == 0 then return math.floor(now / charge[6]) * charge[6] end
  if charge[4] == 1 then return charge[5] end
  return 0
end
local function oldest_of(charge)
  if charge[4] == 0 then return bucket_of(charge) - charge[5] end
  return bucket_of(charge)
end
local function counted(charge)
  local key, oldest = KEYS[charge[1]], oldest_of(charge)
  local rows, total, stale, buckets = redis.call('HGETALL', key), 0, {}, {}
  for i = 1, #rows, 2 do
    local bucket, amount = tonumber(rows[i]), tonumber(rows[i + 1])
    if bucket >= oldest then
      total = total + amount
      buckets[#buckets + 1] = {bucket, amount}
    elseif charge[4] == 0 then
      stale[#stale + 1] = rows[i]
    end
  end
  if #stale > 0 then redis.call('HDEL', key, unpack(stale)) end
  return total, buckets
end
"""

_LET_GO = """
-- Ends a hold, [owner, made, note, key, [[counter, amount], ...]], and lets its live charges go. One that is not there was reaped, or held nothing.
local function let_go(holds, id)
  local held = redis.call('HGET', holds, id)
  if not held then return nil end
  redis.call('HDEL', holds, id)
  local hold = cjson.decode(held)
  for _, live in ipairs(hold[5]) do
    local left = tonumber(redis.call('HGET', live[1], '0') or '0') - live[2]
    if left > 0 then redis.call('HSET', live[1], '0', whole(left)) else redis.call('HDEL', live[1], '0') end
  end
  return hold
end
"""

# KEYS: cooldowns, holds, then the counters. ARGV: JSON {charges: [charge], candidates: [[key, [charges]]], own: hold, leased: hold}, kept seconds, live wait.
_DECIDE = (
    _CLOCK
    + _SPANS
    + """
local used = {}
local ask = cjson.decode(ARGV[1])
-- Seconds until the charge fits: 0 now, -1 never.
local function wait(charge)
  local key, amount, limit = KEYS[charge[1]], charge[2], charge[3]
  if not used[key] then
    local total, buckets = counted(charge)
    used[key] = {total, buckets}
  end
  local total, buckets = used[key][1], used[key][2]
  if total + amount <= limit then return 0 end
  if amount > limit then return -1 end
  if charge[4] == 1 then
    if charge[6] == 0 then return -1 end
    return math.max(0.001, charge[6] - now)
  end
  if charge[4] == 2 then return tonumber(ARGV[3]) end
  table.sort(buckets, function(a, b) return a[1] < b[1] end)
  for _, row in ipairs(buckets) do
    total = total - row[2]
    if total + amount <= limit then return math.max(0.001, row[1] + charge[5] + charge[6] - now) end
  end
  return 0
end
local function charge_all(charges, result)
  for _, charge in ipairs(charges) do
    local key = KEYS[charge[1]]
    redis.call('HINCRBY', key, whole(bucket_of(charge)), whole(charge[2]))
    if charge[4] == 0 then redis.call('EXPIRE', key, charge[5] + charge[6] + 5) end
    if charge[4] == 1 and charge[6] > 0 then redis.call('EXPIREAT', key, whole(charge[6] + tonumber(ARGV[2]))) end
    used[key][1] = used[key][1] + charge[2]
    result[#result + 1] = whole(used[key][1])
  end
end
local function hold(held, key, charges)
  if not held or held == cjson.null or #charges == 0 then return end
  local live = {}
  for _, charge in ipairs(charges) do
    if charge[4] == 2 then live[#live + 1] = {KEYS[charge[1]], charge[2]} end
  end
  local written = cjson.encode({held[2], now, held[3], key, 0})
  -- An empty list is written by hand: cjson would make it an object.
  local lives = #live > 0 and cjson.encode(live) or '[]'
  redis.call('HSET', KEYS[2], held[1], string.sub(written, 1, -3) .. lives .. ']')
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
    local result = {'granted', tostring(index - 1), string.format('%.6f', now), cjson.encode(skipped)}
    charge_all(ask.charges, result)
    charge_all(candidate[2], result)
    hold(ask.own, candidate[1], ask.charges)
    hold(ask.leased, candidate[1], candidate[2])
    return result
  end
  skipped[#skipped + 1] = {reason, seconds}
end
return {'none', cjson.encode(skipped)}
"""
)

# KEYS: holds, then the counters. ARGV: number of holds, their ids, then bucket and difference of each counter.
_SETTLE = (
    _CLOCK
    + _LET_GO
    + """
local many = tonumber(ARGV[1])
for i = 2, many + 1 do let_go(KEYS[1], ARGV[i]) end
for i = 2, #KEYS do
  local bucket, difference = ARGV[many + 2 * i - 2], tonumber(ARGV[many + 2 * i - 1])
  local held = redis.call('HGET', KEYS[i], bucket)
  if held then redis.call('HSET', KEYS[i], bucket, whole(math.max(0, tonumber(held) + difference))) end
end
return 1
"""
)

# KEYS: owners. ARGV: the owner.
_BEAT = _CLOCK + "return redis.call('HSET', KEYS[1], ARGV[1], string.format('%.6f', now))"

# KEYS: holds, owners. ARGV: seconds of silence, seconds after which an owner is forgotten.
_REAP = (
    _CLOCK
    + _LET_GO
    + """
local rows, result = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #rows, 2 do
  local hold = cjson.decode(rows[i + 1])
  local seen = tonumber(redis.call('HGET', KEYS[2], hold[1]) or hold[2])
  if seen < now - tonumber(ARGV[1]) then
    let_go(KEYS[1], rows[i])
    result[#result + 1] = rows[i]; result[#result + 1] = hold[3]; result[#result + 1] = hold[4]
  end
end
local owners = redis.call('HGETALL', KEYS[2])
for i = 1, #owners, 2 do
  if tonumber(owners[i + 1]) < now - tonumber(ARGV[2]) then redis.call('HDEL', KEYS[2], owners[i]) end
end
return result
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

# KEYS: the counters. ARGV: a JSON list of charges.
_USED = (
    _CLOCK
    + _SPANS
    + """
local result = {}
for _, charge in ipairs(cjson.decode(ARGV[1])) do result[#result + 1] = whole((counted(charge))) end
return result
"""
)

_KINDS = {"window": 0, "period": 1, "live": 2}


def open_store(settings: RuntimeStorage, state: Path) -> Store:  # noqa: ARG001  the signature of every store
    """The store at `storage.runtime.addr`. Raises OperationFailed if the `redis` package is not installed, and StoreError if a cluster does not answer."""
    try:
        import redis
    except ImportError as error:
        raise OperationFailed("storage.runtime.type is redis, but the redis package is not installed", "pip install 'coollm[redis]'") from error
    try:
        return RedisStore(_client(settings))
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
    if (settings.addr or "").startswith("unix:"):
        return redis.Redis(unix_socket_path=(settings.addr or "").removeprefix("unix:"), **common)
    addresses = [Address.parse(one) for one in (settings.addr or "").split(",")]
    if settings.mode == "cluster":
        return redis.RedisCluster(startup_nodes=[ClusterNode(one.host, one.port) for one in addresses], ssl=settings.tls, **common)
    if settings.mode == "sentinel":
        told = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
        sentinels = Sentinel([(one.host, one.port) for one in addresses], sentinel_kwargs=told)
        return sentinels.master_for(settings.master_name, ssl=settings.tls, **common)
    return redis.Redis(host=addresses[0].host, port=addresses[0].port, ssl=settings.tls, **common)


class RedisStore:
    """The contract in hashes, one for each counter, whose fields are seconds."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._decide_script = client.register_script(_DECIDE)
        self._beat_script = client.register_script(_BEAT)
        self._reap_script = client.register_script(_REAP)
        self._settle_script = client.register_script(_SETTLE)
        self._cool_script = client.register_script(_COOL)
        self._list_script = client.register_script(_LIST)
        self._used_script = client.register_script(_USED)

    def decide(self, charges: Sequence[Charge], candidates: Sequence[Candidate], own: Hold | None = None, leased: Hold | None = None) -> Decision:
        places = _Places([COOLDOWNS, HOLDS])
        ask = {
            "charges": [places.written(charge) for charge in charges],
            "candidates": [[candidate.key, [places.written(charge) for charge in candidate.charges]] for candidate in candidates],
            "own": [own.id, own.owner, own.note] if own else None,
            "leased": [leased.id, leased.owner, leased.note] if leased else None,
        }
        reply = self._call(self._decide_script, places.keys, [orjson.dumps(ask), KEPT_AFTER_SECONDS, LIVE_RETRY_SECONDS])
        return _decision(reply, charges, candidates)

    def settle(self, holds: Sequence[str], corrections: Iterable[Correction]) -> None:
        wanted = [one for one in corrections if one.difference]
        if wanted or holds:
            arguments = [value for one in wanted for value in (one.bucket, one.difference)]
            self._call(self._settle_script, [HOLDS, *(PREFIX + one.counter for one in wanted)], [len(holds), *holds, *arguments])

    def beat(self, owner: str) -> None:
        self._call(self._beat_script, [OWNERS], [owner])

    def reap(self, seconds: float) -> Sequence[Orphan]:
        reply = self._call(self._reap_script, [HOLDS, OWNERS], [seconds, FORGET_OWNERS_SECONDS])
        found = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        return [Orphan(id=hold.decode(), note=note.decode(), key=key.decode()) for hold, note, key in found]

    def cool(self, key: str, seconds: float, cause: str) -> None:
        self._call(self._cool_script, [COOLDOWNS], [key, seconds, cause])

    def cooldowns(self) -> Mapping[str, Cooldown]:
        reply = self._call(self._list_script, [COOLDOWNS], [])
        triples = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        return {key.decode(): Cooldown(seconds=float(seconds), cause=cause.decode()) for key, seconds, cause in triples}

    def used(self, charges: Sequence[Charge]) -> Mapping[str, int]:
        if not charges:
            return {}
        places = _Places([])
        reply = self._call(self._used_script, places.keys, [orjson.dumps([places.written(charge) for charge in charges])])
        return {charge.counter: int(used) for charge, used in zip(charges, reply, strict=True)}

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


class _Places:
    """The keys of a script, and charges as it reads them."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys
        self._places: dict[str, int] = {}

    def written(self, charge: Charge) -> list[int]:
        """A charge in numbers, its counter as the place of its key."""
        if charge.counter not in self._places:
            self.keys.append(PREFIX + charge.counter)
            self._places[charge.counter] = len(self.keys)
        span = charge.span
        first, second = (span.seconds, span.width) if span.kind == "window" else (span.starts, span.ends)
        return [self._places[charge.counter], charge.amount, charge.limit, _KINDS[span.kind], first, second]


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
    return Decision(chosen=chosen, now=float(reply[2]), skipped=skipped, used=used)


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
