"""Vendor keys beside the configuration: those that were added while the gateway runs, and those that were retired.

    STATE/vendor-keys.json  {"keys": [{"provider": "openai", "id": "4a3c…", "secret": "openai.4a3c…", "state": "canary", "share": 0.05, …}], "retired": [{…}]}

The keys themselves are in the secret store. A key that was added gets no request until it is a canary, and then its share of them; an active one is like those
of the configuration. One that is held gets no new requests, of whichever source it is; one that was retired is not used any more, also where the configuration
still has it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from coollm.core.errors import OperationFailed
from coollm.core.files import replace_file
from coollm.core.paths import make_private

FILE_NAME = "vendor-keys.json"

State = Literal["added", "canary", "active"]


class VendorKey(msgspec.Struct, frozen=True):
    """A key that was added. `id` is its fingerprint, `secret` its name in the secret store, `share` its part of the requests while it is a canary."""

    provider: str
    id: str
    secret: str
    state: State
    added: float
    by: str
    share: float = 0.0

    @property
    def name(self) -> str:
        """As stores and logs know it."""
        return f"{self.provider}/{self.id}"


class Retired(msgspec.Struct, frozen=True):
    """A key that is used no more."""

    provider: str
    id: str
    at: float
    by: str


class VendorKeys(msgspec.Struct, frozen=True):
    """All that is kept. A change makes another one."""

    keys: tuple[VendorKey, ...] = ()
    retired: tuple[Retired, ...] = ()
    held: tuple[str, ...] = ()

    def find(self, provider: str, key: str) -> VendorKey | None:
        """A key that was added."""
        return next((one for one in self.keys if (one.provider, one.id) == (provider, key)), None)

    def is_retired(self, provider: str, key: str) -> bool:
        """Whether a key is used no more."""
        return any((one.provider, one.id) == (provider, key) for one in self.retired)

    def with_key(self, key: VendorKey) -> VendorKeys:
        """The same with one more, or another state of it."""
        others = tuple(one for one in self.keys if one.name != key.name)
        back = tuple(one for one in self.retired if (one.provider, one.id) != (key.provider, key.id))
        return msgspec.structs.replace(self, keys=(*others, key), retired=back)

    def without(self, provider: str, key: str) -> VendorKeys:
        """The same without one that was added."""
        return msgspec.structs.replace(self, keys=tuple(one for one in self.keys if (one.provider, one.id) != (provider, key)))

    def retire(self, provider: str, key: str, by: str) -> VendorKeys:
        """The same with one that is used no more."""
        if self.is_retired(provider, key):
            return self
        retired = (*self.retired, Retired(provider, key, time.time(), by))
        return msgspec.structs.replace(self.without(provider, key).hold(provider, key, is_held=False), retired=retired)

    def bring_back(self, provider: str, key: str) -> VendorKeys:
        """The same with one that was retired used again, where the configuration still has it."""
        return msgspec.structs.replace(self, retired=tuple(one for one in self.retired if (one.provider, one.id) != (provider, key)))

    def hold(self, provider: str, key: str, *, is_held: bool) -> VendorKeys:
        """The same with one that gets no new requests, or gets them again."""
        others = tuple(name for name in self.held if name != f"{provider}/{key}")
        return msgspec.structs.replace(self, held=(*others, f"{provider}/{key}") if is_held else others)

    def shares(self) -> dict[str, float]:
        """The parts of those that do not take their full share: 0 for one that gets no request yet."""
        shares = {one.name: one.share if one.state == "canary" else 0.0 for one in self.keys if one.state != "active"}
        return shares | dict.fromkeys(self.held, 0.0)


def read_vendor_keys(state: Path) -> VendorKeys:
    """What is kept under a state directory. Raises OperationFailed if it makes no sense."""
    path = state / FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=VendorKeys)
    except FileNotFoundError:
        return VendorKeys()
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise OperationFailed(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'it is damaged'}", "put back a copy of it") from error


def write_vendor_keys(state: Path, kept: VendorKeys) -> None:
    """Keeps them: gateways that run have them within a second. Raises OperationFailed."""
    make_private(state)
    try:
        replace_file(state / FILE_NAME, msgspec.json.format(msgspec.json.encode(kept), indent=1), like=state)
    except OSError as error:
        raise OperationFailed(f"{state / FILE_NAME}: cannot be written: {error.strerror}", "make room on its disk, or be the gateway's user") from error


def as_json(kept: VendorKeys) -> dict[str, Any]:
    """For the journal of changes."""
    told: dict[str, Any] = msgspec.to_builtins(kept)
    return told
