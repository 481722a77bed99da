"""What handlers of the admin API answer with."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Response


def json_response(value: Any, status: int = 200) -> Response:
    """A JSON document."""
    return Response(orjson.dumps(value), status=status, mimetype="application/json")
