"""Waits until an instance answers on its local socket: `python -m coollm.server.probe SOCKET SECONDS`, for its unit's ExecStartPost.

How it is does not matter here: a gateway whose store comes late is one that has started.
"""

from __future__ import annotations

import socket
import sys
import time

AGAIN_SECONDS = 0.1
PATIENCE_SECONDS = 5.0
REQUEST = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def answers(path: str) -> bool:
    """Whether a worker answers at the socket `path`."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE_SECONDS)
            connection.connect(path)
            connection.sendall(REQUEST)
            return connection.recv(12) in (b"HTTP/1.1 200", b"HTTP/1.1 503")
    except OSError:
        return False


def main(path: str, seconds: float) -> int:
    """The exit code: 0 once it answers, 1 if it has not in time."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if answers(path):
            return 0
        time.sleep(AGAIN_SECONDS)
    sys.stderr.write(f"error: no worker has answered at {path} within {seconds:.0f} s\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
