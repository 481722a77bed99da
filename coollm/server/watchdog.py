"""Tells systemd's watchdog that gunicorn's master lives; its workers are watched by the master.

Source: sd_notify(3) (WATCHDOG=1), systemd.service(5) (WatchdogSec=).
"""

from __future__ import annotations

import os
from typing import Any

import gevent
from gunicorn.systemd import sd_notify


def feed_watchdog(server: Any) -> None:
    """Starts to, if systemd asks this very process. A master whose loop hangs feeds it no more, and is killed and started anew."""
    wanted = os.environ.get("WATCHDOG_USEC", "")
    if not wanted.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    gevent.spawn(_feed, server, int(wanted) / 1e6 / 3, os.getpid())


def _feed(server: Any, every_seconds: float, master: int) -> None:
    while os.getpid() == master:  # not in a worker, which is a copy of the master
        sd_notify("WATCHDOG=1", server.log)
        gevent.sleep(every_seconds)
