"""Clients of a gateway in a process of their own, for as long as a block runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def clients(inside: Sequence[str], *words: Any) -> Iterator[dict[str, Any]]:
    """`inside` is the command that gets into a network, and `words` are those of load.py. What came of them is in the dictionary when the block is over."""
    command = [*inside, sys.executable, str(Path(__file__).with_name("load.py")), *map(str, words)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = {}
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        yield found
        process.stdin.close()
        found.update(json.loads(process.stdout.read()))
    finally:
        process.kill()
        process.wait()
