"""Signing in and out of the console: who is let in, how long a session goes on, second factors, and what is asked for again before something dangerous."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pyotp
import requests

from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated
from tests.console.visitor import PASSWORD, SERVER, Visitor, audited, in_ledger

HOUR_MS = 3_600_000


def test_the_configurations_administrator_signs_in_and_out(gateway: GatewayHandle) -> None:
    visitor = Visitor(gateway)
    reply = visitor.get("/ui/clients?x=1")
    assert (reply.status_code, reply.headers["location"]) == (303, "/ui/sign-in?next=%2Fui%2Fclients%3Fx%3D1")
    reply = visitor.sign_in(next="/ui/clients?x=1")
    assert (reply.status_code, reply.headers["location"]) == (303, "/ui/clients?x=1")
    given = reply.headers["set-cookie"]
    assert "HttpOnly" in given
    assert "SameSite=Strict" in given
    assert "Path=/ui" in given
    assert "Expires" not in given
    assert visitor.cookie not in in_ledger(gateway, "SELECT digest FROM console_sessions")[0], "the ledger has a hash of it"
    assert visitor.get("/ui/").status_code == 200
    cookie = visitor.cookie
    assert visitor.post("/ui/sign-out").headers["location"] == "/ui/sign-in"
    assert visitor.get("/ui/").status_code == 303
    visitor.session.cookies.set("coollm_console", cookie, path="/ui")
    assert visitor.get("/ui/").status_code == 303, "the session has ended, also for whoever kept its cookie"
    told = audited(gateway)
    assert '"console_sign_in"' in told
    assert '"console_sign_out"' in told
    assert PASSWORD not in told
    assert cookie not in told


def test_over_tls_the_cookie_is_for_tls_alone(gateway: GatewayHandle) -> None:
    visitor = Visitor(gateway)
    visitor.get("/ui/sign-in")
    headers = {"x-forwarded-proto": "https", "origin": gateway.url}
    reply = visitor.session.post(f"{gateway.url}/ui/sign-in", data={"name": "root", "password": PASSWORD}, headers=headers, timeout=10, allow_redirects=False)
    assert reply.headers["set-cookie"].startswith("__Host-coollm_console=")
    assert "Secure" in reply.headers["set-cookie"]
    assert "Path=/;" in reply.headers["set-cookie"] + ";"


def test_wrong_names_and_passwords_are_refused_and_locked_out(gateway: GatewayHandle) -> None:
    visitor = Visitor(gateway)
    for name, password in (("root", "wrong"), ("nobody", PASSWORD), ("' OR 1=1 --", "x")):
        reply = visitor.sign_in(name, password)
        assert reply.status_code == 401, (name, visitor.wrong)
        assert visitor.wrong == "wrong name or password", (name, visitor.wrong)
    assert visitor.sign_in("root", "").status_code == 400
    assert visitor.sign_in("root", "x" * 5000).status_code == 400
    for _ in range(4):
        reply = visitor.sign_in("somebody", "wrong")
    assert reply.status_code == 429
    assert int(reply.headers["retry-after"]) >= 1
    assert "try again" in visitor.wrong
    assert Visitor(gateway).sign_in().status_code == 303, "others are let in"


def test_administrators_sign_in_with_their_keys_and_lose_what_they_lose(gateway: GatewayHandle, keys: dict[str, str]) -> None:
    operator = Visitor(gateway)
    assert operator.sign_in("the-operator", keys["viewer"]).status_code == 401, "the key of another one"
    assert operator.sign_in("the-operator", keys["operator"]).status_code == 303
    assert ">operator</span>" in operator.page
    made = gateway.coollm("admins", "create", "short", "--role", "admin", "--json", "--yes")
    key = re.search(r'"key": "([^"]+)"', made.stdout)
    assert key, made.stdout + made.stderr
    short = Visitor(gateway)
    assert short.sign_in("short", key[1]).status_code == 303
    assert short.get("/ui/configuration/edit").status_code == 200
    assert gateway.coollm("admins", "role", "short", "viewer", "--yes").returncode == 0
    time.sleep(1.2)
    assert short.get("/ui/configuration/edit").status_code == 403, "the role of now, not that of then"
    assert gateway.coollm("admins", "revoke", "short", "--yes").returncode == 0
    time.sleep(1.2)
    assert short.get("/ui/").status_code == 303, "shut out, with the session"


def test_a_session_ends_when_nothing_is_done_and_in_any_case(gateway: GatewayHandle) -> None:
    for column, age in (("used_ms", HOUR_MS), ("began_ms", 9 * HOUR_MS)):
        visitor = Visitor(gateway)
        visitor.sign_in()
        assert visitor.get("/ui/").status_code == 200
        in_ledger(gateway, f"UPDATE console_sessions SET {column} = {column} - {age}")
        [(before,)] = in_ledger(gateway, "SELECT count(*) FROM console_sessions")
        assert visitor.get("/ui/").status_code == 303, column
        assert in_ledger(gateway, "SELECT count(*) FROM console_sessions") == [(before - 1,)], "it is forgotten"


def test_a_token_is_never_that_of_before_and_changes(gateway: GatewayHandle) -> None:
    visitor = Visitor(gateway)
    visitor.session.cookies.set("coollm_console", "chosen-by-somebody-else", path="/ui", domain="127.0.0.1")
    visitor.sign_in()
    first = visitor.cookie
    assert first
    assert first != "chosen-by-somebody-else"
    visitor.sign_in()
    assert visitor.cookie != first, "another one with each signing in"
    old = Visitor(gateway)
    old.session.cookies.set("coollm_console", first, path="/ui")
    assert old.get("/ui/").status_code == 303, "and the session of before has ended"

    before = visitor.cookie
    in_ledger(gateway, "UPDATE console_sessions SET rotated_ms = rotated_ms - ?", HOUR_MS)
    assert visitor.get("/ui/").status_code == 200
    assert visitor.cookie != before
    old.session.cookies.clear()
    old.session.cookies.set("coollm_console", before, path="/ui")
    assert old.get("/ui/").status_code == 200, "what is under way goes on for a minute"
    in_ledger(gateway, "UPDATE console_sessions SET rotated_ms = rotated_ms - 61000")
    assert old.get("/ui/").status_code == 303
    assert visitor.get("/ui/").status_code == 200


def test_what_is_dangerous_asks_again_who_it_is(gateway: GatewayHandle, root: Visitor) -> None:
    root.get("/ui/clients")
    assert root.post("/ui/clients", {"id": "to-rotate"}).status_code == 200
    in_ledger(gateway, "UPDATE console_sessions SET confirmed_ms = confirmed_ms - ?", HOUR_MS)
    root.get("/ui/clients/to-rotate")
    asked = root.post("/ui/clients/to-rotate/rotate", {"overlap": "1h"})
    assert asked.status_code == 200
    assert "Confirm who you are" in asked.text
    assert "shown this once" not in asked.text
    assert '<input type="hidden" name="overlap" value="1h">' in asked.text
    wrong = root.post("/ui/clients/to-rotate/rotate", {"overlap": "1h", "confirm_password": "wrong"})
    assert wrong.status_code == 403
    assert root.wrong == "wrong name or password"
    done = root.post("/ui/clients/to-rotate/rotate", {"overlap": "1h", "confirm_password": PASSWORD})
    assert done.status_code == 200
    assert "shown this once" in done.text
    assert "The old keys go on until" in done.text
    root.get("/ui/clients/to-rotate")
    assert "shown this once" in root.post("/ui/clients/to-rotate/rotate", {"overlap": "1h"}).text, "not again for some minutes"


def test_a_second_factor(gateway: GatewayHandle, keys: dict[str, str]) -> None:
    visitor = Visitor(gateway)
    visitor.sign_in("the-admin", keys["admin"])
    offered = visitor.post("/ui/account/second-factor")
    secret = re.search(r'<code class="key">([A-Z2-7]+)</code>', offered.text)
    assert secret
    assert 'src="data:image/svg+xml;base64,' in offered.text
    assert secret[1] not in str(in_ledger(gateway, "SELECT * FROM second_factors"))
    totp = pyotp.TOTP(secret[1])
    assert "wrong" in told_after(visitor, "/ui/account/second-factor/confirm", {"code": "000000"})
    assert Visitor(gateway).sign_in("the-admin", keys["admin"]).status_code == 303, "not asked for before it was shown"

    secret = re.search(r'<code class="key">([A-Z2-7]+)</code>', visitor.post("/ui/account/second-factor").text)
    assert secret
    totp = pyotp.TOTP(secret[1])
    code = totp.now()
    assert "From now on" in told_after(visitor, "/ui/account/second-factor/confirm", {"code": code})

    other = Visitor(gateway)
    reply = other.sign_in("the-admin", keys["admin"])
    assert reply.status_code == 401
    assert "second factor" in reply.text
    assert 'name="code"' in reply.text
    assert other.sign_in("the-admin", keys["admin"], code=code).status_code == 401, "a code is good once"
    assert "used before" in other.wrong
    fresh = totp.at(time.time() + 30)  # clocks may differ by one step
    login = requests.post(f"{gateway.url}/admin/v1/login", json={"name": "the-admin", "password": keys["admin"]}, timeout=10)
    assert (login.status_code, login.json()["error"]["code"]) == (401, "second_factor_required")
    (gateway.home / "key").write_text(keys["admin"])
    shown = gateway.coollm("login", "the-admin", "--url", gateway.url, "--password-file", "key", stdin="000000\n")
    assert shown.returncode != 0
    assert "the code is wrong" in shown.stderr
    assert other.sign_in("the-admin", keys["admin"], code=f"{fresh[:3]} {fresh[3:]}").status_code == 303

    reset = gateway.coollm("admins", "reset", "the-admin", "--yes")
    assert reset.returncode == 0, reset.stdout + reset.stderr
    assert "is gone; sessions ended: " in reset.stdout, reset.stdout + reset.stderr
    assert other.get("/ui/").status_code == 303
    assert other.sign_in("the-admin", keys["admin"]).status_code == 303


def told_after(visitor: Visitor, path: str, fields: dict[str, str]) -> str:
    visitor.post(path, fields, follow=True)
    return visitor.notice


def test_a_key_that_ends_ends_the_sessions_that_it_began(gateway: GatewayHandle) -> None:
    made = gateway.coollm("admins", "create", "turned", "--role", "viewer", "--json", "--yes")
    first = json.loads(made.stdout)["key"]
    visitor, other = Visitor(gateway), Visitor(gateway)
    assert visitor.sign_in("turned", first).status_code == 303
    turned = gateway.coollm("admins", "rotate", "turned", "--overlap", "1h", "--json", "--yes")
    second = json.loads(turned.stdout)["key"]
    time.sleep(1.2)
    assert visitor.get("/ui/").status_code == 200, "while both keys go on"
    assert other.sign_in("turned", second).status_code == 303
    assert gateway.coollm("admins", "rotate", "turned", "--overlap", "0", "--yes").returncode == 0
    time.sleep(1.2)
    assert (visitor.get("/ui/").status_code, other.get("/ui/").status_code) == (303, 303)


def test_all_sessions_of_ones_own_end_together(gateway: GatewayHandle) -> None:
    one, other = Visitor(gateway), Visitor(gateway)
    one.sign_in()
    other.sign_in()
    one.get("/ui/account")
    assert one.post("/ui/account/end-sessions").status_code == 303
    assert one.get("/ui/").status_code == other.get("/ui/").status_code == 303


def test_another_password_ends_what_the_old_one_has_begun(simulator: SimulatorHandle, tmp_path: Path) -> None:
    with serve(tmp_path, {"llm_providers": simulated(simulator.url)[:1], "server": SERVER}, workers=1) as gateway:
        visitor = Visitor(gateway)
        visitor.sign_in()
        config = tmp_path / "coollm.yaml"
        changed = config.read_text().replace(PASSWORD, "another password")
        (tmp_path / "new.yaml").write_text(changed)
        applied = gateway.coollm("config", "apply", "new.yaml", "--yes")
        assert applied.returncode == 0, applied.stdout + applied.stderr
        assert visitor.get("/ui/").status_code == 303
        assert visitor.sign_in().status_code == 401
        assert visitor.sign_in(password="another password").status_code == 303


def test_nobody_signs_in_over_a_network_in_clear(gateway: GatewayHandle, simulator: SimulatorHandle, tmp_path: Path) -> None:
    server = {**SERVER, "trusted_proxies": ["192.0.2.1"]}
    with serve(tmp_path, {"llm_providers": simulated(simulator.url)[:1], "server": server}, workers=1, host="127.0.0.1") as near:
        assert Visitor(near).sign_in().status_code == 303, "this host's own loopback is no network"
