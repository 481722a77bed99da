"""A ledger in every database that it is made for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coollm.ledger.book import Ledger


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    url = f"sqlite:///{tmp_path}/ledger.sqlite" if request.param == "sqlite" else request.getfixturevalue(f"{request.param}_url")
    one = Ledger(url)
    one.clear()
    yield one
    one.close()
