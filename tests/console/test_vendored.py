"""What the console uses of others is what is pinned, with its licenses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.conftest import ROOT

CONSOLE = ROOT / "coollm" / "console"
OURS = {"console.css", "console.js", "mark.svg"}


def test_every_file_is_ours_or_pinned() -> None:
    packages = json.loads((CONSOLE / "vendored.json").read_text())["packages"]
    pinned = {Path(path).name: digest for package in packages for path, digest in package["files"].items()}
    assert {path.name for path in (CONSOLE / "static").iterdir()} == OURS | set(pinned)
    for name, digest in pinned.items():
        assert hashlib.sha256((CONSOLE / "static" / name).read_bytes()).hexdigest() == digest, name
    licenses = (CONSOLE / "LICENSES.txt").read_text()
    for package in packages:
        assert package["integrity"].startswith("sha512-")
        assert f"{package['name']} {package['version']} ({package['license']})" in licenses
