"""One suite over every row of STORES: the same promises, whichever store keeps them."""

from __future__ import annotations

import contextlib
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coollm.core.config.schema import RuntimeStorage
from coollm.core.registry import STORES
from coollm.core.secrets import Secret
from coollm.stores.base import LIVE, Candidate, Charge, Correction, Hold, Settlement, Span, Store, StoreError, StoreForgot, seconds_until_room
from coollm.stores.redis import HASH_TAG
from coollm.stores.redis_client import connect
from tests.conftest import clean_environment, free_port, redis_server, running, wait_for


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real cluster of three masters, each with its replica."""
    home = tmp_path_factory.mktemp("cluster")
    ports = [free_port() for _ in range(6)]
    with contextlib.ExitStack() as stack:
        for port in ports:
            (home / str(port)).mkdir()
            bus = free_port()
            stack.enter_context(redis_server(home / str(port), port, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", str(bus)))
        nodes = [f"127.0.0.1:{port}" for port in ports]
        command = ["redis-cli", "--cluster", "create", *nodes, "--cluster-replicas", "1", "--cluster-yes"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        info = ["redis-cli", "-p", str(ports[0]), "cluster", "info"]
        wait_for(lambda: "cluster_state:ok" in subprocess.run(info, capture_output=True, text=True).stdout, 20, "the cluster")
        yield ",".join(nodes[:2])


@pytest.fixture(scope="session")
def redis_sentinel(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[str]:
    """A real sentinel that watches a real Redis."""
    home, port = tmp_path_factory.mktemp("sentinel"), free_port()
    (home / "sentinel.conf").write_text(f"port {port}\nbind 127.0.0.1\ndir {home}\nsentinel monitor counters {redis_url.replace(':', ' ')} 1\n")
    with running(["redis-server", str(home / "sentinel.conf"), "--sentinel"], home / "words.txt", clean_environment()):
        wait_for(lambda: "+monitor master counters" in (home / "words.txt").read_text(), what="the sentinel")
        yield f"127.0.0.1:{port}"


# What the README gives the gateway's own user of Redis.
RIGHTS = "~{coollm}:* ~{coollm-cache}:* -@all +@read +@write +@scripting +@connection +time"


@pytest.fixture(scope="session")
def redis_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis that speaks TLS alone, with a certificate of its own authority, to a user who may do no more than is needed."""
    home, port = tmp_path_factory.mktemp("tls"), free_port()
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(home / "key.pem"), "-out", str(home / "ca.pem")]
    subprocess.run(make, check=True, capture_output=True, timeout=60)
    files = ["--tls-cert-file", str(home / "ca.pem"), "--tls-key-file", str(home / "key.pem"), "--tls-auth-clients", "no"]
    users = ["default off", f"coollm on >a-redis-password {RIGHTS}", "cleaner on >a-cleaner-password ~* +flushall +@connection"]
    words = [word for user in users for word in ("--user", *user.split())]
    with redis_server(home, 0, "--tls-port", str(port), *files, *words):
        yield f"127.0.0.1:{port} {home / 'ca.pem'}"


@pytest.fixture(params=[*STORES.names(), "redis cluster", "redis sentinel", "redis tls"])
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Opens the store under test; again for another worker's view of it."""
    kind, _, mode = request.param.partition(" ")
    settings = RuntimeStorage(type=kind)
    if kind == "redis":
        address = request.getfixturevalue(f"redis_{mode or 'url'}")
        settings = RuntimeStorage(type="redis", addr=address, mode=mode if mode in ("cluster", "sentinel") else "single", master_name="counters")
    if mode == "tls":
        address, ca_file = settings.addr.split()
        common = {"type": "redis", "addr": address, "tls": True, "ca_file": ca_file}
        settings = RuntimeStorage(**common, username="coollm", password=Secret("a-redis-password"))
        connect(RuntimeStorage(**common, username="cleaner", password=Secret("a-cleaner-password")), HASH_TAG).command("FLUSHALL")
    opened: list[Store] = []

    def opener() -> Store:
        if request.param == "memory" and opened:
            return opened[0]
        opened.append(STORES[kind](settings, tmp_path))
        return opened[-1]

    if kind == "redis" and mode != "tls":
        opener()._redis.command("FLUSHALL")  # type: ignore[attr-defined]
    yield opener
    for store in opened:
        store.close()


@pytest.fixture
def store(open_again: Any) -> Store:
    return open_again()


def settle(store: Store, hold: str, *corrections: Correction) -> None:
    store.settle([Settlement(hold=hold, corrections=corrections)])


def charge(counter: str, amount: int = 1, limit: int = 10) -> Charge:
    return Charge(counter=counter, amount=amount, limit=limit)


def only(key: str, *charges: Charge) -> Candidate:
    return Candidate(key=key, charges=charges)


def test_the_first_candidate_with_room_is_chosen(store: Store) -> None:
    full, free = only("a", charge("a", 5, 4)), only("b", charge("b", 5, 10))
    decision = store.decide((), [full, free])
    assert decision.chosen == 1
    assert [(skipped.key, skipped.reason, skipped.retry_after_seconds) for skipped in decision.skipped] == [("a", "limit: a", None)]
    assert [(used.counter, used.used, used.limit) for used in decision.used] == [("b", 5, 10)]
    assert store.used([charge("a"), charge("b")]) == {"a": 0, "b": 5}


def test_nothing_is_charged_when_the_client_has_no_room(store: Store) -> None:
    assert store.decide([charge("c", 10)], [only("a", charge("a"))]).chosen == 0
    decision = store.decide([charge("c", 1)], [only("a", charge("a"))])
    assert (decision.chosen, decision.refused) == (None, charge("c", 1))
    assert decision.retry_after_seconds is not None
    assert 55 < decision.retry_after_seconds <= 61
    assert store.used([charge("c"), charge("a")]) == {"c": 10, "a": 1}


def test_nothing_is_charged_when_no_candidate_has_room(store: Store) -> None:
    store.decide((), [only("a", charge("a", 10))])
    decision = store.decide([charge("c")], [only("a", charge("a"))])
    assert decision.chosen is None
    assert decision.refused is None
    assert decision.retry_after_seconds is not None
    assert 55 < decision.retry_after_seconds <= 61
    assert store.used([charge("c")]) == {"c": 0}


def test_what_never_fits_has_no_wait(store: Store) -> None:
    assert store.decide([charge("c", 11, 10)], [only("a")]).retry_after_seconds is None


def test_settling_frees_what_was_not_used(store: Store) -> None:
    decision = store.decide([charge("tokens", 10)], [only("a")], Hold(id="h", owner="me"))
    for _ in range(2):
        settle(store, "h", Correction(counter="tokens", bucket=int(decision.now), difference=-7))
        assert store.used([charge("tokens")]) == {"tokens": 3}, "settled twice is settled once: an answer may have been lost"
    assert store.decide([charge("tokens", 7)], [only("a")], Hold(id="h2", owner="me")).chosen == 0
    settle(store, "h2", Correction(counter="tokens", bucket=int(decision.now), difference=5))
    assert store.used([charge("tokens")]) == {"tokens": 15}, "more than was reserved counts too"


def test_settling_never_goes_below_zero_or_wakes_an_old_bucket(store: Store) -> None:
    decision = store.decide([charge("t", 3)], [only("a")], Hold(id="h", owner="me"))
    bucket = int(decision.now)
    settle(store, "h", Correction(counter="t", bucket=bucket, difference=-9), Correction(counter="t", bucket=bucket - 500, difference=4))
    assert store.used([charge("t")]) == {"t": 0}


def test_a_key_that_cools_is_passed_over(store: Store) -> None:
    store.cool("a", 30, "rate_limited")
    decision = store.decide((), [only("a"), only("b")])
    assert decision.chosen == 1
    assert decision.skipped[0].reason == "cooling: rate_limited"
    assert store.cooldowns()["a"].cause == "rate_limited"


def test_the_longest_cooldown_wins(store: Store) -> None:
    store.cool("a", 100, "quota_exhausted")
    store.cool("a", 1, "rate_limited")
    cooldown = store.cooldowns()["a"]
    assert cooldown.cause == "quota_exhausted"
    assert 90 < cooldown.seconds <= 100
    decision = store.decide((), [only("a")])
    assert decision.retry_after_seconds is not None
    assert 90 < decision.retry_after_seconds <= 100


def test_a_cooldown_ends_by_itself(store: Store) -> None:
    store.cool("a", 0.05, "timeout")
    time.sleep(0.1)
    assert store.cooldowns() == {}
    assert store.decide((), [only("a")]).chosen == 0


def test_state_is_shared_by_all_who_open_the_store(open_again: Any) -> None:
    first, second = open_again(), open_again()
    first.decide([charge("c", 4)], [only("a")])
    first.cool("k", 50, "timeout")
    assert second.used([charge("c")]) == {"c": 4}
    assert "k" in second.cooldowns()


def test_a_limit_is_never_exceeded_by_concurrent_workers(open_again: Any, request: pytest.FixtureRequest) -> None:
    limit, admitted = 100, []
    stores = [open_again() for _ in range(1 if "sqlite" in request.node.name else 4)]

    def hammer(store: Store) -> None:
        for _ in range(60):
            if store.decide([charge("shared", 1, limit)], [only("a", charge("key", 1, 1000))]).chosen == 0:
                admitted.append(1)

    if "sqlite" in request.node.name:
        hammer_in_processes(open_again, limit)
        return
    threads = [threading.Thread(target=hammer, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == limit
    assert stores[0].used([charge("shared"), charge("key")]) == {"shared": limit, "key": limit}


def hammer_in_processes(open_again: Any, limit: int) -> None:
    """A SQLite connection belongs to one thread, as in a worker, so its workers are processes."""
    import sys

    store = open_again()
    code = """
import sys
from pathlib import Path
from coollm.stores.base import Candidate, Charge
from coollm.stores.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
ask = [Charge(counter="shared", amount=1, limit=int(sys.argv[2]))], [Candidate(key="a")]
print(sum(store.decide(*ask).chosen == 0 for _ in range(60)))
"""
    command = [sys.executable, "-c", code, str(store._file.path), str(limit)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sum(int(process.communicate()[0]) for process in processes) == limit
    assert store.used([charge("shared")]) == {"shared": limit}


TOTAL = Span(kind="period", starts=100)


def test_a_live_charge_counts_until_its_hold_ends(store: Store) -> None:
    running = Charge(counter="running", amount=1, limit=2, span=LIVE)
    for number in range(2):
        assert store.decide([running], [only("a")], Hold(id=f"h{number}", owner="me")).chosen == 0
    refused = store.decide([running], [only("a")], Hold(id="h2", owner="me"))
    assert (refused.refused, refused.retry_after_seconds) == (running, 1.0)
    settle(store, "h0")
    settle(store, "h0")
    assert store.used([running]) == {"running": 1}, "letting go twice is letting go once"
    assert store.decide([running], [only("a")], Hold(id="h2", owner="me")).chosen == 0
    settle(store, "h1")
    settle(store, "h2")
    assert store.used([running]) == {"running": 0}


def test_a_period_is_counted_apart_from_the_next(store: Store) -> None:
    ends = int(time.time()) + 100
    now, after = Span(kind="period", starts=ends - 200, ends=ends), Span(kind="period", starts=ends, ends=ends + 200)
    assert store.decide((), [only("a", Charge(counter="money", amount=7, limit=10, span=now))], None, Hold(id="h", owner="me")).chosen == 0
    full = store.decide((), [only("a", Charge(counter="money", amount=4, limit=10, span=now))])
    assert full.chosen is None
    assert full.retry_after_seconds == pytest.approx(100, abs=2)
    settle(store, "h", Correction(counter="money", bucket=ends - 200, difference=-5))
    assert store.used([Charge(counter="money", amount=0, limit=10, span=now)]) == {"money": 2}
    assert store.decide((), [only("a", Charge(counter="money", amount=10, limit=10, span=after))]).chosen == 0


def test_what_has_no_end_has_no_wait(store: Store) -> None:
    assert store.decide((), [only("a", Charge(counter="m", amount=10**12, limit=10**12, span=TOTAL))]).chosen == 0
    assert store.used([Charge(counter="m", amount=0, limit=1, span=TOTAL)]) == {"m": 10**12}
    assert store.decide((), [only("a", Charge(counter="m", amount=1, limit=10**12, span=TOTAL))]).retry_after_seconds is None


def test_a_wide_window(store: Store) -> None:
    session = Span(seconds=3600, width=60)
    assert store.decide((), [only("a", Charge(counter="s", amount=9, limit=10, span=session))]).chosen == 0
    wait = store.decide((), [only("a", Charge(counter="s", amount=2, limit=10, span=session))]).retry_after_seconds
    assert wait is not None
    assert 3595 < wait <= 3660


def test_what_a_dead_worker_held_is_found_once_and_let_go(open_again: Any) -> None:
    first, second = open_again(), open_again()
    running = Charge(counter="running", amount=1, limit=5, span=LIVE)
    tokens = charge("tokens", 6)
    for owner in ("dead", "living"):
        first.beat(owner, b"")
    first.decide(
        [running, tokens], [only("a", charge("key"))], Hold(id="r1", owner="dead", note=lambda: "n1"), Hold(id="r1/1", owner="dead", note=lambda: "n2")
    )
    first.decide([running], [only("a")], Hold(id="r2", owner="living", note=lambda: "n3"))
    assert second.orphans(30) == []
    time.sleep(0.3)
    second.beat("living", b"")
    for one in (first, second):
        assert {(orphan.id, orphan.note) for orphan in one.orphans(0.2)} == {("r1", "n1"), ("r1/1", "n2")}
    for name in ("r1", "r1/1"):
        settle(first, name)
    assert second.orphans(0.2) == []
    assert first.used([running, tokens]) == {"running": 1, "tokens": 6}, "estimates stand, what ran runs no more"
    settle(first, "r1", Correction(counter="tokens", bucket=int(time.time()), difference=-6))
    assert first.used([running, tokens]) == {"running": 1, "tokens": 6}, "who was thought dead changes nothing more"


def test_a_hold_of_nothing_is_not_kept(store: Store) -> None:
    store.decide((), [only("a")], Hold(id="x", owner="gone"), Hold(id="y", owner="gone"))
    time.sleep(0.02)
    assert store.orphans(0.01) == []


def test_counters_do_not_mix(store: Store) -> None:
    store.decide([charge("client:a:requests")], [only("k", charge("key:p/k:requests", 2))])
    assert store.used([charge("client:a:requests"), charge("key:p/k:requests"), charge("client:b:requests")]) == {
        "client:a:requests": 1,
        "key:p/k:requests": 2,
        "client:b:requests": 0,
    }


def test_ping(store: Store) -> None:
    store.ping()


def test_a_store_that_cannot_write_does_not_answer_its_ping(tmp_path: Path) -> None:
    store = STORES["sqlite"](RuntimeStorage(), tmp_path)
    store._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreError):
        store.ping()
    store.close()


def test_no_window_of_60_seconds_holds_more_than_the_limit() -> None:
    """Brute force over simulated time, on the store whose clock can be set; the others share its arithmetic or are held to it by the tests above."""
    from coollm.stores.memory import MemoryStore

    clock = [1000.0]
    store = MemoryStore(lambda: clock[0])
    chance = random.Random(7)
    admitted: list[float] = []
    while clock[0] < 1000 + 600:
        clock[0] += chance.random() * 0.2
        if store.decide([charge("c", 1, 100)], [only("a")]).chosen == 0:
            admitted.append(clock[0])
    for place, start in enumerate(admitted):
        assert sum(1 for time_ in admitted[place:] if time_ < start + 60) <= 100
    assert len(admitted) >= 0.97 * 100 * 10


def test_the_wait_that_is_told_is_true() -> None:
    from coollm.stores.memory import MemoryStore

    clock = [5000.3]
    store = MemoryStore(lambda: clock[0])
    for _ in range(4):
        store.decide([charge("c", 3, 10)], [only("a")])
        clock[0] += 7
    wait = store.decide([charge("c", 3, 10)], [only("a")]).retry_after_seconds
    assert wait is not None
    clock[0] += wait - 0.01
    assert store.decide([charge("c", 3, 10)], [only("a")]).chosen is None
    clock[0] += 0.02
    assert store.decide([charge("c", 3, 10)], [only("a")]).chosen == 0


def test_seconds_until_room() -> None:
    assert seconds_until_room([], charge("c", 1, 1), 10.0) == 0
    assert seconds_until_room([(10, 1)], charge("c", 1, 1), 10.5) == pytest.approx(60.5)
    assert seconds_until_room([(10, 1)], charge("c", 2, 1), 10.5) is None


def test_a_redis_whose_certificate_nobody_knows_is_not_spoken_to(redis_tls: str, tmp_path: Path) -> None:
    address = redis_tls.split()[0]
    store = STORES["redis"](RuntimeStorage(type="redis", addr=address, tls=True, username="coollm", password=Secret("a-redis-password")), tmp_path)
    with pytest.raises(StoreError, match="certificate"):
        store.ping()


def test_a_store_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        STORES["sqlite"](RuntimeStorage(), tmp_path / "missing")
    store = STORES["redis"](RuntimeStorage(type="redis", addr="127.0.0.1:1"), tmp_path)
    with pytest.raises(StoreError):
        store.ping()


def test_a_refusal_tells_what_is_used(store: Store) -> None:
    store.decide([charge("c", 10), charge("d", 3)], [only("a")])
    refused = store.decide([charge("c", 1), charge("d", 1)], [only("a")])
    assert [(used.counter, used.used, used.limit) for used in refused.used] == [("c", 10, 10), ("d", 3, 10)]


def test_workers_hear_each_others_news(open_again: Any) -> None:
    first, second = open_again(), open_again()
    assert list(first.beat("one", b"{1}")) == []
    assert list(second.beat("two", b"\x00 {2}")) == [b"{1}"]
    assert list(first.beat("one", b"{3}")) == [b"\x00 {2}"]
    assert list(second.beat("two", b"{4}")) == [b"{3}"], "the last word of each"


def test_what_is_held_of_a_period_is_told(open_again: Any) -> None:
    store = open_again()
    money = Charge(counter="client:c:cost", amount=7, limit=100, span=TOTAL)
    others = Charge(counter="client:d:cost", amount=0, limit=100, span=TOTAL)
    store.decide([charge("t", 1)], [only("a", money)], Hold(id="r1", owner="me"), Hold(id="r1/1", owner="me"))
    store.decide((), [only("a", money)], None, Hold(id="r2/1", owner="me"))
    found = store.standing([money, others])
    assert (found["client:c:cost"].used, dict(found["client:c:cost"].held)) == (14, {"r1/1": 7, "r2/1": 7})
    assert (found["client:d:cost"].used, dict(found["client:d:cost"].held)) == (0, {})
    settle(store, "r1/1", Correction(counter="client:c:cost", bucket=100, difference=-4))
    found = store.standing([money])
    assert (found["client:c:cost"].used, dict(found["client:c:cost"].held)) == (10, {"r2/1": 7})


def test_an_orphan_tells_what_it_held_of_periods(store: Store) -> None:
    money = Charge(counter="client:c:cost", amount=7, limit=100, span=TOTAL)
    running = Charge(counter="running", amount=1, limit=5, span=LIVE)
    store.decide((), [only("a", money, running)], None, Hold(id="r1/1", owner="gone", note=lambda: "n"))
    time.sleep(0.05)
    (orphan,) = store.orphans(0.01)
    assert [(part.counter, part.bucket, part.amount) for part in orphan.periods] == [("client:c:cost", 100, 7)]
    settle(store, "r1/1")
    assert store.used([running, money]) == {"running": 0, "client:c:cost": 7}


def test_what_was_decided_twice_is_charged_once(store: Store) -> None:
    """The answer was lost on the way, and the decision asked for again."""
    money = Charge(counter="client:c:cost", amount=7, limit=100, span=TOTAL)
    running = Charge(counter="running", amount=1, limit=5, span=LIVE)
    for _ in range(3):
        store.decide([running], [only("a", money)], Hold(id="r1", owner="me"), Hold(id="r1/1", owner="me"))
    assert store.used([running, money]) == {"running": 1, "client:c:cost": 7}
    store.cancel(["r1", "r1/1", "nothing"])
    store.cancel(["r1", "r1/1"])
    assert store.used([running, money]) == {"running": 0, "client:c:cost": 0}


def test_an_identity_lasts(open_again: Any) -> None:
    first = open_again().identity()
    assert first
    assert open_again().identity() == first


def test_a_redis_that_has_forgotten_says_so(redis_url: str, tmp_path: Path) -> None:
    store: Any = STORES["redis"](RuntimeStorage(type="redis", addr=redis_url), tmp_path)
    before = store.identity()
    assert store.decide([charge("c", 4)], [only("a")], Hold(id="r", owner="me")).chosen == 0
    store._redis.command("FLUSHALL")
    with pytest.raises(StoreForgot):
        store.decide([charge("c", 4)], [only("a")])
    with pytest.raises(StoreForgot):
        settle(store, "r", Correction(counter="c", bucket=0, difference=-1))
    assert store.identity() != before
    assert store.decide([charge("c", 4)], [only("a")]).chosen == 0
    store.close()


def test_a_claim_is_one_owners_until_its_time_is_over(open_again: Any) -> None:
    first, second = open_again(), open_again()
    assert second.claim("other work", "two", 5) == "two"  # connected before time counts
    assert first.claim("work", "one", 0.5) == "one"
    began = time.monotonic()
    assert first.claim("work", "one", 2.0) == "one", "prolonged"
    assert second.claim("work", "two", 5) == "one"
    second.release("work", "two")
    assert second.claim("work", "two", 5) == "one", "nobody gives up another's claim"
    while second.claim("work", "two", 5) == "one":
        assert time.monotonic() < began + 10
        time.sleep(0.05)
    assert time.monotonic() > began + 1.9
    second.release("work", "two")
    assert first.claim("work", "one", 5) == "one"


def test_a_charge_without_asking(store: Store) -> None:
    money = Charge(counter="m", amount=70, limit=10, span=TOTAL)
    store.charge([money, charge("r", 2)])
    assert store.used([money, charge("r")]) == {"m": 70, "r": 2}
    store.charge([Charge(counter="m", amount=-30, limit=10, span=TOTAL), charge("r", -5)])
    assert store.used([money, charge("r")]) == {"m": 40, "r": 0}


def test_decisions_at_the_same_moment_count_each_other_once(store: Store) -> None:
    """Also behind a candidate that is passed over: what a store reads once for all of them stays right."""
    import gevent

    full = only("full", charge("full", 5, 4))

    def ask(number: int) -> int:
        decision = store.decide([charge("c", 1, 10)], [full, only("free", charge("free", 1, 10))], Hold(id=f"r{number}", owner="me"))
        return decision.used[0].used if decision.chosen is not None else 0

    asked = [gevent.spawn(ask, number) for number in range(12)]
    gevent.joinall(asked, timeout=10)
    assert sorted(one.get() for one in asked) == [0, 0, *range(1, 11)]
    assert store.used([charge("c"), charge("free")]) == {"c": 10, "free": 10}
