"""Clients and administrators in every kind of database."""

from __future__ import annotations

from pathlib import Path

import pytest

from coollm.identity.stored import ADMIN, CLIENT, ClientFields, StoredAdmin, StoredClient, StoredKey
from coollm.ledger.access_book import AccessBook
from coollm.ledger.book import Ledger


@pytest.fixture(params=["sqlite", "postgresql_url", "mysql_url"])
def book(request: pytest.FixtureRequest, tmp_path: Path) -> AccessBook:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}" if request.param == "sqlite" else request.getfixturevalue(request.param)
    made = AccessBook(Ledger(url), tmp_path)
    found = made.newer(-1)
    for kind, rows in ((CLIENT, found.clients), (ADMIN, found.admins)) if found else ():
        for row in rows:
            made.remove(kind, row.id)
    return made


def key(owner: str, kind: str = CLIENT, name: str = "a", created: int = 1) -> StoredKey:
    return StoredKey(digest=f"{owner}{name}".encode().hex().ljust(64, "0"), kind=kind, owner=owner, prefix=f"coo_{owner}{name}", created_ms=created)


def test_what_is_kept_comes_back_and_each_change_is_a_revision(book: AccessBook, tmp_path: Path) -> None:
    fields = ClientFields(allowed_models=("gpt-*",), description="žluťoučký kůň")
    client = StoredClient(id="web", fields=fields, created_ms=5, by="ann user=root")
    assert book.add_client(client, key("web"))
    assert not book.add_client(client, key("web", name="b"))
    assert book.add_admin(StoredAdmin(id="ann", role="operator", created_ms=6), key("ann", ADMIN))
    first = book.newer(-1)
    assert first is not None
    assert first.find_client("web") == client
    assert [one.prefix for one in first.keys_of(CLIENT, "web")] == ["coo_weba"]
    assert book.newer(first.revision) is None
    book.put_client(StoredClient(id="web", fields=fields, created_ms=5, revoked_ms=9))
    second = book.newer(first.revision)
    assert second is not None
    assert second.find_client("web").revoked_ms == 9  # type: ignore[union-attr]
    assert AccessBook(book._ledger, tmp_path).remembered() == second


def test_old_keys_end_when_they_are_to(book: AccessBook) -> None:
    assert book.add_client(StoredClient(id="web", fields=ClientFields(), created_ms=1), key("web"))
    later = 4_000_000_000_000
    book.replace_key(key("web", name="b", created=2), later)
    book.replace_key(key("web", name="c", created=3), later + 5)
    found = book.newer(-1)
    assert found is not None
    assert [(one.prefix[-1], one.expires_ms) for one in found.keys_of(CLIENT, "web")] == [("a", later), ("b", later + 5), ("c", 0)]
    book.replace_key(key("web", name="d", created=4), 1)
    found = book.newer(-1)
    assert found is not None
    assert [one.prefix[-1] for one in found.keys_of(CLIENT, "web")] == ["d"]


def test_uses_add_up(book: AccessBook) -> None:
    assert book.add_client(StoredClient(id="web", fields=ClientFields(), created_ms=1), key("web"))
    book.note_uses({"coo_weba": (3, 100)})
    book.note_uses({"coo_weba": (4, 200)})
    assert book.uses()["coo_weba"] == (7, 200)
    book.remove(CLIENT, "web")
    assert "coo_weba" not in book.uses()
