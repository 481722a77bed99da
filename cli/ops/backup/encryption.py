"""Encryption of archives: for public keys alone, so that who takes this host cannot read its backups. By age (or ssh keys), or by gpg.

Sources: https://github.com/woodruffw/pyrage (encrypt_io, decrypt_io), https://age-encryption.org/v1, gpg(1).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from coollm_cli.ops import tools

from coollm.core.errors import CheckFailed, ConfigurationError, OperationFailed, UsageError

AGE, GPG = "age", "gpg"
GPG_PREFIX = "gpg:"
AGE_PRIVATE = "AGE-SECRET-KEY-"


@dataclass(frozen=True)
class Encryption:
    """For whom archives are."""

    kind: str
    recipients: tuple[str, ...]

    @property
    def suffix(self) -> str:
        """Of the archives' names."""
        return f".tar.zst.{self.kind}"

    @contextlib.contextmanager
    def into(self, out: Any) -> Iterator[IO[bytes]]:
        """What is written here comes out encrypted; it is whole when the context has ended. Raises OperationFailed and OSError."""
        if self.kind == GPG:
            yield from self._by_gpg(out)
            return
        import pyrage

        keys = [_age_recipient(one) for one in self.recipients]
        remembered = _Remembering(out)
        with _through(lambda source: pyrage.encrypt_io(source, remembered, keys), remembered) as sink:
            yield sink

    def _by_gpg(self, out: Any) -> Iterator[IO[bytes]]:
        names = [argument for one in self.recipients for argument in ("--recipient", one.removeprefix(GPG_PREFIX))]
        command = [tools.need("gpg"), "--batch", "--no-tty", "--trust-model", "always", "--compress-algo", "none", "--encrypt", *names]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.PIPE)  # noqa: S603
        try:
            assert process.stdin is not None  # noqa: S101
            with contextlib.suppress(BrokenPipeError), process.stdin:
                yield process.stdin
        finally:
            said = process.communicate()[1].decode("utf-8", "replace").strip().splitlines() if process.stdin and not process.stdin.closed else _words(process)
            if process.wait() != 0 and sys.exc_info()[0] is None:
                raise OperationFailed(f"gpg: {said[-1] if said else f'exit {process.returncode}'}")


def _words(process: subprocess.Popen[bytes]) -> list[str]:
    return process.stderr.read().decode("utf-8", "replace").strip().splitlines() if process.stderr else []


def encryption_for(recipients: Sequence[str]) -> Encryption:
    """Checks that archives can be made for them. Raises ConfigurationError and OperationFailed."""
    if not recipients:
        raise OperationFailed(
            "backup.recipients names nobody: a backup is encrypted for somebody's public key, or not made",
            "coollm backup keygen recovery.key makes a pair; its public key belongs in backup.recipients",
        )
    if recipients[0].startswith(GPG_PREFIX):
        for one in recipients:
            tools.run("gpg", "--batch", "--no-tty", "--list-keys", one.removeprefix(GPG_PREFIX))
        return Encryption(GPG, tuple(recipients))
    for one in recipients:
        _age_recipient(one)
    return Encryption(AGE, tuple(recipients))


def _age_recipient(text: str) -> Any:
    import pyrage

    from coollm.core.config.faults import Fault

    try:
        return pyrage.ssh.Recipient.from_str(text) if text.startswith("ssh-") else pyrage.x25519.Recipient.from_str(text)
    except (pyrage.RecipientError, ValueError) as error:
        raise ConfigurationError((Fault(None, "backup.recipients", f"'{text[:80]}' is no public key", "age1…, ssh-ed25519 … or ssh-rsa …"),)) from error


def write_identity(file: Path) -> str:
    """Writes a new private key of age to a file that is not there yet. Returns the public one. Raises UsageError and OperationFailed."""
    import pyrage

    made = pyrage.x25519.Identity.generate()
    public = str(made.to_public())
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as opened_file:
            opened_file.write(f"# public key: {public}\n{made}\n")
    except FileExistsError as error:
        raise UsageError(f"{file} is there already, and a private key is not overwritten", "name another file") from error
    except OSError as error:
        raise OperationFailed(f"{file}: cannot be written: {error.strerror}") from error
    return public


@dataclass(frozen=True)
class Identity:
    """Private keys that can open archives; none for gpg, which has its own keyring. `public` are those that are known by them."""

    keys: tuple[Any, ...] = ()
    public: frozenset[str] = frozenset()
    where: str = "gpg's keyring"


def read_identity(file: Path | None) -> Identity:
    """The private keys of a file of age or ssh, `-` being standard input. Raises UsageError and OperationFailed."""
    if file is None:
        return Identity()
    import pyrage

    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise OperationFailed(f"--identity {file}: cannot be read: {error.strerror}") from error
    text = data.decode("utf-8", "replace")
    keys: list[Any] = []
    try:
        if AGE_PRIVATE in text:
            keys = [pyrage.x25519.Identity.from_str(line.strip()) for line in text.splitlines() if line.strip().startswith(AGE_PRIVATE)]
        elif "PRIVATE KEY" in text:
            return Identity((pyrage.ssh.Identity.from_buffer(data),), where=str(file))
    except (pyrage.IdentityError, ValueError) as error:
        raise OperationFailed(f"--identity {file}: the private key in it cannot be used", "an unencrypted key of age or ssh") from error
    if not keys:
        raise UsageError(f"--identity {file}: there is no private key of age or ssh in it", f"a line {AGE_PRIVATE}…, or a private key of ssh")
    return Identity(tuple(keys), frozenset(str(key.to_public()) for key in keys), str(file))


@contextlib.contextmanager
def opened(source: Any, kind: str, identity: Identity, recipients: Sequence[str]) -> Iterator[IO[bytes]]:
    """An archive in clear, as it is read. Raises CheckFailed where it was changed, OperationFailed where the identity is another's."""
    if kind == GPG:
        with _gpg_opened(source) as clear:
            yield clear
        return
    if not identity.keys:
        raise UsageError("the archive is encrypted by age", "--identity FILE names the file with the private key")
    if identity.public and recipients and not identity.public & set(recipients) and not any(one.startswith("ssh-") for one in recipients):
        raise OperationFailed(f"{identity.where} is not the key of a recipient: the backup is for {', '.join(recipients)}", "--identity FILE of one of these")
    import pyrage

    with _out_of(lambda sink: pyrage.decrypt_io(source, sink, list(identity.keys)), pyrage.DecryptError, identity) as clear:
        yield clear


@contextlib.contextmanager
def _gpg_opened(source: Any) -> Iterator[IO[bytes]]:
    command = [tools.need("gpg"), "--batch", "--no-tty", "--quiet", "--decrypt"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: S603
    assert process.stdin is not None  # noqa: S101
    assert process.stdout is not None  # noqa: S101
    sink = process.stdin

    def feed() -> None:
        with contextlib.suppress(OSError), sink:
            while data := source.read(65536):
                sink.write(data)

    feeding = threading.Thread(target=feed, daemon=True)
    feeding.start()
    failed = False
    try:
        yield process.stdout
    except CheckFailed:
        failed = True
    finally:
        process.stdout.close()
        feeding.join()
        said = _words(process)
        code = process.wait()
    if failed or code != 0:
        raise CheckFailed(f"gpg does not open it: {said[-1] if said else f'exit {code}'}", "the private key of a recipient has to be in gpg's keyring")


class _Remembering:
    """A file that remembers what went wrong as it was written: through the library it would come out as something else."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """As a file."""
        try:
            return int(self._file.write(data))
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """As a file."""
        try:
            self._file.flush()
        except OSError as error:
            self.error = error
            raise


@contextlib.contextmanager
def _through(work: Callable[[IO[bytes]], None], out: _Remembering) -> Iterator[IO[bytes]]:
    """A pipe that is written here, and read by `work` in a thread, which writes it to `out`."""
    read, write = os.pipe()
    failed: list[BaseException] = []

    def run() -> None:
        with os.fdopen(read, "rb") as source:
            try:
                work(source)
            except BaseException as error:  # noqa: BLE001  it is raised where the writing is done
                failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        with os.fdopen(write, "wb", 1024 * 1024) as sink:
            yield sink
    except BrokenPipeError:
        pass
    finally:
        thread.join()
    if out.error is not None:
        raise out.error
    if failed:
        raise OperationFailed(f"the archive could not be encrypted ({type(failed[0]).__name__})") from failed[0]


@contextlib.contextmanager
def _out_of(work: Callable[[Any], None], refused: type[Exception], identity: Identity) -> Iterator[IO[bytes]]:
    """The reverse: `work` writes in a thread what is read here."""
    read, write = os.pipe()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with os.fdopen(write, "wb", 0) as file:
                sink = _Remembering(file)
                try:
                    work(sink)
                except BaseException as error:  # noqa: BLE001  it is raised where the reading is done
                    if sink.error is None:  # else whoever read has gone away, and says why
                        failed.append(error)
        except OSError:
            pass

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    broken: CheckFailed | None = None
    try:
        with os.fdopen(read, "rb", 1024 * 1024) as clear:
            yield clear
    except CheckFailed as error:
        broken = error
    finally:
        thread.join()
    if failed and isinstance(failed[0], refused | OSError):
        raise CheckFailed(f"it cannot be decrypted: it was changed, or {identity.where} is not the key of a recipient") from failed[0]
    if failed:
        raise failed[0]
    if broken is not None:
        raise broken
