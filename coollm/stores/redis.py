"""Counters in Redis (6 and newer), alone, behind Sentinel or in a cluster, shared by all hosts.

A decision is one Lua script: atomic, one round trip, on the server's own clock.

Every key has the hash tag `{coollm}`, so that the keys of one decision are in one slot.
Sources: https://redis.io/docs/latest/develop/programmability/eval-intro/ and the `redis` package.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import orjson

from coollm.core.config.schema import RuntimeStorage
from coollm.core.types import Used
from coollm.stores.base import (
    KEPT_AFTER_SECONDS,
    LIVE_RETRY_SECONDS,
    MINUTE,
    NEWS_SECONDS,
    Candidate,
    Charge,
    Cooldown,
    Decision,
    Hold,
    Orphan,
    Part,
    Settlement,
    Skipped,
    Span,
    Standing,
    Store,
    StoreForgot,
    periods_of,
    shortest_wait,
    written_notes,
)
from coollm.stores.redis_client import Redis, Script, connect

HASH_TAG = "{coollm}"
PREFIX = f"{HASH_TAG}:"
COOLDOWNS = PREFIX + "cooldowns"
HOLDS = PREFIX + "holds"
OWNERS = PREFIX + "owners"
NEWS = PREFIX + "news"
IDENTITY = PREFIX + "identity"
CLAIM = PREFIX + "claim:"
FORGET_OWNERS_SECONDS = 3600

# How cjson writes an empty table.
NOTHING = b"{}"

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

# Whether the store is still the one that was asked for its identity: one that has forgotten charges nothing.
_KNOWN = """
local function forgot(key, identity) return identity ~= '' and redis.call('GET', key) ~= identity end
"""

_END = """
-- Ends a hold, [owner, made, note, key, [[counter, bucket, amount, live], ...]]: lets its live charges go, and with `takes_back` its others too.
local function end_hold(holds, id, takes_back)
  local held = redis.call('HGET', holds, id)
  if not held then return nil end
  redis.call('HDEL', holds, id)
  local hold = cjson.decode(held)
  for _, part in ipairs(hold[5]) do
    if part[4] == 1 or takes_back then
      local bucket = whole(part[2])
      local left = tonumber(redis.call('HGET', part[1], bucket) or '0') - part[3]
      if left > 0 then redis.call('HSET', part[1], bucket, whole(left)) else redis.call('HDEL', part[1], bucket) end
    end
  end
  return hold
end
"""

# KEYS: cooldowns, holds, identity, then the counters.
# ARGV: JSON {charges: [charge], candidates: [[key, [charges]]], own: hold, leased: hold}, kept seconds, live wait, identity.
_DECIDE = Script(
    _CLOCK
    + _KNOWN
    + _SPANS
    + _END
    + """
if forgot(KEYS[3], ARGV[4]) then return {'forgot'} end
local used = {}
local ask = cjson.decode(ARGV[1])
for _, held in ipairs({'own', 'leased'}) do
  if ask[held] and ask[held] ~= cjson.null then end_hold(KEYS[2], ask[held][1], true) end
end
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
  local parts = {}
  for _, charge in ipairs(charges) do
    if charge[4] ~= 0 then parts[#parts + 1] = {KEYS[charge[1]], bucket_of(charge), charge[2], charge[4] == 2 and 1 or 0} end
  end
  local written = cjson.encode({held[2], now, held[3], key, 0})
  -- An empty list is written by hand: cjson would make it an object.
  redis.call('HSET', KEYS[2], held[1], string.sub(written, 1, -3) .. (#parts > 0 and cjson.encode(parts) or '[]') .. ']')
end
for index, charge in ipairs(ask.charges) do
  local seconds = wait(charge)
  if seconds ~= 0 then
    local result = {'refused', tostring(index - 1), tostring(seconds)}
    for _, one in ipairs(ask.charges) do
      wait(one)
      result[#result + 1] = whole(used[KEYS[one[1]]][1])
    end
    return result
  end
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

# KEYS: holds, identity, then the counters. ARGV: identity, JSON [[hold, [[key index, bucket, difference], ...]], ...].
_SETTLE = Script(
    _CLOCK
    + _KNOWN
    + _END
    + """
if forgot(KEYS[2], ARGV[1]) then return 0 end
for _, one in ipairs(cjson.decode(ARGV[2])) do
  if end_hold(KEYS[1], one[1], false) then
    for _, correction in ipairs(one[2]) do
      local key, bucket = KEYS[correction[1]], whole(correction[2])
      local held = redis.call('HGET', key, bucket)
      if held then redis.call('HSET', key, bucket, whole(math.max(0, tonumber(held) + correction[3]))) end
    end
  end
end
return 1
"""
)

# KEYS: holds, identity. ARGV: identity, then the holds.
_CANCEL = Script(
    _CLOCK
    + _KNOWN
    + _END
    + """
if forgot(KEYS[2], ARGV[1]) then return 0 end
for i = 2, #ARGV do end_hold(KEYS[1], ARGV[i], true) end
return 1
"""
)

# KEYS: owners, news. ARGV: the owner, its news, seconds after which news are old.
_BEAT = Script(
    _CLOCK
    + """
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.6f', now))
redis.call('HSET', KEYS[2], ARGV[1], string.format('%.6f', now) .. ' ' .. ARGV[2])
local rows, result = redis.call('HGETALL', KEYS[2]), {}
for i = 1, #rows, 2 do
  local place = string.find(rows[i + 1], ' ', 1, true)
  if tonumber(string.sub(rows[i + 1], 1, place - 1)) < now - tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[2], rows[i])
  elseif rows[i] ~= ARGV[1] then
    result[#result + 1] = string.sub(rows[i + 1], place + 1)
  end
end
return result
"""
)

# KEYS: holds, owners. ARGV: seconds of silence, seconds after which an owner is forgotten.
_ORPHANS = Script(
    _CLOCK
    + """
local rows, result = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #rows, 2 do
  local hold = cjson.decode(rows[i + 1])
  local seen = tonumber(redis.call('HGET', KEYS[2], hold[1]) or hold[2])
  if seen < now - tonumber(ARGV[1]) then
    result[#result + 1] = rows[i]; result[#result + 1] = hold[3]; result[#result + 1] = hold[4]
    result[#result + 1] = #hold[5] > 0 and cjson.encode(hold[5]) or '[]'
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
_COOL = Script(
    _CLOCK
    + """
local held = redis.call('HGET', KEYS[1], ARGV[1])
local deadline = now + tonumber(ARGV[2])
if held and tonumber(string.match(held, '^%S+')) > deadline then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.6f', deadline) .. ' ' .. ARGV[3])
return 1
"""
)

_LIST = Script(
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

# KEYS: the counters. ARGV: a JSON list of charges, kept seconds.
_CHARGE = Script(
    _CLOCK
    + _SPANS
    + """
for _, charge in ipairs(cjson.decode(ARGV[1])) do
  local key, bucket = KEYS[charge[1]], whole(bucket_of(charge))
  if redis.call('HINCRBY', key, bucket, whole(charge[2])) < 0 then redis.call('HSET', key, bucket, '0') end
  if charge[4] == 0 then redis.call('EXPIRE', key, charge[5] + charge[6] + 5) end
  if charge[4] == 1 and charge[6] > 0 then redis.call('EXPIREAT', key, whole(charge[6] + tonumber(ARGV[2]))) end
end
return 1
"""
)

# KEYS: the claim. ARGV: owner, milliseconds.
_CLAIM = Script("""
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
""")

# KEYS: the claim. ARGV: owner.
_RELEASE = Script("if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end; return 1")

# KEYS: the counters. ARGV: a JSON list of charges.
_USED = Script(
    _CLOCK
    + _SPANS
    + """
local result = {}
for _, charge in ipairs(cjson.decode(ARGV[1])) do result[#result + 1] = whole((counted(charge))) end
return result
"""
)

# KEYS: holds, then the counters. ARGV: a JSON list of charges. Answers what is charged on each, then of each hold its id and parts.
_STANDING = Script(
    _CLOCK
    + _SPANS
    + """
local result = {}
for _, charge in ipairs(cjson.decode(ARGV[1])) do result[#result + 1] = whole((counted(charge))) end
local rows = redis.call('HGETALL', KEYS[1])
for i = 1, #rows, 2 do
  local hold = cjson.decode(rows[i + 1])
  if #hold[5] > 0 then result[#result + 1] = rows[i]; result[#result + 1] = cjson.encode(hold[5]) end
end
return result
"""
)

# KEYS: identity. ARGV: a new one.
_IDENTITY = Script("redis.call('SETNX', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])")

_KINDS = {"window": 0, "period": 1, "live": 2}


def open_store(settings: RuntimeStorage, state: Path) -> Store:  # noqa: ARG001  the signature of every store
    """The store at `storage.runtime.addr`. Raises as `connect`."""
    return RedisStore(connect(settings, HASH_TAG))


class RedisStore:
    """The contract in hashes, one for each counter, whose fields are seconds."""

    epoch = 0

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._identity = ""

    @property
    def took(self) -> float:
        return self._redis.took

    def decide(self, charges: Sequence[Charge], candidates: Sequence[Candidate], own: Hold | None = None, leased: Hold | None = None) -> Decision:
        places = _Places([COOLDOWNS, HOLDS, IDENTITY])
        own_note, leased_note = written_notes(own, leased)
        ask = {
            "charges": places.written(charges),
            "candidates": [[candidate.key, places.written(candidate.charges)] for candidate in candidates],
            "own": [own.id, own.owner, own_note] if own else None,
            "leased": [leased.id, leased.owner, leased_note] if leased else None,
        }
        reply = self._redis.run(_DECIDE, places.keys, [orjson.dumps(ask), KEPT_AFTER_SECONDS, LIVE_RETRY_SECONDS, self._identity])
        if reply[0] == b"forgot":
            raise StoreForgot("Redis: it has lost its counters")
        return _decision(reply, charges, candidates)

    def settle(self, settlements: Sequence[Settlement]) -> None:
        if not settlements:
            return
        places = _Places([HOLDS, IDENTITY])
        told = [
            [one.hold, [[places.of(correction.counter), correction.bucket, correction.difference] for correction in one.corrections if correction.difference]]
            for one in settlements
        ]
        if not self._redis.run(_SETTLE, places.keys, [self._identity, orjson.dumps(told)]):
            raise StoreForgot("Redis: it has lost its counters")

    def cancel(self, holds: Sequence[str]) -> None:
        if not self._redis.run(_CANCEL, [HOLDS, IDENTITY], [self._identity, *holds]):
            raise StoreForgot("Redis: it has lost its counters")

    def beat(self, owner: str, news: bytes) -> Sequence[bytes]:
        return list(self._redis.run(_BEAT, [OWNERS, NEWS], [owner, news, NEWS_SECONDS]))

    def orphans(self, seconds: float) -> Sequence[Orphan]:
        reply = self._redis.run(_ORPHANS, [HOLDS, OWNERS], [seconds, FORGET_OWNERS_SECONDS])
        found = zip(reply[::4], reply[1::4], reply[2::4], reply[3::4], strict=True)
        return [Orphan(id=hold.decode(), note=note.decode(), key=key.decode(), periods=periods_of(_read_parts(parts))) for hold, note, key, parts in found]

    def cool(self, key: str, seconds: float, cause: str) -> None:
        self._redis.run(_COOL, [COOLDOWNS], [key, seconds, cause])

    def cooldowns(self) -> Mapping[str, Cooldown]:
        reply = self._redis.run(_LIST, [COOLDOWNS], [])
        triples = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        return {key.decode(): Cooldown(seconds=float(seconds), cause=cause.decode()) for key, seconds, cause in triples}

    def used(self, charges: Sequence[Charge]) -> Mapping[str, int]:
        if not charges:
            return {}
        places = _Places([])
        reply = self._redis.run(_USED, places.keys, [orjson.dumps(places.written(charges))])
        return {charge.counter: int(used) for charge, used in zip(charges, reply, strict=True)}

    def standing(self, charges: Sequence[Charge]) -> Mapping[str, Standing]:
        places = _Places([HOLDS])
        reply = self._redis.run(_STANDING, places.keys, [orjson.dumps(places.written(charges))])
        used, holds = reply[: len(charges)], reply[len(charges) :]
        held: dict[tuple[str, int], dict[str, int]] = {}
        for hold, parts in zip(holds[::2], holds[1::2], strict=True):
            for part in periods_of(_read_parts(parts)):
                held.setdefault((part.counter, part.bucket), {})[hold.decode()] = part.amount
        return {
            charge.counter: Standing(used=int(total), held=held.get((charge.counter, charge.span.bucket(0)), {}))
            for charge, total in zip(charges, used, strict=True)
        }

    def charge(self, charges: Sequence[Charge]) -> None:
        if charges:
            places = _Places([])
            self._redis.run(_CHARGE, places.keys, [orjson.dumps(places.written(charges)), KEPT_AFTER_SECONDS])

    def claim(self, name: str, owner: str, seconds: float) -> str:
        return str(self._redis.run(_CLAIM, [CLAIM + name], [owner, max(1, round(seconds * 1000))]).decode())

    def release(self, name: str, owner: str) -> None:
        self._redis.run(_RELEASE, [CLAIM + name], [owner])

    def identity(self) -> str:
        self._identity = self._redis.run(_IDENTITY, [IDENTITY], [secrets.token_hex(8)]).decode()
        return self._identity

    def ping(self) -> None:
        self._redis.command("PING")

    def close(self) -> None:
        self._redis.close()


class _Places:
    """The keys of a script, and charges as it reads them."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys
        self._places: dict[str, int] = {}

    def of(self, counter: str) -> int:
        """The place of a counter's key."""
        place = self._places.get(counter)
        if place is None:
            self.keys.append(PREFIX + counter)
            place = self._places[counter] = len(self.keys)
        return place

    def written(self, charges: Iterable[Charge]) -> list[tuple[int, ...]]:
        """Charges in numbers, their counters as the places of the keys."""
        found: list[tuple[int, ...]] = []
        for charge in charges:
            span = charge.span
            how = _EVERY_MINUTE if span is MINUTE else _written_span(span)
            found.append((self.of(charge.counter), charge.amount, charge.limit, *how))
        return found


def _written_span(span: Span) -> tuple[int, int, int]:
    first, second = (span.seconds, span.width) if span.kind == "window" else (span.starts, span.ends)
    return _KINDS[span.kind], first, second


_EVERY_MINUTE = _written_span(MINUTE)  # as most charges are


def _decision(reply: list[bytes], charges: Sequence[Charge], candidates: Sequence[Candidate]) -> Decision:
    verdict = reply[0]
    if verdict == b"refused":
        return Decision(refused=charges[int(reply[1])], retry_after_seconds=_seconds(float(reply[2])), used=_used(charges, reply[3:]))
    skipped = _skipped(reply[3] if verdict == b"granted" else reply[1], candidates)
    if verdict == b"none":
        return Decision(skipped=skipped, retry_after_seconds=shortest_wait(skipped))
    chosen = int(reply[1])
    used = _used((*charges, *candidates[chosen].charges), reply[4:])
    return Decision(chosen=chosen, now=float(reply[2]), skipped=skipped, used=used)


def _used(charges: Sequence[Charge], totals: Sequence[bytes]) -> tuple[Used, ...]:
    return tuple([Used(one.counter, int(total), one.limit) for one, total in zip(charges, totals, strict=True)])


def _skipped(written: bytes, candidates: Sequence[Candidate]) -> tuple[Skipped, ...]:
    if written == NOTHING:
        return ()
    found = []
    for candidate, (reason, seconds) in zip(candidates, orjson.loads(written), strict=False):
        number = reason.removeprefix("limit ")
        named = f"limit: {candidate.charges[int(number)].counter}" if number != reason else reason
        found.append(Skipped(key=candidate.key, reason=named, retry_after_seconds=_seconds(seconds)))
    return tuple(found)


def _seconds(seconds: float) -> float | None:
    return None if seconds < 0 else seconds


def _read_parts(text: bytes) -> list[Part]:
    rows = orjson.loads(text)
    return [Part(counter=key.removeprefix(PREFIX), bucket=int(bucket), amount=int(amount), is_live=live == 1) for key, bucket, amount, live in rows]
