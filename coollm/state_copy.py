"""Copies of what a gateway keeps in databases, for backups: a process of its own, which the command starts.

    python -m coollm.state_copy save DIR          the ledger to DIR/ledger, the counters to DIR/store
    python -m coollm.state_copy rows DIR          how many rows the copy has, as it stands
    python -m coollm.state_copy check DIR         DIR/ledger/ledger.sqlite in any case; its rows, once all of it is sound
    python -m coollm.state_copy clients DIR       the clients, administrators and limits of the ledger to DIR/ledger
    python -m coollm.state_copy adopt DIR         DIR/ledger/ledger.sqlite becomes this host's own
    python -m coollm.state_copy load DIR PART     its rows in the place of those of the ledger's database; PART is `ledger` or `clients`
    python -m coollm.state_copy counters DIR      the counters into a Redis that has none
    python -m coollm.state_copy guest DIR         a new key for a client of DIR/ledger/ledger.sqlite, which is a copy

$COOLLM_CONFIG and $COOLLM_STATE_DIR say whose. What came of it is a JSON object on standard output, and so is what went wrong: `error`, `hint`, `exit`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy.exc import SQLAlchemyError

from coollm.core.background import give_way
from coollm.core.clock import now_ms
from coollm.core.config.load import InForce, load_in_force
from coollm.core.errors import CheckFailed, CoollmError, OperationFailed, UsageError
from coollm.core.paths import find_config, state_directory
from coollm.identity.stored import CLIENT, StoredKey, keyed_digest, new_key
from coollm.ledger import copy
from coollm.ledger.access_book import AccessBook
from coollm.ledger.book import FILE_NAME as LEDGER_FILE
from coollm.ledger.book import Ledger, open_ledger
from coollm.stores import redis_copy

RUNTIME_FILE = "runtime.sqlite"
DAY_MS = 86_400_000

Told = dict[str, Any]


class Place:
    """A directory with copies, and the gateway that they are of or for."""

    def __init__(self, directory: Path) -> None:
        self.ledger = directory / "ledger"
        self.store = directory / "store"
        self.state = state_directory(find_config())

    def in_force(self) -> InForce:
        """What the gateway serves. Raises CoollmError."""
        return load_in_force(find_config(), self.state)

    @contextlib.contextmanager
    def opened(self) -> Any:
        """The copy of the ledger."""
        ledger = Ledger(f"sqlite:///{self.ledger / LEDGER_FILE}")
        try:
            yield ledger
        finally:
            ledger.close()

    @contextlib.contextmanager
    def live(self) -> Any:
        """The gateway's own ledger."""
        ledger = open_ledger(self.in_force().settings, self.state)
        try:
            yield ledger
        finally:
            ledger.close()


def save(place: Place) -> Told:
    """Raises CoollmError, SQLAlchemyError and OSError, as all of them."""
    settings = place.in_force().settings
    place.ledger.mkdir(parents=True, exist_ok=True)
    place.store.mkdir(parents=True, exist_ok=True)
    told: Told = {"ledger": None, "store": settings.storage.runtime.type, "keys": 0}
    with place.live() as ledger:
        file = ledger.file
        if file is None:
            copy.dump(ledger, place.ledger)
            told["ledger"] = ledger.dialect
        elif file.exists():
            copy.save_sqlite(file, place.ledger / LEDGER_FILE)
            told["ledger"] = "sqlite"
    if settings.storage.runtime.type == "redis":
        told["keys"] = redis_copy.save(settings.storage.runtime, place.store / redis_copy.FILE_NAME)
    elif settings.storage.runtime.type == "sqlite" and (place.state / RUNTIME_FILE).exists():
        copy.save_sqlite(place.state / RUNTIME_FILE, place.store / RUNTIME_FILE)
    return told


def clients(place: Place) -> Told:
    """See above."""
    place.ledger.mkdir(parents=True, exist_ok=True)
    with place.live() as source, place.opened() as target:
        copy.replace(source, target, copy.OF_CLIENTS)
    return {}


def rows(place: Place) -> Told:
    """How many rows a copy has, as it stands."""
    if (place.ledger / copy.TABLES).is_dir():
        return {"rows": copy.dumped_counts(place.ledger)}
    if not (place.ledger / LEDGER_FILE).exists():
        return {"rows": {}}
    return {"rows": copy.sqlite_counts(place.ledger / LEDGER_FILE)}


def check(place: Place) -> Told:
    """See above."""
    if (place.ledger / copy.TABLES).is_dir() and not (place.ledger / LEDGER_FILE).exists():
        copy.make_sqlite(place.ledger)
    told: Told = {"rows": {}, "totals": {}, "keys": 0}
    if (place.ledger / LEDGER_FILE).exists():
        copy.check_sqlite(place.ledger / LEDGER_FILE)
        told["rows"] = copy.sqlite_counts(place.ledger / LEDGER_FILE)
    if (place.store / RUNTIME_FILE).exists():
        copy.check_sqlite(place.store / RUNTIME_FILE)
    if (place.store / redis_copy.FILE_NAME).exists():
        told["keys"] = redis_copy.count(place.store / redis_copy.FILE_NAME)
    return told


def adopt(place: Place) -> Told:
    """See above."""
    with place.opened() as ledger:
        copy.adopt(ledger)
    copy.fold(place.ledger / LEDGER_FILE)
    return {}


def load(place: Place, part: str) -> Told:
    """See above."""
    with place.opened() as source, place.live() as target:
        copy.replace(source, target, copy.OF_CLIENTS if part == "clients" else None)
    return {}


def counters(place: Place) -> Told:
    """See above. `written` is None where Redis has counters of its own."""
    return {"written": redis_copy.load(place.in_force().settings.storage.runtime, place.store / redis_copy.FILE_NAME)}


def guest(place: Place) -> Told:
    """See above. None where no client may ask from anywhere now."""
    hash_key = place.in_force().hash_key
    with place.opened() as ledger:
        book = AccessBook(ledger, place.state)
        stored, now = book.newer(-1), now_ms()
        fit = [
            one.id
            for one in (stored.clients if stored else ())
            if not one.revoked_ms and not one.fields.allowed_addresses and not (one.fields.expires_at and one.fields.expires_at.timestamp() * 1000 < now)
        ]
        if not fit or hash_key is None:
            return {"guest": None}
        key, prefix = new_key(CLIENT)
        book.replace_key(StoredKey(digest=keyed_digest(hash_key, key), kind=CLIENT, owner=fit[0], prefix=prefix, created_ms=now), now + DAY_MS)
        book.newer(-1)  # remembers it, too: a gateway that starts knows it from its first request on
    copy.fold(place.ledger / LEDGER_FILE)
    return {"guest": {"id": fit[0], "key": key}}


COMMANDS: dict[str, Callable[..., Told]] = {
    "save": save,
    "rows": rows,
    "check": check,
    "clients": clients,
    "adopt": adopt,
    "load": load,
    "counters": counters,
    "guest": guest,
}


def main(arguments: list[str]) -> int:
    """Does one of the commands. Returns the exit code."""
    give_way()
    try:
        if len(arguments) < 2 or arguments[0] not in COMMANDS:
            raise UsageError(f"expected one of {', '.join(COMMANDS)}, and a directory")
        told = COMMANDS[arguments[0]](Place(Path(arguments[1])), *arguments[2:])
    except CoollmError as error:
        return _failed(error)
    except SQLAlchemyError as error:
        return _failed(OperationFailed(f"the ledger's database does not do it ({type(error).__name__})", "see that storage.ledger.url answers, and has room"))
    except OSError as error:
        return _failed(OperationFailed(f"{error.filename or 'a file'}: {error.strerror or error}", "make room on its disk"))
    sys.stdout.buffer.write(orjson.dumps({"ok": True, **told}, option=orjson.OPT_NON_STR_KEYS))
    return 0


def _failed(error: CoollmError) -> int:
    kind = "check" if isinstance(error, CheckFailed) else ""
    sys.stdout.buffer.write(orjson.dumps({"ok": False, "error": error.message, "hint": error.hint, "exit": error.exit_code, "kind": kind}))
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
