"""A worker's application in a process of its own, asked once by each request that it is given: what of it only Python's collector of cycles would free.

    python -m gevent.monkey --module tests.server.garbage < REQUESTS    ([[name, path, body, has_key, reads_to_end], …], with $COOLLM_CONFIG and $COOLLM_STATE_DIR)

It prints {name: [status, {type: number of its objects}]}.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import time
from collections import Counter
from typing import Any

import gevent
from gevent import socket

from coollm.server.connection import Connection
from coollm.server.heads import Heads
from coollm.server.traffic import Traffic
from coollm.wsgi import application
from tests.wires import plain_wire

KEY = "client-key-of-the-tests"
ROUNDS = 3
SECONDS = 10.0


def serve(app: Any, ours: Any) -> None:
    wire = plain_wire(ours)
    try:
        Connection(wire, app.wsgi_app, {"wsgi.url_scheme": "http"}, Heads(), lambda: False, Traffic(), "127.0.0.1").serve()
    except OSError:
        pass
    finally:
        wire.close()


def ask(app: Any, listener: Any, path: str, body: str, *, has_key: bool, reads_to_end: bool) -> int:
    """The status of the answer. The connection ends after it, or in the middle of it."""
    theirs = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    served = gevent.spawn(serve, app, ours)
    lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"authorization: Bearer {KEY}"] if has_key else []
    theirs.sendall("\r\n".join([*lines, "", body]).encode())
    said = b""
    with gevent.Timeout(SECONDS):
        while b"\r\n\r\n" not in said or (reads_to_end and not is_whole(said)):
            piece = theirs.recv(65536)
            if not piece:
                break
            said += piece
    theirs.close()
    served.join(SECONDS)
    return int(said.split(b" ", 2)[1])


def is_whole(said: bytes) -> bool:
    head, _, body = said.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")


def left() -> dict[str, int]:
    """The objects of ours, and exceptions, that hold each other."""
    gc.collect()
    found = Counter(type(one).__qualname__ for one in gc.garbage if type(one).__module__.startswith("coollm.") or isinstance(one, BaseException))
    gc.garbage.clear()
    return dict(found)


def main() -> None:
    app = application()
    wanted = json.load(sys.stdin)
    told: dict[str, list[Any]] = {}
    listener = socket.create_server(("127.0.0.1", 0))
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    for name, path, body, has_key, reads_to_end in [wanted[0], *wanted]:  # what is made for the first request of all stays
        left()
        statuses = [ask(app, listener, path, body, has_key=has_key, reads_to_end=reads_to_end) for _ in range(ROUNDS)]
        time.sleep(0.1)  # what is told, and let go of, after the end
        told[name] = [statuses[0], left()]
    sys.stdout.write(json.dumps(told))
    sys.stdout.flush()
    gc.set_debug(0)


main()
