"""Logging in by a real OpenLDAP: good, bad, locked, escaping, a server that is down or not trusted; the host's own administrator always gets in."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from coollm.core.config.schema import Auth, Roles
from coollm.core.config.values import Duration
from coollm.core.directory import Directory, WrongPassword
from coollm.core.errors import OperationFailed, Unreachable
from coollm.core.secrets import Secret
from tests.conftest import GatewayHandle, SimulatorHandle, clean_environment, free_port, running, serve, simulated, wait_for
from tests.console.visitor import Visitor

BASE = "dc=company,dc=com"
SERVICE, SERVICE_PASSWORD = f"cn=admin,{BASE}", "service password"

PEOPLE = f"""\
dn: {BASE}
objectClass: domain
dc: company

dn: ou=people,{BASE}
objectClass: organizationalUnit
ou: people

dn: ou=groups,{BASE}
objectClass: organizationalUnit
ou: groups

dn: cn=policy,{BASE}
objectClass: pwdPolicy
objectClass: device
cn: policy
pwdAttribute: userPassword
pwdLockout: TRUE
pwdMaxFailure: 3

""" + "\n".join(
    f"""\
dn: uid={name},ou=people,{BASE}
objectClass: inetOrgPerson
uid: {name}
cn: {name}
sn: {name}
userPassword: {name} password
"""
    for name in ("ann", "bob", "eve", "dave", "lock", "o(brien)")
)

GROUPS = f"""\

dn: cn=gateway-admins,ou=groups,{BASE}
objectClass: groupOfNames
cn: gateway-admins
member: uid=ann,ou=people,{BASE}

dn: cn=night,ou=groups,{BASE}
objectClass: groupOfNames
cn: night
member: uid=bob,ou=people,{BASE}
member: uid=o(brien),ou=people,{BASE}

dn: cn=oncall,ou=groups,{BASE}
objectClass: groupOfNames
cn: oncall
member: cn=night,ou=groups,{BASE}
member: cn=loop,ou=groups,{BASE}

dn: cn=loop,ou=groups,{BASE}
objectClass: groupOfNames
cn: loop
member: cn=oncall,ou=groups,{BASE}

dn: cn=staff,ou=groups,{BASE}
objectClass: groupOfNames
cn: staff
member: uid=dave,ou=people,{BASE}
member: uid=lock,ou=people,{BASE}
"""

ROLES = Roles(admin=(f"CN=gateway-admins, ou=groups,{BASE}",), operator=(f"cn=oncall,ou=groups,{BASE}",), viewer=(f"cn=staff,ou=groups,{BASE}",))


class Slapd:
    """A running OpenLDAP and who signs its certificate."""

    def __init__(self, plain: int, encrypted: int, authority: Path) -> None:
        self.plain, self.encrypted, self.authority = plain, encrypted, authority

    def auth(self, **more: Any) -> Auth:
        told: dict[str, Any] = {"server": (f"localhost:{self.plain}",), "bind_dn": SERVICE, "bind_password": Secret(SERVICE_PASSWORD)}
        return Auth(type="ldap", base_dn=BASE, **{**told, "ca_file": str(self.authority), "roles": ROLES, **more})


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    found = shutil.which("slapd") or ("/usr/sbin/slapd" if Path("/usr/sbin/slapd").exists() else None)
    if found is None:
        pytest.skip("slapd is not installed: apt-get install slapd")
    home = tmp_path_factory.mktemp("slapd")
    key, certificate = home / "key.pem", home / "cert.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(key), "-out", str(certificate), *names]
    subprocess.run(command, check=True, capture_output=True)
    (home / "data").mkdir()
    schemas = "\n".join(f"include /etc/ldap/schema/{name}.schema" for name in ("core", "cosine", "inetorgperson"))
    (home / "slapd.conf").write_text(
        f"{schemas}\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\nmoduleload ppolicy\npidfile {home}/pid\nargsfile {home}/args\n"
        f"TLSCertificateFile {certificate}\nTLSCertificateKeyFile {key}\n"
        f'database mdb\nsuffix "{BASE}"\nrootdn "{SERVICE}"\nrootpw "{SERVICE_PASSWORD}"\ndirectory {home}/data\n'
        f"access to attrs=userPassword by anonymous auth by * none\naccess to * by users read by * none\n"
        f'overlay ppolicy\nppolicy_default "cn=policy,{BASE}"\n'
    )
    (home / "people.ldif").write_text(PEOPLE + GROUPS)
    adder = [found, "-T", "add", "-f", str(home / "slapd.conf"), "-l", str(home / "people.ldif")]
    done = subprocess.run(adder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plain, encrypted = free_port(), free_port()
    urls = f"ldap://127.0.0.1:{plain} ldaps://127.0.0.1:{encrypted}"
    with running([found, "-f", str(home / "slapd.conf"), "-h", urls, "-d", "0"], home / "words.txt", clean_environment()) as process:

        def answers() -> bool:
            assert process.poll() is None, (home / "words.txt").read_text()
            with contextlib.suppress(OperationFailed, Unreachable):
                Directory(Slapd(plain, encrypted, certificate).auth()).check()
                return True
            return False

        wait_for(answers, what="slapd")
        yield Slapd(plain, encrypted, certificate)


@pytest.mark.parametrize(("name", "role"), [("ann", "admin"), ("bob", "operator"), ("dave", "viewer"), ("eve", None), ("o(brien)", "operator")])
@pytest.mark.parametrize("direct", [False, True])
def test_who_is_let_in_has_the_role_of_the_groups(slapd: Slapd, name: str, role: str | None, direct: bool) -> None:
    auth = slapd.auth(**({"user_dn": f"uid=%s,ou=people,{BASE}", "bind_dn": None, "bind_password": None} if direct else {}))
    if direct:  # nobody in particular may look for anything here: the service's bind is anonymous, and the user looks for the groups
        assert Directory(auth).log_in(name, f"{name} password")[1] == role
    else:
        dn, found = Directory(auth).log_in(name, f"{name} password")
        assert (dn.lower().startswith(f"uid={name}"), found) == (True, role)


def test_without_nested_groups(slapd: Slapd) -> None:
    assert Directory(slapd.auth(nested_groups=False)).log_in("bob", "bob password")[1] is None


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("ann", "wrong"),
        ("nobody", "x"),
        ("ann", ""),
        ("", "x"),
        ("*", "ann password"),
        ("*)(uid=*", "ann password"),
        ("ann)(|(uid=*", "ann password"),
        ("a*", "ann password"),
        ("ann\0", "ann password"),
        ("ann" * 200, "x"),
    ],
)
@pytest.mark.parametrize("direct", [False, True])
def test_who_is_not_let_in(slapd: Slapd, name: str, password: str, direct: bool) -> None:
    auth = slapd.auth(**({"user_dn": f"uid=%s,ou=people,{BASE}"} if direct else {}))
    with pytest.raises(WrongPassword):
        Directory(auth).log_in(name, password)


def test_an_account_that_is_locked(slapd: Slapd) -> None:
    directory = Directory(slapd.auth())
    assert directory.log_in("lock", "lock password")[1] == "viewer"
    for _ in range(3):
        with pytest.raises(WrongPassword):
            directory.log_in("lock", "wrong")
    with pytest.raises(WrongPassword):
        directory.log_in("lock", "lock password")


def test_encryption_and_who_signs_it(slapd: Slapd, tmp_path: Path) -> None:
    assert Directory(slapd.auth(server=(f"ldaps://localhost:{slapd.encrypted}",))).log_in("ann", "ann password")[1] == "admin"
    assert Directory(slapd.auth(tls="ldaps", server=(f"localhost:{slapd.encrypted}",))).log_in("ann", "ann password")[1] == "admin"
    for more in ({"ca_file": None}, {"server": (f"127.0.0.1:{slapd.plain}",)}, {"server": (f"ldaps://127.0.0.1:{slapd.encrypted}",)}):
        with pytest.raises(Unreachable, match="certificate is not good"):
            Directory(slapd.auth(**more)).log_in("ann", "ann password")
    assert Directory(slapd.auth(ca_file=None, verify=False)).log_in("ann", "ann password")[1] == "admin"


def test_another_server_is_asked_when_one_is_down(slapd: Slapd) -> None:
    dead = f"localhost:{free_port()}"
    assert Directory(slapd.auth(server=(dead, f"localhost:{slapd.plain}"))).log_in("ann", "ann password")[1] == "admin"
    with pytest.raises(Unreachable, match="no directory server answers"):
        Directory(slapd.auth(server=(dead,))).log_in("ann", "ann password")
    with pytest.raises(OperationFailed, match="does not let cn=admin"):
        Directory(slapd.auth(bind_password=Secret("wrong"))).log_in("ann", "ann password")


def test_a_server_that_never_answers_is_not_waited_for(slapd: Slapd) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        names = (f"localhost:{silent.getsockname()[1]}", f"localhost:{slapd.plain}")
        began = time.monotonic()
        assert Directory(slapd.auth(server=names, timeout=Duration(1))).log_in("ann", "ann password")[1] == "admin"
        assert time.monotonic() - began < 15
        with pytest.raises(Unreachable, match="did not answer in time"):
            Directory(slapd.auth(server=names[:1], timeout=Duration(1))).check()


@pytest.fixture(scope="module")
def gateway(slapd: Slapd, simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHandle]:
    auth = {
        "type": "ldap",
        "server": f"localhost:{slapd.plain}",
        "base_dn": BASE,
        "bind_dn": SERVICE,
        "bind_password": SERVICE_PASSWORD,
        "ca_file": str(slapd.authority),
        "roles": {role: list(getattr(ROLES, role)) for role in ("admin", "operator", "viewer")},
    }
    server = {"admin_requests_per_minute": 1000, "trusted_proxies": ["127.0.0.1"], "webui": {"enabled": True}}
    with serve(tmp_path_factory.mktemp("ldap"), {"llm_providers": simulated(simulator.url)[:1], "auth": auth, "server": server}) as handle:
        yield handle


def log_in(gateway: GatewayHandle, name: Any, password: Any, address: str = "10.9.0.1") -> requests.Response:
    body = {"name": name, "password": password}
    return requests.post(f"{gateway.url}/admin/v1/login", json=body, headers={"x-forwarded-for": address}, timeout=30)


def test_a_session_of_the_directory(gateway: GatewayHandle) -> None:
    reply = log_in(gateway, "bob", "bob password")
    assert (reply.status_code, reply.json()["role"]) == (200, "operator"), reply.text
    wait_for(lambda: who(gateway, reply.json()["token"]).status_code == 200, 3)
    found = who(gateway, reply.json()["token"]).json()
    assert (found["name"], found["kind"], found["role"]) == ("bob", "ldap", "operator")
    assert log_in(gateway, "eve", "eve password", "10.9.0.2").status_code == 403
    assert log_in(gateway, "bob", "wrong", "10.9.0.3").status_code == 401
    assert log_in(gateway, "*)(uid=*", "bob password", "10.9.0.4").status_code == 401
    for name, password in ((1, "x"), ("x", None), ("", ""), ("x" * 5000, "y")):
        assert log_in(gateway, name, password, "10.9.0.5").status_code == 400
    done = gateway.coollm("login", "ann", "--json", stdin="ann password\n")
    assert json.loads(done.stdout)["role"] == "admin", done.stderr
    log = (gateway.home / "state" / "logs" / "audit.log").read_text()
    assert '"action": "login"' in log
    assert "bob password" not in log
    assert "ann password" not in log


def who(gateway: GatewayHandle, token: str) -> requests.Response:
    return requests.get(f"{gateway.url}/admin/v1/whoami", headers={"authorization": f"Bearer {token}", "x-forwarded-for": "10.9.0.9"}, timeout=10)


def test_the_console_lets_people_of_the_directory_in(gateway: GatewayHandle) -> None:
    for name, role in (("ann", "admin"), ("bob", "operator"), ("dave", "viewer")):
        visitor = Visitor(gateway)
        assert visitor.sign_in(name, f"{name} password").status_code == 303
        assert f">{role}</span>" in visitor.page
        assert "the directory server" in visitor.page
    for name, password, status in (("eve", "eve password", 403), ("ann", "wrong", 401), ("*", "ann password", 401)):
        assert Visitor(gateway).sign_in(name, password).status_code == status
    bob = Visitor(gateway)
    bob.sign_in("bob", "bob password")
    assert bob.get("/ui/configuration/edit").status_code == 403
    assert gateway.coollm("admins", "revoke", "bob", "--yes").returncode == 0
    wait_for(lambda: bob.get("/ui/").status_code == 303, 5, "what is shut out to be out")
    assert gateway.coollm("admins", "revoke", "bob", "--undo", "--yes").returncode == 0


def test_a_name_that_is_shut_out_is_out_at_once(gateway: GatewayHandle) -> None:
    token = log_in(gateway, "dave", "dave password", "10.9.1.1").json()["token"]
    wait_for(lambda: who(gateway, token).status_code == 200, 3)
    done = gateway.coollm("admins", "revoke", "dave", "--yes")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: 200 not in {who(gateway, token).status_code for _ in range(6)}, 3)
    assert log_in(gateway, "dave", "dave password", "10.9.1.2").status_code == 401


def test_a_user_whose_password_is_guessed_at_from_everywhere(gateway: GatewayHandle) -> None:
    seen = [log_in(gateway, "guessed", "wrong", f"10.9.2.{number}").status_code for number in range(1, 8)]
    assert seen[:5] == [401] * 5
    assert 429 in seen


def test_the_directory_is_tried_before_it_is_applied_and_down_it_locks_nobody_out(gateway: GatewayHandle) -> None:
    assert gateway.coollm("admins", "test").returncode == 0
    done = gateway.coollm("admins", "test", "bob", stdin="bob password\n")
    assert "operator" in done.stdout, done.stderr
    assert gateway.coollm("admins", "test", "eve", stdin="eve password\n").returncode == 4
    assert gateway.coollm("admins", "test", "bob", stdin="wrong\n").returncode == 1
    text = (gateway.home / "coollm.yaml").read_text()
    port = next(line for line in text.splitlines() if "server: localhost" in line).rpartition(":")[2]
    (gateway.home / "down.yaml").write_text(text.replace(f"localhost:{port}", f"localhost:{free_port()}"))
    tried = gateway.coollm("admins", "test", "--file", "down.yaml")
    assert tried.returncode == 5
    applied = gateway.coollm("config", "apply", "down.yaml", "--yes")
    assert "nobody could log in by the directory server" in applied.stderr
    assert applied.returncode == 0
    reply = log_in(gateway, "bob", "bob password", "10.9.3.1")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "directory_unavailable")
    assert gateway.coollm("clients", "create", "made-by-the-host", "--yes").returncode == 0
    assert gateway.coollm("undo", "--yes").returncode == 0
