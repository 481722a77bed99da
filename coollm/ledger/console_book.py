"""Who has signed in to the console, and the second factors of administrators, in the ledger's database: every worker and host that shares it knows them."""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Any

import msgspec
from sqlalchemy import Row, delete, insert, or_, select, update

from coollm.core.types import AdminRole
from coollm.ledger.book import Ledger
from coollm.ledger.tables import console_sessions, second_factors

FORMER_MS = 60_000
"""So long a token goes on that was replaced: what was asked for with it may still be under way."""

LONGEST_NOTICE = 2000


class ConsoleSession(msgspec.Struct, frozen=True):
    """Somebody who has signed in; times are in milliseconds of the epoch. `proof` stands for what he knew, `form_token` goes with every form, and
    `confirmed_ms` is when he last said who he is.
    """

    id: str
    kind: str
    name: str
    role: AdminRole
    proof: str
    form_token: str
    notice: str
    began_ms: int
    used_ms: int
    confirmed_ms: int
    rotated_ms: int


class SecondFactor(msgspec.Struct, frozen=True):
    """A secret as it is kept, whether its owner has shown that he has it, and the last step of time that it was used in."""

    secret: str
    is_confirmed: bool
    last_step: int


class ConsoleBook:
    """Reads and writes both. Its calls block; they raise as `Ledger.prepare`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def begin(self, kind: str, name: str, role: AdminRole, proof: str, oldest_ms: int) -> tuple[str, ConsoleSession]:
        """A token that nobody had before, and its session. Those that began before `oldest_ms` are forgotten."""
        token, now = secrets.token_urlsafe(32), _now()
        made = ConsoleSession(
            id=secrets.token_hex(8),
            kind=kind,
            name=name,
            role=role,
            proof=proof,
            form_token=secrets.token_urlsafe(32),
            notice="",
            began_ms=now,
            used_ms=now,
            confirmed_ms=now,
            rotated_ms=now,
        )
        with self._ledger.writing() as connection:
            connection.execute(delete(console_sessions).where(console_sessions.c.began_ms < oldest_ms))
            connection.execute(insert(console_sessions).values(**msgspec.structs.asdict(made), digest=_digest(token), former_digest=""))
        return token, made

    def find(self, token: str) -> ConsoleSession | None:
        """Whose token it is."""
        digest = _digest(token)
        former = (console_sessions.c.former_digest == digest) & (console_sessions.c.rotated_ms > _now() - FORMER_MS)
        with self._ledger.reading() as connection:
            row = connection.execute(select(console_sessions).where(or_(console_sessions.c.digest == digest, former))).first()
        return None if row is None else _session(row)

    def rotate(self, session: ConsoleSession, token: str) -> str | None:
        """Another token for the session; None if somebody else has just rotated it."""
        made = secrets.token_urlsafe(32)
        own = (console_sessions.c.id == session.id) & (console_sessions.c.digest == _digest(token))
        with self._ledger.writing() as connection:
            values = {"digest": _digest(made), "former_digest": _digest(token), "rotated_ms": _now()}
            changed = connection.execute(update(console_sessions).where(own).values(**values)).rowcount
        return made if changed else None

    def set(self, session: ConsoleSession, **values: Any) -> None:
        """Notes of a session when it was used or confirmed, or what is to be told with its next page."""
        if "notice" in values:
            values["notice"] = values["notice"][:LONGEST_NOTICE]
        with self._ledger.writing() as connection:
            connection.execute(update(console_sessions).where(console_sessions.c.id == session.id).values(**values))

    def end(self, session: ConsoleSession) -> None:
        """It is no session any more."""
        with self._ledger.writing() as connection:
            connection.execute(delete(console_sessions).where(console_sessions.c.id == session.id))

    def end_all_of(self, name: str) -> int:
        """None of somebody's are any more. Returns how many there were."""
        with self._ledger.writing() as connection:
            return connection.execute(delete(console_sessions).where(console_sessions.c.name == name)).rowcount

    def second_factor(self, name: str) -> SecondFactor | None:
        """Somebody's; None if there is none."""
        with self._ledger.reading() as connection:
            row = connection.execute(select(second_factors).where(second_factors.c.who == _digest(name))).first()
        return None if row is None else SecondFactor(row.secret, bool(row.is_confirmed), int(row.last_step))

    def offer_second_factor(self, name: str, secret: str) -> None:
        """Keeps a secret that is not asked for until its owner has shown that he has it. One that is asked for already stays."""
        with self._ledger.writing() as connection:
            mine = second_factors.c.who == _digest(name)
            connection.execute(delete(second_factors).where(mine & second_factors.c.is_confirmed.is_(False)))
            if connection.execute(select(second_factors.c.who).where(mine)).first() is None:
                connection.execute(insert(second_factors).values(who=_digest(name), secret=secret, is_confirmed=False, last_step=0))

    def use_second_factor(self, name: str, step: int) -> bool:
        """Takes a step of time that was shown, and asks for one from now on. Whether it is later than the last: each counts once."""
        mine = (second_factors.c.who == _digest(name)) & (second_factors.c.last_step < step)
        with self._ledger.writing() as connection:
            return connection.execute(update(second_factors).where(mine).values(last_step=step, is_confirmed=True)).rowcount == 1

    def drop_second_factor(self, name: str) -> bool:
        """It is not asked for any more. Whether there was one."""
        with self._ledger.writing() as connection:
            return connection.execute(delete(second_factors).where(second_factors.c.who == _digest(name))).rowcount == 1


def _session(row: Row[Any]) -> ConsoleSession:
    return ConsoleSession(**{name: getattr(row, name) for name in ConsoleSession.__struct_fields__})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _now() -> int:
    return int(time.time() * 1000)
