"""Memory of large bodies is kept for a while, and then given back."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

LARGE = """
import json
from pathlib import Path
from coollm.server.memory import SpareMemory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

memory = SpareMemory()
before = resident()
bodies = [b"x" * 2**20 for _ in range(100)]
bodies.clear()
kept = resident()
memory.look()
at_first = resident()
memory.look()
print(json.dumps([memory.is_kept, kept - before, at_first - before, resident() - before]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another libc keeps its memory as it likes")
def test_it_is_given_back_at_the_second_look() -> None:
    is_kept, kept, at_first, after = json.loads(subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True).stdout)
    assert is_kept
    assert kept > 90 * 2**20
    assert at_first > 90 * 2**20
    assert after < 40 * 2**20
