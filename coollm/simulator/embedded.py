"""The simulated vendor inside a worker, for providers whose base_url is `simulator://`."""

from __future__ import annotations

import functools

from coollm.simulator.vendor import Vendor


@functools.cache
def embedded_simulator() -> str:
    """Starts the simulator on a free loopback port, once in a process, and returns its address."""
    return f"http://127.0.0.1:{Vendor().start()}"
