"""TLS in the gateway itself: modern ciphers, and a certificate that was renewed is served within two seconds, without a restart.

An ssl.SSLContext takes another certificate while it is used: connections that begin from then on have it (https://docs.python.org/3/library/ssl.html,
SSLContext.load_cert_chain). A pair that does not fit, as between the writing of its two files, is not taken. Ciphers:
https://wiki.mozilla.org/Security/Server_Side_TLS (intermediate).
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
from pathlib import Path

from cryptography import x509

from coollm.core.config.schema import Tls

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_log = logging.getLogger("coollm.tls")


class TlsFiles:
    """The context that connections begin with, and the files that it is made from."""

    def __init__(self, tls: Tls) -> None:
        """Raises OSError and ssl.SSLError for a pair that cannot be served."""
        self._tls = tls
        self._seen = self._signature()
        self.context = _context(tls)

    def look(self) -> bool:
        """Takes a pair that has been renewed. Whether it has; one that cannot be served is told of once, and the old one stays."""
        seen = self._signature()
        if seen == self._seen:
            return False
        try:
            _context(self._tls)
            self.context.load_cert_chain(self._tls.cert_file, self._tls.key_file)
            if self._tls.client_ca_file is not None:
                self.context.load_verify_locations(self._tls.client_ca_file)
        except (OSError, ssl.SSLError) as error:
            _log.error("a certificate cannot be served: the one before stays", extra={"file": self._tls.cert_file, "reason": str(error)})
            # Its other file may come a moment later, and is then another signature.
            self._seen = seen
            return False
        self._seen = seen
        _log.info("another certificate is served", extra={"file": self._tls.cert_file})
        return True

    def expires(self) -> float:
        """When the certificate ends, in seconds of the epoch; 0 if its file cannot be read."""
        with contextlib.suppress(OSError, ValueError):
            return x509.load_pem_x509_certificate(Path(self._tls.cert_file).read_bytes()).not_valid_after_utc.timestamp()
        return 0.0

    def _signature(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for path in (self._tls.cert_file, self._tls.key_file, self._tls.client_ca_file):
            with contextlib.suppress(OSError, TypeError):
                told = os.stat(path or "")
                found.append((told.st_ino, told.st_mtime_ns, told.st_size))
        return tuple(found)


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[tls.min_version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(CIPHERS)
    context.load_cert_chain(tls.cert_file, tls.key_file)
    if tls.client_ca_file is not None:
        context.load_verify_locations(tls.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED if tls.client_certificates == "required" else ssl.CERT_OPTIONAL
    return context
