"""The tables of the ledger, the same in SQLite, PostgreSQL and MySQL, as the newest version has them.

Source: https://docs.sqlalchemy.org/en/20/core/.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Integer, MetaData, String, Table, Text, false

metadata = MetaData()

COUNTS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens", "output_tokens", "reasoning_tokens")
"""Tokens, in the disjoint buckets of Usage."""

usage = Table(
    "usage",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("at_ms", BigInteger, nullable=False, index=True),
    Column("charged_ms", BigInteger, nullable=False, server_default="0"),
    Column("client", String(64), nullable=False),
    Column("team", String(64), nullable=False),
    Column("provider", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("route", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("ending", String(16), nullable=False),
    *(Column(name, BigInteger, nullable=False, server_default="0") for name in COUNTS),
    Column("cost_nano_usd", BigInteger),
    Column("saved_nano_usd", BigInteger, nullable=False, server_default="0"),
    Column("cached", Boolean, nullable=False, server_default=false()),
    Column("second", Boolean, nullable=False, server_default=false()),
    Column("service_tier", String(16), nullable=False, server_default=""),
    Column("estimated", Boolean, nullable=False),
    Column("latency_ms", BigInteger, nullable=False, server_default="0"),
    Column("first_token_ms", BigInteger, nullable=False, server_default="0"),
    Column("error", String(64), nullable=False, server_default=""),
)

SUMS = ("requests", "errors", *COUNTS, "cost_nano_usd", "saved_nano_usd", "cached", "estimated", "unpriced", "latency_ms")
"""What is added up for each hour and day. `cached`, `estimated` and `unpriced` count requests."""


def _sums(name: str, time: str) -> Table:
    return Table(
        name,
        metadata,
        Column(time, BigInteger, primary_key=True, autoincrement=False),
        Column("client", String(64), primary_key=True),
        Column("provider", String(64), primary_key=True),
        Column("model", String(190), primary_key=True),
        *(Column(one, BigInteger, nullable=False, server_default="0") for one in SUMS),
    )


hours = _sums("usage_hours", "hour")
"""Sums by the hour of the epoch."""

days = _sums("usage_days", "day")
"""Sums by the day of the epoch, UTC."""

overrides = Table(
    "limit_overrides",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("id", String(190), primary_key=True),
    Column("fields", Text, nullable=False),
    Column("budget_since", BigInteger, nullable=False),
    Column("set_ms", BigInteger, nullable=False),
)
"""Limits that were set since the configuration was read."""

revisions = Table(
    "revisions",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("revision", BigInteger, nullable=False),
)
"""Goes up with each change of what it names."""

clients = Table(
    "clients",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("fields", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("revoked_ms", BigInteger, nullable=False),
    Column("made_by", String(128), nullable=False),
)
"""Clients that were made beside the configuration's."""

admins = Table(
    "admins",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("revoked_ms", BigInteger, nullable=False),
    Column("made_by", String(128), nullable=False),
)
"""Administrators."""

access_keys = Table(
    "access_keys",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("prefix", String(32), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
)
"""Keys of both, as keyed hashes."""

access_key_uses = Table(
    "access_key_uses",
    metadata,
    Column("prefix", String(32), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("last_used_ms", BigInteger, nullable=False),
)
"""How often each key was used, and when last."""

console_sessions = Table(
    "console_sessions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("digest", String(64), nullable=False, index=True),
    Column("former_digest", String(64), nullable=False, index=True),
    Column("rotated_ms", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("name", String(1024), nullable=False),
    Column("role", String(16), nullable=False),
    Column("proof", String(64), nullable=False),
    Column("form_token", String(64), nullable=False),
    Column("notice", Text, nullable=False),
    Column("began_ms", BigInteger, nullable=False),
    Column("used_ms", BigInteger, nullable=False),
    Column("confirmed_ms", BigInteger, nullable=False),
)
"""Who has signed in to the console, by hashes of what the browser keeps."""

second_factors = Table(
    "second_factors",
    metadata,
    Column("who", String(64), primary_key=True),
    Column("secret", Text, nullable=False),
    Column("is_confirmed", Boolean, nullable=False),
    Column("last_step", BigInteger, nullable=False),
)
"""The second factor of administrators, by a hash of the name; its secret is encrypted."""

erasures = Table(
    "erasures",
    metadata,
    Column("client", String(64), primary_key=True),
    Column("at_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("alias", String(64), nullable=False),
)
"""Clients whose name was erased, by a hash of it: what they used until then has the alias, also where it is shipped again."""

shipped = Table(
    "shipped",
    metadata,
    Column("log", String(190), primary_key=True),
    Column("inode", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)
"""How much of each usage log is in the ledger."""

version = Table("ledger_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False))
