"""Keys of Vertex: an API key as it is; a service account, as the JSON text of its key file, becomes access tokens that google-auth fetches and renews.

Source: https://googleapis.dev/python/google-auth/latest/reference/google.oauth2.service_account.html.
"""

from __future__ import annotations

from datetime import UTC

import orjson
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.oauth2 import service_account

from coollm.credentials import Credential, FixedKey, RenewedToken
from coollm.providers.verdict import Cause, VendorError, Verdict
from coollm.providers.vertex import ACCESS_MARK

SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def credential(key: str) -> Credential:
    """What a configured key opens. Raises ValueError for a service account's key that is none."""
    return RenewedToken(_ServiceAccount(key).fetch) if key.startswith("{") else FixedKey(key)


class _ServiceAccount:
    """A service account of Google's."""

    def __init__(self, key: str) -> None:
        self._credentials = service_account.Credentials.from_service_account_info(orjson.loads(key), scopes=[SCOPE])

    def fetch(self) -> tuple[str, float]:
        """An access token, marked as one, and its end in seconds of the epoch. Raises VendorError (KEY_REJECTED)."""
        try:
            self._credentials.refresh(Request())
        except GoogleAuthError as error:
            raise VendorError(Verdict(cause=Cause.KEY_REJECTED, message="Google gives no token for the service account")) from error
        return ACCESS_MARK + str(self._credentials.token), self._credentials.expiry.replace(tzinfo=UTC).timestamp()
