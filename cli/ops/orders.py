"""Carries out what administrators have ordered in the console, in the way that root would: as a command of its own, with its lock, journal and audit log."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from coollm_cli import output
from coollm_cli.ops.lock import ON_BEHALF_OF

from coollm.core.errors import OperationFailed
from coollm.core.orders import ACTIONS, STALE_SECONDS, Order, Orders
from coollm.core.types import ADMIN_ROLES

LONGEST_SECONDS = 6 * 3600.0
TOLD_CHARACTERS = 2000
REFUSED = 3


def run(config: Path, state: Path) -> list[Order]:
    """Carries out every order that waits, the oldest first, and returns them with their ends. One that is broken off is not begun again."""
    orders, ended = Orders(state), []
    with _as_owner(state):
        removed = orders.clear()
    if removed:
        output.warn(f"{removed} files among the orders were none, and are removed")
    while (order := _next(orders, state)) is not None:
        if order.began:
            order = msgspec.structs.replace(order, ended=time.time(), exit_code=1, told="it was broken off: coollm status shows how things stand")
        else:
            order = _carry_out(orders, order, config, state)
        with _as_owner(state):
            orders.end(order)
        ended.append(order)
    return ended


@contextmanager
def _as_owner(state: Path) -> Iterator[None]:
    """As whoever owns the orders, who may have put a link in the place of a directory: what he may not do, root does not do for him (credentials(7))."""
    if os.geteuid() != 0:
        yield
        return
    owner, groups = state.stat(), os.getgroups()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _next(orders: Orders, state: Path) -> Order | None:
    with _as_owner(state):
        return next(iter(orders.waiting()), None)


def _carry_out(orders: Orders, order: Order, config: Path, state: Path) -> Order:
    try:
        words = _allowed(order)
    except OperationFailed as error:
        return msgspec.structs.replace(order, ended=time.time(), exit_code=REFUSED, told=error.message)
    order = msgspec.structs.replace(order, began=time.time())
    with _as_owner(state):
        orders.begin(order)
    # It says who has ordered it in the audit log, and takes nothing of its environment from him.
    environment = {**os.environ, ON_BEHALF_OF: f"{order.by} (console)", "NO_COLOR": "1", "COOLLM_CONFIG": str(config)}
    try:
        done = subprocess.run(  # noqa: S603  its words are of the table of actions, and the number of an instance
            [str(Path(sys.executable).with_name("coollm")), *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
            check=False,
        )
        told, code = f"{done.stdout}\n{done.stderr}".strip(), done.returncode
    except subprocess.TimeoutExpired:
        told, code = f"it did not end within {LONGEST_SECONDS / 3600:.0f} h", 1
    return msgspec.structs.replace(order, ended=time.time(), exit_code=code, told=told[-TOLD_CHARACTERS:])


def _allowed(order: Order) -> tuple[str, ...]:
    """The words of its command. What the gateway has checked is checked again: it is its user's file. Raises OperationFailed."""
    words = order.command()
    if order.role not in ADMIN_ROLES or ADMIN_ROLES.index(order.role) < ADMIN_ROLES.index(ACTIONS[order.action].role):
        raise OperationFailed(f"this needs the role {ACTIONS[order.action].role}")
    if not -60.0 < time.time() - order.at < STALE_SECONDS:
        raise OperationFailed("it was ordered too long ago, and is not carried out any more: order it again")
    return words
