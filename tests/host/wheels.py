"""Wheels of other releases: this one's with another version, and with lines of its code replaced."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path


def make_release(wheelhouse: Path, target: Path, version: str, changes: Mapping[str, tuple[str, str]] | None = None) -> Path:
    """Writes coollm-VERSION to `target`. `changes` are a text and what stands in its place, by file."""
    (source,) = wheelhouse.glob("coollm-*.whl")
    old = source.name.split("-")[1]
    made = target / source.name.replace(f"-{old}-", f"-{version}-")
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as written:
        for name in read.namelist():
            data = read.read(name)
            if name == "coollm/__init__.py" or name.endswith(".dist-info/METADATA"):
                data = data.replace(old.encode(), version.encode())
            if changes and name in changes:
                before, after = changes[name]
                assert before.encode() in data, f"{name} has changed: {before}"
                data = data.replace(before.encode(), after.encode(), 1)
            written.writestr(name.replace(f"coollm-{old}.dist-info", f"coollm-{version}.dist-info"), data)
    return made
