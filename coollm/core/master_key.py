"""The master key, under which the data keys of secrets are encrypted: from a systemd credential, from a file of this user's alone, or from a passphrase.

    coollm-master-key BASE64                     the key itself
    coollm-master-passphrase BASE64 N R P        a salt and scrypt's costs: whoever knows the passphrase has the key

A key is known by its id, which tells nothing of it. While the master key is changed there are two: whichever a secret was encrypted under opens it.

Sources: systemd.exec(5), LoadCredential=; https://cryptography.io/en/latest/hazmat/primitives/key-derivation-functions/ (Scrypt; RFC 7914).
"""

from __future__ import annotations

import base64
import contextlib
import getpass
import hashlib
import os
import secrets
import sys
from pathlib import Path

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from coollm.core.errors import OperationFailed
from coollm.core.files import replace_file
from coollm.core.paths import is_installed

CREDENTIAL = "coollm-master-key"
PLAIN, PASSPHRASE = "coollm-master-key", "coollm-master-passphrase"
KEY_BYTES = 32
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**16, 8, 1
MOST_SCRYPT_N = 2**20

UNLOCKED = "COOLLM_MASTER_DESCRIPTOR"
"""Names the descriptor of memory that holds what passphrases came to, each after its salt, for the processes that this one becomes or starts."""

SALT_BYTES = 16

NEXT, PREVIOUS = ".next", ".previous"


def master_key_file(config: Path, state: Path) -> Path:
    """Where the master key is: away from the state, where the host has a place for that; $COOLLM_MASTER_KEY_FILE beats it."""
    given = os.environ.get("COOLLM_MASTER_KEY_FILE")
    if given:
        return Path(given)
    return config.absolute().parent / "master.key" if is_installed(config) else state / "master.key"


def key_id(key: bytes) -> str:
    """The name of a key, from which nobody can get at it."""
    return hashlib.sha256(b"coollm master key\0" + key).hexdigest()[:16]


class MasterKeys:
    """The master keys that this process may use, by their ids: the one in force, and while it is changed the one that comes or goes."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def exists(self) -> bool:
        """Whether there is one, here or from systemd."""
        return self.file.exists() or self._credential() is not None

    def current(self) -> bytes:
        """The one in force. Raises OperationFailed if there is none, or it cannot be read."""
        credential = self._credential()
        if credential is not None and not os.access(self.file, os.R_OK):
            return self._read(credential)
        return self._read(self.file)

    def by_id(self) -> dict[str, bytes]:
        """Every one that can be read."""
        found = {}
        for path in (self.file, self._credential(), self._beside(NEXT), self._beside(PREVIOUS)):
            if path is not None:
                with contextlib.suppress(OperationFailed):
                    key = self._read(path)
                    found[key_id(key)] = key
        if not found:
            self.current()  # says why
        return found

    def make(self, passphrase: str | None = None) -> bytes:
        """Makes the first one, if there is none. Raises OperationFailed."""
        if self.exists():
            return self.current()
        key, text = new_key(passphrase)
        self._write(self.file, text)
        return key

    def prepare_next(self, passphrase: str | None = None) -> bytes:
        """Makes the one that will follow, or gives that which an earlier attempt has made. Raises OperationFailed."""
        path = self._beside(NEXT)
        if path.exists():
            return self._read(path)
        key, text = new_key(passphrase)
        self._write(path, text)
        return key

    def forget_next(self) -> None:
        """Removes the one that would have followed."""
        shred(self._beside(NEXT))

    def switch(self) -> None:
        """Puts the next one in force; the one before is kept beside it until it is forgotten."""
        following = self._beside(NEXT)
        if not following.exists():
            return  # it is in force already
        self._write(self._beside(PREVIOUS), self.file.read_text("ascii"))
        following.replace(self.file)

    def switch_back(self) -> None:
        """Puts the one before in force again."""
        before = self._beside(PREVIOUS)
        if before.exists():
            before.replace(self.file)

    def forget_previous(self) -> None:
        """Removes the one before."""
        shred(self._beside(PREVIOUS))

    def _beside(self, suffix: str) -> Path:
        return self.file.with_name(self.file.name + suffix)

    @staticmethod
    def _credential() -> Path | None:
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        path = Path(directory) / CREDENTIAL if directory else None
        return path if path is not None and path.exists() else None

    def _read(self, path: Path) -> bytes:
        try:
            text = path.read_text("ascii")
            mode = path.stat().st_mode & 0o077
        except FileNotFoundError as error:
            raise OperationFailed(f"there is no master key at {path}", "coollm secrets set NAME makes one; a restored host needs the one it had") from error
        except (OSError, UnicodeDecodeError) as error:
            raise OperationFailed(f"{path}: the master key cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from error
        if mode and path.name != CREDENTIAL:
            raise OperationFailed(f"{path}: others may read the master key", f"chmod 0600 {path}")
        kind, *rest = text.split()
        try:
            if kind == PLAIN:
                key = base64.b64decode(rest[0], validate=True)
                if len(key) != KEY_BYTES:
                    raise ValueError("its length")
                return key
            if kind == PASSPHRASE:
                salt, (n, r, p) = base64.b64decode(rest[0], validate=True), map(int, rest[1:4])
                if len(salt) != SALT_BYTES:
                    raise ValueError("its salt")
                if not 2 <= n <= MOST_SCRYPT_N or r > 32 or p > 16:
                    raise ValueError("its costs")
                return self._unlock(path, salt, n, r, p)
        except (ValueError, IndexError) as error:
            raise OperationFailed(f"{path}: this is no master key", "put back the one that was there") from error
        raise OperationFailed(f"{path}: this is no master key", "put back the one that was there")

    @staticmethod
    def _unlock(path: Path, salt: bytes, n: int, r: int, p: int) -> bytes:
        """The key of a passphrase: what was found out before, else what is asked for on the terminal or in $COOLLM_PASSPHRASE_FILE."""
        known = _unlocked().get(salt)
        if known is not None:
            return known
        key = derive(_passphrase(path), salt, n, r, p)
        _hand_on(salt, key)
        return key

    @staticmethod
    def _write(path: Path, text: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, text.encode(), like=owner_of(path))
        except OSError as error:
            raise OperationFailed(f"{path}: the master key cannot be written: {error.strerror}", "be root, or the user whose gateway it is") from error


def owner_of(path: Path) -> Path:
    """Whose file a new one is to be: that of the key that is there, else of the environment file beside it, which the gateway reads, too."""
    for one in (path, path.parent / "master.key", path.parent / "environment"):
        if one.exists():
            return one
    return path.parent


def new_key(passphrase: str | None) -> tuple[bytes, str]:
    """A new key and the text of its file."""
    if passphrase is None:
        key = secrets.token_bytes(KEY_BYTES)
        return key, f"{PLAIN} {base64.b64encode(key).decode()}\n"
    salt = secrets.token_bytes(SALT_BYTES)
    text = f"{PASSPHRASE} {base64.b64encode(salt).decode()} {SCRYPT_N} {SCRYPT_R} {SCRYPT_P}\n"
    key = derive(passphrase, salt, SCRYPT_N, SCRYPT_R, SCRYPT_P)
    _hand_on(salt, key)
    return key, text


def derive(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    """What a passphrase comes to."""
    return Scrypt(salt=salt, length=KEY_BYTES, n=n, r=r, p=p).derive(passphrase.encode())


def shred(path: Path) -> None:
    """Overwrites a file and removes it. On a disk that writes elsewhere what it overwrites (copy on write, flash) only the removal holds."""
    with contextlib.suppress(FileNotFoundError):
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.write(secrets.token_bytes(size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()


def _passphrase(path: Path) -> str:
    given = os.environ.get("COOLLM_PASSPHRASE_FILE")
    if given:
        try:
            return Path(given).read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise OperationFailed(f"{given}: the passphrase cannot be read", "COOLLM_PASSPHRASE_FILE names its file") from error
    if not sys.stdin.isatty():
        raise OperationFailed(f"{path}: the master key is under a passphrase, and nobody can be asked", "COOLLM_PASSPHRASE_FILE=FILE names a file that has it")
    return getpass.getpass("passphrase of the master key: ")


def _unlocked() -> dict[bytes, bytes]:
    """What passphrases came to, by their salts."""
    given = os.environ.get(UNLOCKED, "")
    try:
        data = os.pread(int(given), 100 * (SALT_BYTES + KEY_BYTES), 0) if given.isdigit() else b""
    except OSError:
        return {}
    records = [data[place : place + SALT_BYTES + KEY_BYTES] for place in range(0, len(data), SALT_BYTES + KEY_BYTES)]
    return {record[:SALT_BYTES]: record[SALT_BYTES:] for record in records if len(record) == SALT_BYTES + KEY_BYTES}


def _hand_on(salt: bytes, key: bytes) -> None:
    """Keeps a key in memory that only this process and its children reach."""
    records = {**_unlocked(), salt: key}
    descriptor = os.memfd_create("coollm-master-key", 0)
    os.write(descriptor, b"".join(one + kept for one, kept in records.items()))
    os.set_inheritable(descriptor, True)
    os.environ[UNLOCKED] = str(descriptor)
