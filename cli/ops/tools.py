"""Programs of the host that a command needs."""

from __future__ import annotations

import shutil
import subprocess

from coollm.core.errors import OperationFailed

SEARCHED = "/usr/sbin:/usr/bin:/sbin:/bin"


def find(name: str) -> str | None:
    """Where a program is; None if it is not installed."""
    return shutil.which(name, path=SEARCHED)


def need(name: str) -> str:
    """Where a program is. Raises OperationFailed."""
    found = find(name)
    if found is None:
        raise OperationFailed(f"{name} was not found on this host", f"apt-get install the package that has {name}")
    return found


def run(name: str, *arguments: str, words: str | None = None) -> str:
    """What a program prints; `words` are given to it. Raises OperationFailed with its complaint."""
    done = subprocess.run([need(name), *arguments], capture_output=True, text=True, input=words, check=False)  # noqa: S603
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}"
        raise OperationFailed(f"{' '.join((name, *arguments))}: {said}")
    return done.stdout
