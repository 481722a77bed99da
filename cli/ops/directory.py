"""Trying the directory server of a configuration, from this host, before it decides who gets in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coollm.core.config.load import load
from coollm.core.config.schema import Settings
from coollm.core.errors import ConfigurationError, OperationFailed


def try_directory(config: Path, state: Path, file: Path | None, name: str | None, password: str) -> dict[str, Any]:
    """What came of it: the `server`, or `dn` and `role` of a user. Raises ConfigurationError, OperationFailed and Unreachable."""
    loaded = load(config, content=file, state=state)
    if loaded.settings is None:
        raise ConfigurationError(loaded.faults)
    if loaded.settings.auth is None:
        raise OperationFailed("no directory server is configured", "add auth: {type: ldap, server: …, base_dn: …}")
    return _try(loaded.settings, name, password)


def check_directory(settings: Settings) -> None:
    """Binds as the service would. Raises OperationFailed and Unreachable."""
    _try(settings, None, "")


def _try(settings: Settings, name: str | None, password: str) -> dict[str, Any]:
    assert settings.auth is not None  # noqa: S101  both callers have looked
    try:
        from coollm.core.directory import Directory  # its package is there where a directory is configured
    except ImportError as error:
        raise OperationFailed("auth.type is ldap, and the package ldap3 is not installed", "pip install 'coollm[ldap]'") from error
    directory = Directory(settings.auth)
    if name is None:
        return {"server": directory.check()}
    dn, role = directory.log_in(name, password)
    return {"dn": dn, "role": role}
