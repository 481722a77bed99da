"""Hosts for tests of every directory: one network, and one wheelhouse, for each run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.host.hosts import Network, TestHost, why_not

ROOT = Path(__file__).resolve().parent.parent.parent
WHEELHOUSE = "/srv/wheelhouse"
RELEASES = "/srv/releases"


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    made = Network(tmp_path_factory.mktemp("hosts"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What scripts/release makes of this checkout."""
    target = tmp_path_factory.mktemp("release")
    subprocess.run([ROOT / "scripts" / "release", target], check=True, capture_output=True, cwd=ROOT)
    return target / "wheelhouse"


@pytest.fixture(scope="session")
def releases(wheelhouse: Path) -> Path:
    """Where tests put wheels of other releases, as a host sees it under /srv/releases."""
    target = wheelhouse.parent / "releases"
    target.mkdir()
    return target


@pytest.fixture(scope="session")
def new_host(network: Network, wheelhouse: Path, releases: Path) -> Iterator[Callable[[], TestHost]]:
    """Boots a bare host with the wheelhouse, on which coollm is bootstrapped in a virtual environment."""
    made: list[TestHost] = []

    def boot() -> TestHost:
        host = TestHost(network, [(wheelhouse, WHEELHOUSE), (releases, RELEASES)])
        made.append(host)
        return host

    yield boot
    for host in made:
        host.close()
