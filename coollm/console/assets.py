"""What pages need beside themselves, from this package alone. Its address changes with what is in it, so that browsers may keep it for good."""

from __future__ import annotations

import functools
import hashlib
from importlib.resources import files

from flask import Response, abort

TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FOREVER = "public, max-age=31536000, immutable"


@functools.cache
def _known() -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in files("coollm.console").joinpath("static").iterdir() if entry.name.rpartition(".")[2] in TYPES}


@functools.cache
def stamp() -> str:
    """Stands for all of them."""
    return hashlib.sha256(b"\0".join(name.encode() + b"\0" + data for name, data in sorted(_known().items()))).hexdigest()[:12]


def address(name: str) -> str:
    """Where one of them is."""
    return f"/ui/static/{stamp()}/{name}"


def serve(stamp: str, name: str) -> Response:  # noqa: ARG001  only browsers look at it
    """One of them."""
    data = _known().get(name)
    if data is None:
        abort(404)
    return Response(data, mimetype=TYPES[name.rpartition(".")[2]], headers={"cache-control": _FOREVER})
