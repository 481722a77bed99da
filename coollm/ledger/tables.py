"""The tables of the ledger, the same in SQLite, PostgreSQL and MySQL, and their versions.

Source: https://docs.sqlalchemy.org/en/20/core/.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Integer, MetaData, String, Table

metadata = MetaData()

_COUNTS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")

usage = Table(
    "usage",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("at_ms", BigInteger, nullable=False, index=True),
    Column("client", String(64), nullable=False),
    Column("team", String(64), nullable=False),
    Column("provider", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("route", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("ending", String(16), nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in _COUNTS),
    Column("cost_nano_usd", BigInteger),
    Column("estimated", Boolean, nullable=False),
)

SUMS = ("requests", "errors", *_COUNTS, "cost_nano_usd", "estimated", "unpriced")
"""What is added up for each hour. `estimated` and `unpriced` count requests."""

hours = Table(
    "usage_hours",
    metadata,
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("client", String(64), primary_key=True),
    Column("provider", String(64), primary_key=True),
    Column("model", String(190), primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in SUMS),
)

shipped = Table(
    "shipped",
    metadata,
    Column("log", String(190), primary_key=True),
    Column("inode", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)
"""How much of each usage log is in the ledger."""

version = Table("ledger_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

VERSION = 1
