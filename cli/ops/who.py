"""Who gives a command, for the audit log: the user, the person behind sudo, where the session came from, and which key opened it.

sudo hides the session's environment from the command; what it was is read from the processes above it. Sources: sudo(8), sshd_config(5) (ExposeAuthInfo, which
names the key), proc_pid_environ(5).
"""

from __future__ import annotations

import base64
import binascii
import functools
import getpass
import hashlib
import os
from pathlib import Path
from typing import Any

from coollm_cli.ops.lock import actor

MOST_PARENTS = 30


@functools.cache
def where_from() -> dict[str, Any]:
    """`user` that runs it, `sudo_user`, the `address` that the session came from and the fingerprint of its `ssh_key`; what is not known is left out."""
    told: dict[str, Any] = {"user": getpass.getuser(), "sudo_user": os.environ.get("SUDO_USER")}
    session = _session()
    told["address"] = session.get("SSH_CONNECTION", "").split(" ")[0] or None
    told["ssh_key"] = _fingerprint(session.get("SSH_USER_AUTH", ""))
    return {name: value for name, value in told.items() if value}


def actor_header() -> str:
    """The same on one line, for a gateway that is asked over its local socket."""
    told = where_from()
    words = [actor(), *(f"{name}={told[name]}" for name in ("user", "address", "ssh_key") if told.get(name) not in (None, actor()))]
    return " ".join(words).encode("ascii", "backslashreplace").decode()


def _session() -> dict[str, str]:
    """What sshd has put into the environment of the first process above that still has it."""
    pid = os.getpid()
    for _ in range(MOST_PARENTS):
        try:
            pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found = {name.decode("latin-1"): value.decode("latin-1") for name, _, value in (pair.partition(b"=") for pair in pairs)}
            pid = int(Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return {}
        if "SSH_CONNECTION" in found:
            return found
        if pid <= 1:
            return {}
    return {}


def _fingerprint(auth_info: str) -> str | None:
    """As ssh-keygen -l writes it."""
    if not auth_info:
        return None
    try:
        for line in Path(auth_info).read_text("ascii").splitlines():
            words = line.split()
            if words[:1] == ["publickey"] and len(words) >= 3:
                digest = hashlib.sha256(base64.b64decode(words[2])).digest()
                return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
    except (OSError, UnicodeDecodeError, binascii.Error):
        return None
    return None
