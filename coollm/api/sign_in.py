"""Signing in with a name and a password, for the admin API and the console: as the configuration's administrator, one with a key here, or of the directory.

Who has a second factor is asked for its code as well: a number of six digits that changes every 30 seconds (RFC 6238), of which each counts once.
"""

from __future__ import annotations

import functools
import hmac
import time

import pyotp
from cryptography.exceptions import InvalidTag

from coollm.api.clients import hash_key
from coollm.core.clock import now_ms
from coollm.core.errors import GatewayFault, InvalidRequest, NotAllowed, NotAuthenticated, OperationFailed, Unreachable
from coollm.core.secret_store import decrypt, encrypt
from coollm.core.secrets import key_digest
from coollm.core.types import ADMIN_ROLES
from coollm.identity.principal import Principal
from coollm.identity.stored import ADMIN
from coollm.ledger.threads import in_thread
from coollm.services import Services

LONGEST_PASSWORD = 1024
STEP_SECONDS = 30
NEIGHBOURS = 1
"""So many steps before and after this one count too: clocks differ, and people need time to type."""

ISSUER = "COO-LLM"
WRONG = "wrong name or password"


def sign_in(services: Services, name: str, password: str, code: str, address: str) -> Principal:
    """Who has this name and password. Failures are counted for the address and for the name. Raises NotAuthenticated, NotAllowed, InvalidRequest,
    LimitReached and GatewayFault; the code of NotAuthenticated is `second_factor_required` where the password is right and a code is to be given as well.
    """
    if len(name) > LONGEST_PASSWORD or len(password) > LONGEST_PASSWORD:
        raise InvalidRequest(f"a name and a password have at most {LONGEST_PASSWORD} characters")
    services.guard.check_lock(_user(name))
    services.watcher.look()
    try:
        principal = _by_password(services, name, password, address)
        _check_code(services, name, code)
    except (NotAuthenticated, NotAllowed) as error:
        if error.code != "second_factor_required":
            services.guard.failed(address)
            services.guard.failed(_user(name))
        services.audit.tell(None, "login", state="refused", name=name[:64], address=address, reason=error.code)
        raise
    return principal


def proof_of(services: Services, principal: Principal) -> str:
    """Stands for what somebody has just signed in with: the configuration's password, or a key by its prefix."""
    return _password_proof(services) if principal.kind == "password" else principal.via


def is_proven(services: Services, kind: str, name: str, proof: str) -> bool:
    """Whether what somebody has signed in with would still let him in. The directory is not asked again."""
    if kind == "password":
        return proof == _password_proof(services)
    if kind == "key":
        keys = services.watcher.roster.stored.keys_of(ADMIN, name)
        return any(key.prefix == proof and not (key.expires_ms and key.expires_ms <= now_ms()) for key in keys)
    return True


def _password_proof(services: Services) -> str:
    told = services.settings.server.webui
    return "" if told.admin_password is None else key_digest(f"proof {told.admin_id} {told.admin_password.digest().hex()}").hex()[:32]


def _by_password(services: Services, name: str, password: str, address: str) -> Principal:
    if name in services.watcher.roster.shut_out:
        raise NotAuthenticated(WRONG, code="wrong_password")
    console = services.settings.server.webui
    if console.admin_password is not None and name == console.admin_id:
        if not hmac.compare_digest(console.admin_password.digest(), key_digest(password)):
            raise NotAuthenticated(WRONG, code="wrong_password")
        return Principal(kind="password", name=name, role="admin", address=address)
    holder = services.watcher.roster.holder(password)
    if holder is not None and holder.admin is not None and holder.admin.id == name:
        if holder.is_revoked or holder.expires <= time.time():
            raise NotAuthenticated(WRONG, code="wrong_password")
        via = holder.key.prefix if holder.key is not None else ""
        return Principal(kind="key", name=name, role=holder.admin.role, address=address, via=via)
    return _by_directory(services, name, password, address)


def _by_directory(services: Services, name: str, password: str, address: str) -> Principal:
    auth = services.settings.auth
    if auth is None:
        raise NotAuthenticated(WRONG, code="wrong_password")
    try:
        from coollm.core.directory import Directory, WrongPassword  # its package is there where a directory is configured
    except ImportError as error:
        raise GatewayFault("auth.type is ldap, and the package ldap3 is not installed", status=503, code="directory_unavailable") from error
    directory = Directory(auth)
    try:
        _, role = in_thread(lambda: directory.log_in(name, password))
    except WrongPassword as error:
        raise NotAuthenticated(error.message, code="wrong_password") from error
    except (Unreachable, OperationFailed) as error:
        services.audit.tell(None, "login", state="failed", name=name[:64], address=address, reason=services.redact(error.message))
        message = f"{error.message}; the administrator of the host can still do everything there"
        raise GatewayFault(message, status=503, code="directory_unavailable") from error
    if role not in ADMIN_ROLES:
        raise NotAllowed("no group of yours has a role here (auth.roles)", code="no_role")
    return Principal(kind="ldap", name=name, role=role, address=address)


def has_second_factor(services: Services, name: str) -> bool:
    """Whether somebody is asked for a code."""
    known = in_thread(lambda: services.console_book.second_factor(name))
    return known is not None and known.is_confirmed


def offer_second_factor(services: Services, name: str) -> tuple[str, str]:
    """A new secret for somebody who has none: as text, and as an address that an authenticator reads. It is not asked for until a code of it was given."""
    secret = pyotp.random_base32()
    key = hash_key(services)
    in_thread(lambda: services.console_book.offer_second_factor(name, _seal(key, name, secret)))
    return secret, pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name=ISSUER)


def confirm_second_factor(services: Services, name: str, code: str) -> None:
    """Asks for codes from now on. Raises NotAuthenticated for a code that is not one of the secret that was offered."""
    _use_code(services, name, code)


def _check_code(services: Services, name: str, code: str) -> None:
    if not has_second_factor(services, name):
        return
    if not code.strip():
        raise NotAuthenticated("the code of your authenticator is missing", code="second_factor_required")
    _use_code(services, name, code)


def _use_code(services: Services, name: str, code: str) -> None:
    known = in_thread(lambda: services.console_book.second_factor(name))
    wrong = NotAuthenticated("the code is wrong, or was used before: wait for the next one", code="wrong_code")
    if known is None:
        raise wrong
    totp = pyotp.TOTP(_open(hash_key(services), name, known.secret))
    now = int(time.time()) // STEP_SECONDS
    given = code.replace(" ", "")
    for step in range(now - NEIGHBOURS, now + NEIGHBOURS + 1):
        if hmac.compare_digest(totp.at(step * STEP_SECONDS).encode(), given.encode("utf-8", "surrogateescape")):
            if in_thread(functools.partial(services.console_book.use_second_factor, name, step)):
                return
            break
    raise wrong


def _seal(key: bytes, name: str, secret: str) -> str:
    return encrypt(_derived(key), secret.encode(), name.encode())


def _open(key: bytes, name: str, sealed: str) -> str:
    try:
        return decrypt(_derived(key), sealed, name.encode()).decode()
    except (InvalidTag, ValueError) as error:
        message = "the second factor of this name cannot be read on this host: its secret for keys is another (coollm admins reset NAME; coollm fleet secrets)"
        raise GatewayFault(message, status=503, code="second_factor_unreadable") from error


def _derived(key: bytes) -> bytes:
    return hmac.digest(key, b"coollm second factors", "sha256")


def _user(name: str) -> str:
    return f"user/{key_digest(name).hex()[:16]}"
