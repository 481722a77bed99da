"""An answer that is passed through to the client as it comes, and is not held in memory."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from coollm.core.errors import Cancelled, ClientGone, GatewayStopping, RequestError, StreamCut
from coollm.core.types import Usage
from coollm.limits.limiter import Grant, Reservation
from coollm.limits.settlement import Ending, settled_usage
from coollm.providers.openai_chat import decode_usage
from coollm.providers.openai_responses import decode_usage as decode_split_usage
from coollm.providers.verdict import VendorError

if TYPE_CHECKING:
    from coollm.call import Call
    from coollm.gateway import Gateway
    from coollm.vendor_call import VendorCall

KEPT_BYTES = 8192
FORWARDED_HEADERS = ("content-type", "content-length", "content-disposition", "content-range")

# A name of an object, never a piece of a text: there its quotes would be escaped.
_USAGE = re.compile(r'(?<!\\)"usage"\s*:\s*(?=\{)')


class PassedThrough:
    """An iterator over the bytes for the client. It is told of and settled before its last bytes are given, or where it does not come so far, by `close`, which
    may be called more than once.
    """

    def __init__(self, gateway: Gateway, call: Call, grant: Grant, client: Reservation | None, vendor: VendorCall) -> None:
        exchange = vendor.exchange
        self.status = exchange.status
        self.headers = {name: exchange.headers[name] for name in FORWARDED_HEADERS if name in exchange.headers}
        self._gateway = gateway
        self._call = call
        self.grant = grant
        self._client = client
        self._vendor = vendor
        self._pieces = exchange.pieces()
        self._first = b""
        self._last = b""
        self._is_ended = False
        self._is_closed = False
        self._is_told = False
        self._error: RequestError | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            piece = next(self._pieces)
        except StopIteration:
            self._is_ended = True
            self._tell()
            raise
        except GatewayStopping as error:
            self._error = error.with_traceback(None)
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error
        except Cancelled as error:
            self._error = error.with_traceback(None)
            raise StopIteration from None
        except VendorError as error:
            # The head is out: an answer that is not whole can only be cut off, which the client sees by its missing end.
            self._gateway.router.failed(self.grant.target, error.verdict)
            self._error = StreamCut(f"{self.grant.target.provider} broke off the answer ({error.verdict.cause})")
            raise ConnectionResetError(errno.ECONNRESET, str(self._error)) from error
        self._call.record.first_token()
        if len(self._first) < KEPT_BYTES:
            self._first += piece[:KEPT_BYTES]
        self._last = (self._last + piece)[-KEPT_BYTES:]
        if self._vendor.exchange.is_complete:
            self._is_ended = True
            self._tell()
        return piece

    def close(self) -> None:
        """Lets go of the vendor, and tells of the request and settles what was used, where that was not done before."""
        if self._is_closed:
            return
        self._is_closed = True
        self._vendor.close(is_wanted=self._is_ended)
        self._gateway.router.board.end(self.grant.target.key)
        self._tell()

    def _tell(self) -> None:
        if self._is_told:
            return
        self._is_told = True
        ending = Ending.ANSWERED if self._is_ended else Ending.CUT if isinstance(self._error, StreamCut | GatewayStopping) else Ending.CLIENT_GONE
        if ending is Ending.CLIENT_GONE and self._error is None:
            self._error = ClientGone("the client closed its connection")
        usage = settled_usage(ending, self._call.request, find_usage(self._last) or find_usage(self._first), 0)
        self._call.record.end(ending, usage, self._error)
        self._gateway.end(self._call.record, (self.grant.key, self._client), usage)


def find_usage(data: bytes) -> Usage | None:
    """The last `usage` object in a piece of JSON, or of a stream of it: its beginning or end is enough."""
    text = data.decode("utf-8", "replace")
    for match in reversed(list(_USAGE.finditer(text))):
        try:
            found, _ = json.JSONDecoder().raw_decode(text, match.end())
        except ValueError:
            continue
        return decode_split_usage(found) if "input_tokens" in found else decode_usage(found)
    return None
