"""Keys of Bedrock: given ones as they are; without one, what the host has (an instance's role, a profile), as botocore finds and renews it."""

from __future__ import annotations

import time

import botocore.session
from botocore.exceptions import BotoCoreError

from coollm.credentials import Credential, FixedKey, RenewedToken
from coollm.providers.verdict import Cause, VendorError, Verdict

# Botocore renews what it holds by itself: it is asked again every few minutes.
GOOD_FOR_SECONDS = 600.0


def credential(key: str) -> Credential:
    """What a configured key, or none, opens."""
    return FixedKey(key) if key else RenewedToken(_HostCredentials().fetch)


class _HostCredentials:
    """The credentials of this host."""

    def __init__(self) -> None:
        self._session = botocore.session.Session()

    def fetch(self) -> tuple[str, float]:
        """`ACCESS_KEY_ID:SECRET[:SESSION_TOKEN]` and when to ask again. Raises VendorError (KEY_REJECTED)."""
        try:
            found = self._session.get_credentials()
            frozen = found.get_frozen_credentials() if found else None
        except BotoCoreError as error:
            raise _failed(str(error)) from error
        if frozen is None:
            raise _failed("no key is configured, and this host has no AWS credentials")
        parts = [frozen.access_key, frozen.secret_key, *([frozen.token] if frozen.token else [])]
        return ":".join(parts), time.time() + GOOD_FOR_SECONDS


def _failed(message: str) -> VendorError:
    return VendorError(Verdict(cause=Cause.KEY_REJECTED, message=message))
