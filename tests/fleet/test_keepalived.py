"""Two load balancers that share an address, by the example that the README has: it moves when haproxy is gone, and comes back with it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, clean_environment, running, wait_for
from tests.soak.chaos import may_make_namespaces

CHECK = '"/usr/bin/systemctl is-active --quiet haproxy"'
PREFIX = f"coollm-{os.getpid():x}"


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


@pytest.fixture
def spaces() -> Iterator[dict[str, str]]:
    """Two network namespaces with an eth0 each, on one cable."""
    if not may_make_namespaces():
        pytest.skip("network namespaces are made by root alone, with iproute2")
    names = {one: f"{PREFIX}-lb{one}" for one in ("a", "b")}
    with contextlib.ExitStack() as stack:
        for name in names.values():
            ip("netns", "add", name)
            stack.callback(ip, "netns", "delete", name)
        ip("link", "add", "eth0", "netns", names["a"], "type", "veth", "peer", "name", "eth0", "netns", names["b"])
        for number, name in enumerate(names.values(), 1):
            ip("-n", name, "addr", "add", f"10.0.0.{number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
        yield names


def test_the_address_goes_where_haproxy_runs(spaces: dict[str, str], tmp_path: Path) -> None:
    blocks = re.findall(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    written = next(block for block in blocks if "vrrp_instance" in block)
    assert CHECK in written

    def has(one: str) -> bool:
        return "10.0.0.100/24" in ip("-n", spaces[one], "addr", "show", "eth0")

    with contextlib.ExitStack() as stack:
        for one, name in spaces.items():
            (tmp_path / one).touch()
            text = written.replace(CHECK, f'"/usr/bin/test -e {tmp_path}/{one}"')
            if one == "b":
                text = text.replace("state MASTER", "state BACKUP").replace("priority 150", "priority 100")
            (tmp_path / f"{one}.conf").write_text(text)
            inside = ["ip", "netns", "exec", name]
            checked = subprocess.run([*inside, "keepalived", "-t", "-f", str(tmp_path / f"{one}.conf")], capture_output=True, text=True, check=False)
            assert checked.returncode == 0, checked.stdout + checked.stderr
            files = ["-p", str(tmp_path / f"{one}.pid"), "-r", str(tmp_path / f"{one}.vrrp")]
            command = [*inside, "keepalived", "-n", "-l", "-f", str(tmp_path / f"{one}.conf"), *files]
            stack.enter_context(running(command, tmp_path / f"{one}.txt", clean_environment()))
        wait_for(lambda: has("a") and not has("b"), 15, "the address at the first")
        (tmp_path / "a").unlink()
        wait_for(lambda: has("b") and not has("a"), 15, "the address at the second")
        (tmp_path / "a").touch()
        wait_for(lambda: has("a") and not has("b"), 15, "the address at the first again")
