"""Certificates: what one says, whether a key belongs to it, and one signed by itself for a start. Source: https://cryptography.io/en/latest/x509/."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coollm.core.errors import OperationFailed

SELF_SIGNED_DAYS = 90

WARN_DAYS = 21
"""A certificate that ends within so many days is to be renewed."""


class Certificate(NamedTuple):
    """What a certificate says. `names` are the hosts it is for; times are of the epoch in seconds; `fingerprint` is SHA-256 in hexadecimal digits."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    begins: float
    ends: float
    fingerprint: str

    @property
    def is_self_signed(self) -> bool:
        """Whether nobody else vouches for it."""
        return self.subject == self.issuer


def read_certificate(pem: bytes, what: str) -> Certificate:
    """The first certificate of a chain. Raises OperationFailed."""
    try:
        return told_by(x509.load_pem_x509_certificate(pem))
    except ValueError as error:
        raise OperationFailed(f"{what}: this is no certificate in PEM form") from error


def read_der(der: bytes) -> Certificate:
    """A certificate as TLS sends it. Raises ValueError."""
    return told_by(x509.load_der_x509_certificate(der))


def told_by(found: x509.Certificate) -> Certificate:
    """What a certificate says."""
    names: tuple[str, ...] = ()
    try:
        said = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = (*said.get_values_for_type(x509.DNSName), *(str(address) for address in said.get_values_for_type(x509.IPAddress)))
    except x509.ExtensionNotFound:
        pass
    begins, ends = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    return Certificate(found.subject.rfc4514_string(), found.issuer.rfc4514_string(), names, begins, ends, found.fingerprint(hashes.SHA256()).hex())


def check_pair(chain: bytes, key: bytes, what: str) -> None:
    """Raises OperationFailed for a key that is not the certificate's."""
    try:
        public = x509.load_pem_x509_certificate(chain).public_key()
        own = serialization.load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError) as error:
        raise OperationFailed(f"{what}: not a certificate and its key, both in PEM form and without a passphrase") from error
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if public.public_bytes(*form) != own.public_bytes(*form):
        raise OperationFailed(f"{what}: the key is not this certificate's")


def self_signed(names: tuple[str, ...]) -> tuple[bytes, bytes]:
    """A certificate for hosts, signed by itself, and its key; both in PEM form."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0][:64])])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.public_bytes(serialization.Encoding.PEM), private


def read_file(path: Path) -> bytes:
    """A file's content. Raises OperationFailed."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise OperationFailed(f"{path}: cannot be read: {error.strerror}") from error


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
