"""What every request to Bedrock carries: a signature (SigV4, by botocore), or an API key.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html.
"""

from __future__ import annotations

import re

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from coollm.core.types import Json
from coollm.providers.base import AnswerFormat, VendorRequest
from coollm.providers.payload import joined, write_json

_REGION = re.compile(r"bedrock-(?:agent-)?runtime(?:-fips)?\.([a-z0-9-]+)\.")
DEFAULT_REGION = "us-east-1"


def region_of(url: str) -> str:
    """The region that an address of Bedrock's names."""
    found = _REGION.search(url)
    return found[1] if found else DEFAULT_REGION


def signed_post(url: str, body: Json, key: str, answer: AnswerFormat) -> VendorRequest:
    """A POST of `body`. A key is `ACCESS_KEY_ID:SECRET_ACCESS_KEY[:SESSION_TOKEN]`, which signs, or a Bedrock API key, which is sent."""
    data = joined(write_json(body))
    return VendorRequest(method="POST", url=url, headers=tuple(_headers(url, data, key).items()), body=data, answer=answer)


def _headers(url: str, body: bytes, key: str) -> dict[str, str]:
    headers = {"content-type": "application/json"}
    access, colon, rest = key.partition(":")
    if not colon:
        return {**headers, "authorization": f"Bearer {key}"}
    secret, _, token = rest.partition(":")
    request = AWSRequest(method="POST", url=url, data=body, headers=headers)
    SigV4Auth(Credentials(access, secret, token or None), "bedrock", region_of(url)).add_auth(request)
    return {name: str(value) for name, value in request.headers.items() if name.lower() not in ("host", "content-length")}
