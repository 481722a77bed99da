"""Logging in by a directory server: LDAP, or Active Directory. Who may is found by the groups that a user is in.

The user's name is escaped in filters (RFC 4515) and in DNs (RFC 4514); an empty password, which LDAP takes for an anonymous bind that succeeds (RFC 4513,
5.1.2), is refused before anybody is asked. Source of the calls: https://ldap3.readthedocs.io/.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import ldap3
from ldap3.core.exceptions import LDAPException, LDAPInvalidFilterError
from ldap3.utils.conv import escape_filter_chars
from ldap3.utils.dn import escape_rdn, parse_dn

from coollm.core.config.schema import Auth
from coollm.core.errors import OperationFailed, Unreachable
from coollm.core.types import ADMIN_ROLES

MOST_GROUPS = 1000
DEEPEST_GROUPS = 10
LONGEST_NAME = 256


class WrongPassword(OperationFailed):
    """The directory does not let this user in: it does not know the name, or the password, or has locked the account. Which of these is not told."""


class Directory:
    """The directory of a configuration. Its calls block: a gateway makes them in a thread."""

    def __init__(self, auth: Auth) -> None:
        self._auth = auth

    def check(self) -> str:
        """Binds as the service, and looks at the base. Returns what answered. Raises Unreachable and OperationFailed."""
        with self._service() as connection:
            if not connection.search(self._auth.base_dn, "(objectClass=*)", search_scope=ldap3.BASE, attributes=[ldap3.NO_ATTRIBUTES]):
                raise OperationFailed(f"the directory has no {self._auth.base_dn}, or does not show it to {self._auth.bind_dn or 'nobody in particular'}")
            return str(connection.server.name)

    def log_in(self, name: str, password: str) -> tuple[str, str | None]:
        """The DN of a user and the role; None if no group of the user has one. Raises WrongPassword, Unreachable and OperationFailed."""
        if not name or not password or len(name) > LONGEST_NAME or "\0" in name + password:
            raise WrongPassword("wrong name or password")
        with self._service() as service:
            dn = self._dn_of(service, name)
            if dn is None:
                # A name that is not known takes as long as a wrong password.
                with self._connected(f"cn={secrets.token_hex(8)},{self._auth.base_dn}", password):
                    raise WrongPassword("wrong name or password")
            with self._connected(dn, password) as own:
                if not own.bound:
                    raise WrongPassword("wrong name or password")
                # Who may search decides who sees the groups: the service, or the user where there is none.
                groups = self._groups(service if self._auth.bind_dn else own, dn)
        return dn, self._role(groups)

    def _dn_of(self, connection: Any, name: str) -> str | None:
        if self._auth.user_dn is not None:
            return self._auth.user_dn.replace("%s", escape_rdn(name))
        wanted = self._auth.user_search_filter.replace("%s", escape_filter_chars(name))
        connection.search(self._auth.base_dn, wanted, attributes=[ldap3.NO_ATTRIBUTES], size_limit=2)
        found = [str(entry.entry_dn) for entry in connection.entries]
        return found[0] if len(found) == 1 else None  # a filter that names several names nobody

    def _groups(self, connection: Any, dn: str) -> set[str]:
        """The DNs of the groups that a user is in, and of those that these are in."""
        found: dict[str, str] = {}
        edge = [dn]
        for _ in range(DEEPEST_GROUPS if self._auth.nested_groups else 1):
            following = []
            for member in edge:
                wanted = self._auth.group_search_filter.replace("%s", escape_filter_chars(member))
                connection.search(self._auth.base_dn, wanted, attributes=[ldap3.NO_ATTRIBUTES])
                for entry in connection.entries:
                    group = str(entry.entry_dn)
                    if _normal(group) not in found and len(found) < MOST_GROUPS:
                        found[_normal(group)] = group
                        following.append(group)
            if not following:
                break
            edge = following
        return set(found)

    def _role(self, groups: set[str]) -> str | None:
        for role in reversed(ADMIN_ROLES):
            named: Sequence[str] = getattr(self._auth.roles, role)
            if any(_normal(group) in groups for group in named):
                return role
        return None

    @contextmanager
    def _service(self) -> Iterator[Any]:
        """A connection that may search. Raises Unreachable, and OperationFailed where the service itself is not let in."""
        password = self._auth.bind_password
        with self._connected(self._auth.bind_dn, password.reveal() if password else None) as connection:
            if not connection.bound:
                who = self._auth.bind_dn or "nobody in particular"
                raise OperationFailed(
                    f"the directory does not let {who} in: {connection.result.get('description')}", "check auth.bind_dn and auth.bind_password"
                )
            yield connection

    @contextmanager
    def _connected(self, dn: str | None, password: str | None) -> Iterator[Any]:
        """A connection to the first server that answers, bound or refused as the directory says."""
        reasons = []
        for name in self._auth.server:
            try:
                connection = self._connect(name, dn, password)
            except (LDAPException, OSError) as error:
                reasons.append(f"{name}: {_reason(error)}")
                continue
            try:
                yield connection
            except LDAPInvalidFilterError as error:
                raise OperationFailed("the directory cannot be searched: the filter is not valid", "check auth.user_search_filter") from error
            except LDAPException as error:
                raise Unreachable(f"the directory {name} broke off: {_reason(error)}") from error
            finally:
                connection.unbind()
            return
        raise Unreachable(
            f"no directory server answers: {'; '.join(reasons)}", "the administrator of this host can still do everything: coollm on the host itself"
        )

    def _connect(self, name: str, dn: str | None, password: str | None) -> Any:
        auth = self._auth
        parts = urlsplit(name if "://" in name else f"//{name}")
        is_ldaps = parts.scheme == "ldaps" or (not parts.scheme and auth.tls == "ldaps")
        tls = ldap3.Tls(validate=ssl.CERT_REQUIRED if auth.verify else ssl.CERT_NONE, version=ssl.PROTOCOL_TLS_CLIENT, ca_certs_file=auth.ca_file)
        timeout = max(1, int(auth.timeout))
        port = parts.port or (636 if is_ldaps else 389)
        server = ldap3.Server(parts.hostname or name, port, use_ssl=is_ldaps, tls=tls, connect_timeout=timeout, get_info=ldap3.NONE)
        connection = ldap3.Connection(server, user=dn, password=password, receive_timeout=timeout, raise_exceptions=False, read_only=True, auto_referrals=False)
        connection.open(read_server_info=False)
        if auth.tls == "starttls" and not is_ldaps and not connection.start_tls(read_server_info=False):
            raise OSError("it does not encrypt the connection (StartTLS)")
        connection.bind(read_server_info=False)
        return connection


def _normal(dn: str) -> str:
    """A DN as it compares: without the case of its letters and the spaces around its parts."""
    try:
        return ",".join(f"{kind.strip()}={value.strip()}" for kind, value, _ in parse_dn(dn, strip=True)).lower()
    except LDAPException:
        return dn.strip().lower()


def _reason(error: Exception) -> str:
    """In a few words, without what the user sent."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate" in text.lower() or "doesn't match" in text:
        return "its certificate is not good"
    if "timed out" in text or "timeout" in text.lower():
        return "it did not answer in time"
    return str(getattr(error, "strerror", None) or text.splitlines()[0][:120] if text else type(error).__name__)
