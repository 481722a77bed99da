"""`python -m coollm.simulator HOST:PORT [DIRECTIVE…]`: what `coollm simulate` runs."""

from __future__ import annotations

import signal
import sys

import gevent
import msgspec

from coollm.core.config.values import Address
from coollm.simulator.behaviour import Behaviour, parse_directives
from coollm.simulator.vendor import Vendor


def main() -> int:
    """Serves until a signal. The first line on standard output is the address."""
    try:
        address = Address.parse(sys.argv[1])
        base = msgspec.structs.replace(Behaviour(), **parse_directives(" ".join(sys.argv[2:])))
        vendor = Vendor(base, address.host, address.port)
        port = vendor.start()
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"error: {sys.argv[1]}: cannot listen: {error.strerror}\nhint: choose another with --listen HOST:PORT\n")
        return 1
    sys.stdout.write(f"simulated vendors on http://{Address(address.host, port)}\n")
    sys.stdout.flush()
    gevent.signal_handler(signal.SIGTERM, sys.exit, 0)
    gevent.signal_handler(signal.SIGINT, sys.exit, 0)
    vendor.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
