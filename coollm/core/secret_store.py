"""Secrets encrypted at rest: each under a data key of its own, each data key under the master key.

    STATE/secrets.json  {"secrets": {"openai": {"value": "…", "keys": {MASTER_KEY_ID: "…"}, "set": 1790000000.0, "by": "root"}}}

Both are AES-256-GCM with a random nonce of 96 bits before the ciphertext; the name is authenticated with them, so that entries cannot be exchanged. To change
the master key the data keys are encrypted anew; the values are not touched.

Source: https://cryptography.io/en/latest/hazmat/primitives/aead/ (AESGCM; NIST SP 800-38D).
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from coollm.core.errors import OperationFailed
from coollm.core.files import replace_file
from coollm.core.master_key import MasterKeys, key_id, master_key_file
from coollm.core.paths import HASH_KEY, SECRETS, make_private
from coollm.core.registry import did_you_mean

NONCE_BYTES = 12
LONGEST_VALUE = 64 * 1024

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")


class Sealed(msgspec.Struct):
    """A secret as it is kept. `keys` are its data key under each master key that may open it, by their ids; `set` is a time of the epoch in seconds."""

    value: str
    keys: dict[str, str]
    set: float
    by: str


class _File(msgspec.Struct):
    secrets: dict[str, Sealed] = {}


class SecretStore:
    """The secrets of a host. Its readers and writers are several processes."""

    def __init__(self, state: Path, master: MasterKeys) -> None:
        self.file = state / SECRETS
        self.master = master
        self._state = state

    def names(self) -> dict[str, Sealed]:
        """All that is kept, sealed. Raises OperationFailed if the file makes no sense."""
        try:
            return msgspec.json.decode(self.file.read_bytes(), type=_File).secrets
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
            reason = getattr(error, "strerror", None) or "it is damaged"
            raise OperationFailed(f"{self.file}: the secrets cannot be read: {reason}", "put back a copy of it") from error

    def get(self, name: str) -> str:
        """A secret in clear. Raises OperationFailed if there is none of this name, or no master key opens it."""
        return self.reader()(name)

    def reader(self) -> Callable[[str], str]:
        """What `get` does for many: file and master keys are read once, when the first is asked for."""
        kept: dict[str, Sealed] = {}
        keys: dict[str, bytes] = {}

        def read(name: str) -> str:
            if not kept:
                kept.update(self.names())
            if name not in kept:
                raise OperationFailed(f"there is no secret '{name}'{did_you_mean(name, tuple(kept))}", f"coollm secrets set {name}")
            if not keys:
                keys.update(self.master.by_id())
            return self.open(name, kept[name], keys)

        return read

    def open(self, name: str, sealed: Sealed, keys: Mapping[str, bytes] | None = None) -> str:
        """A sealed secret in clear, by the master keys that are here. Raises OperationFailed."""
        data_key = self._data_key(name, sealed, keys)
        try:
            return decrypt(data_key, sealed.value, _value_label(name)).decode()
        except (InvalidTag, ValueError) as error:
            raise OperationFailed(f"the secret '{name}' is damaged: it is not what was written", f"coollm secrets set {name}") from error

    def seal(self, name: str, value: str, by: str) -> Sealed:
        """A secret as it would be kept. Raises OperationFailed."""
        if not NAME.fullmatch(name):
            raise OperationFailed(f"'{name[:80]}' is no name for a secret", "letters, digits, '.', '_' and '-', at most 64, the first a letter or digit")
        if not value or len(value) > LONGEST_VALUE:
            raise OperationFailed("a secret has 1 to 65536 characters", "give it on standard input")
        master, data_key = self.master.current(), AESGCM.generate_key(256)
        wrapped = encrypt(master, data_key, _key_label(name, key_id(master)))
        return Sealed(encrypt(data_key, value.encode(), _value_label(name)), {key_id(master): wrapped}, time.time(), by)

    def put(self, name: str, sealed: Sealed | None) -> None:
        """Keeps a sealed secret, or removes it. Raises OperationFailed."""
        with self._changing() as kept:
            if sealed is None:
                kept.pop(name, None)
            else:
                kept[name] = sealed

    def wrap_all(self, key: bytes) -> int:
        """Encrypts every data key under another master key, too. Returns how many secrets there are. Raises OperationFailed."""
        keys = self.master.by_id()
        with self._changing() as kept:
            for name, sealed in kept.items():
                if key_id(key) not in sealed.keys:
                    sealed.keys[key_id(key)] = encrypt(key, self._data_key(name, sealed, keys), _key_label(name, key_id(key)))
            return len(kept)

    def check_all(self, key: bytes) -> None:
        """Opens every secret with this master key alone. Raises OperationFailed with the name of one that it does not open."""
        for name, sealed in self.names().items():
            wrapped = sealed.keys.get(key_id(key))
            try:
                if wrapped is None:
                    raise ValueError
                decrypt(decrypt(key, wrapped, _key_label(name, key_id(key))), sealed.value, _value_label(name))
            except (InvalidTag, ValueError) as error:
                raise OperationFailed(f"the secret '{name}' does not open with the new master key") from error

    def forget_all_but(self, key: bytes) -> None:
        """Removes what other master keys could open. Raises OperationFailed."""
        with self._changing() as kept:
            for name, sealed in kept.items():
                if key_id(key) not in sealed.keys:
                    raise OperationFailed(f"the secret '{name}' does not open with the master key in force")
                sealed.keys = {key_id(key): sealed.keys[key_id(key)]}

    def _data_key(self, name: str, sealed: Sealed, keys: Mapping[str, bytes] | None = None) -> bytes:
        keys = keys or self.master.by_id()
        for master_id, wrapped in sealed.keys.items():
            if master_id in keys:
                with contextlib.suppress(InvalidTag, ValueError):
                    return decrypt(keys[master_id], wrapped, _key_label(name, master_id))
        raise OperationFailed(
            f"the secret '{name}' does not open with the master key that is here ({', '.join(keys)}): it was set with {', '.join(sealed.keys)}",
            f"put back the master key that was at {self.master.file}, or set the secret again",
        )

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Sealed]]:
        make_private(self._state)
        try:
            descriptor = os.open(self._state / f".{SECRETS}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.getuid() == 0:  # the gateway takes it, too
                    owner = self._state.stat()
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                kept = self.names()
                yield kept
                replace_file(self.file, msgspec.json.format(msgspec.json.encode(_File(kept)), indent=1), like=self._state)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OperationFailed(f"{self.file}: cannot be written: {error.strerror}", "make room on its disk, or be the gateway's user") from error


def secret_store(config: Path, state: Path) -> SecretStore:
    """The store of the host with this configuration."""
    return SecretStore(state, MasterKeys(master_key_file(config, state)))


def make_hash_key(config: Path, state: Path) -> bytes:
    """What keys of clients and administrators are hashed under, made with a master key if it is not there yet. Raises OperationFailed."""
    store = secret_store(config, state)
    if HASH_KEY not in store.names():
        store.master.make()
        store.put(HASH_KEY, store.seal(HASH_KEY, secrets.token_hex(32), "the gateway"))
    return bytes.fromhex(store.get(HASH_KEY))


def encrypt(key: bytes, clear: bytes, label: bytes) -> str:
    """AES-GCM under a key of 32 bytes, as text; it can be read with the same label alone."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return base64.b64encode(nonce + AESGCM(key).encrypt(nonce, clear, label)).decode()


def decrypt(key: bytes, text: str, label: bytes) -> bytes:
    """What was encrypted. Raises InvalidTag and ValueError."""
    data = base64.b64decode(text, validate=True)
    clear: bytes = AESGCM(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], label)
    return clear


def _value_label(name: str) -> bytes:
    return b"coollm secret\0" + name.encode()


def _key_label(name: str, master_id: str) -> bytes:
    return b"coollm data key\0" + name.encode() + b"\0" + master_id.encode()


def as_json(sealed: Sealed) -> dict[str, Any]:
    """A sealed secret for the journal of changes, where a change that is taken back finds it."""
    told: dict[str, Any] = msgspec.to_builtins(sealed)
    return told


def from_json(told: dict[str, Any] | None) -> Sealed | None:
    """The reverse."""
    return None if told is None else msgspec.convert(told, Sealed)
