"""Changes of a host that a cut connection does not touch: each is begun there once, under a name, goes on by itself, and is asked for what came of it."""

from __future__ import annotations

import time
from typing import Any

from coollm_cli.ops.fleet.ssh import COMMAND, Done, Remote

from coollm.core.errors import LockHeld, OperationFailed, Unreachable

PLACE = "/var/opt/coollm/fleet-jobs"
POLL_SECONDS = 20
RECONNECT_SECONDS = 40.0
LOCKED_SECONDS = 120.0

# Python is what every host of ours has. A job whose process is gone without an exit code (the host was restarted) is begun again: every command goes on.
JOB = """
import json, os, shutil, subprocess, sys, time
place, seconds, words = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
parent = os.path.dirname(place)
def read(name):
    try:
        with open(os.path.join(place, name), errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""
def lives():
    try:
        with open("/proc/%d/cmdline" % int(read("pid") or 0), "rb") as file:
            return place.encode() in file.read()
    except (OSError, ValueError):
        return False
def begin():
    os.makedirs(parent, 0o700, exist_ok=True)
    for name in os.listdir(parent):
        other = os.path.join(parent, name)
        if time.time() - os.stat(other).st_mtime > 7 * 86400:
            shutil.rmtree(other, ignore_errors=True)
    os.makedirs(place, 0o700, exist_ok=True)
    line = 'echo $$ >"$0/pid"; "$@" >"$0/out" 2>"$0/errors" </dev/null; echo $? >"$0/new"; mv "$0/new" "$0/code"'
    subprocess.Popen(["sh", "-c", line, place, *words], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
if words and not read("code") and not lives():
    begin()
ends = time.monotonic() + seconds
while lives() and not read("code") and time.monotonic() < ends:
    time.sleep(0.1)
code = read("code")
print(json.dumps({"code": int(code) if code else None, "lives": lives(), "out": read("out") if code else "", "errors": read("errors") if code else ""}))
"""


def do(remote: Remote, name: str, *arguments: str, seconds: float) -> Done:
    """What came of `coollm …` there, which is begun if it was not begun under this name before. Raises Unreachable and OperationFailed."""
    ends, attempt = time.monotonic() + seconds, 0
    locked_until = time.monotonic() + LOCKED_SECONDS
    while True:
        told = _ask(remote, f"{name}-{attempt}", [COMMAND, *arguments])
        if told["code"] == LockHeld.exit_code and time.monotonic() < locked_until:
            attempt += 1  # somebody else is at it
            time.sleep(2.0)
        elif told["code"] is not None:
            return Done(told["code"], told["out"], told["errors"])
        elif time.monotonic() >= ends:
            raise OperationFailed(f"{remote.where}: `coollm {' '.join(arguments)}` has not ended within {seconds:.0f} s", "coollm fleet status")


def wait_until_ended(remote: Remote, name: str, *, seconds: float) -> None:
    """Waits for a job that may be under way there. Raises Unreachable and OperationFailed."""
    ends = time.monotonic() + seconds
    while _ask(remote, f"{name}-0", [])["lives"]:
        if time.monotonic() >= ends:
            raise OperationFailed(f"{remote.where}: what was begun there has not ended", "coollm fleet status")


def _ask(remote: Remote, name: str, words: list[str]) -> dict[str, Any]:
    """Raises Unreachable when it cannot be asked for a while."""
    ends = time.monotonic() + RECONNECT_SECONDS
    while True:
        try:
            done = remote.run("python3", "-c", JOB, f"{PLACE}/{name}", str(POLL_SECONDS), *words, seconds=POLL_SECONDS + 40.0)
            found: dict[str, Any] = done.as_json()
            return found
        except Unreachable:
            if time.monotonic() >= ends:
                raise
            remote.close()
            time.sleep(1.0)
