"""Routes whose requests go to a vendor of OpenAI's dialect as they are: audio, images, moderations, files and batches. Neither body is held in memory.

Source: https://platform.openai.com/docs/api-reference (audio, images, moderations, files, batch).
"""

from __future__ import annotations

import re

from flask import Response, g, request

from coollm.api.body import parse_body, pieces_of_body, read_body
from coollm.api.chat import FACE
from coollm.api.completion import serve
from coollm.api.fields import typed
from coollm.api.routes import Access, Route
from coollm.api.upload import Upload, keep, keep_multipart
from coollm.core.config.schema import Limits
from coollm.core.errors import InvalidRequest, NotAllowed, UnknownRoute
from coollm.core.types import Json, PassThroughRequest
from coollm.services import Services

FORWARDED_HEADERS = ("openai-beta", "range")

# Their requests may leave the model to the vendor.
_MODEL_IS_OPTIONAL = ("images", "moderations")

_PATH = re.compile(r"[A-Za-z0-9_\-]+(?:/[A-Za-z0-9_\-]+)*")
_MULTIPART = "multipart/form-data"


def with_model(services: Services, path: str) -> Response:
    """A request that names a model, in JSON or in a form."""
    operation = path.partition("/")[0]
    _check(path)
    if request.method == "GET":
        return _send(services, operation, path, any_model=True)
    content_type = request.headers.get("content-type", "")
    if content_type.startswith(_MULTIPART):
        upload = keep_multipart(pieces_of_body(services, g.exchange), content_type)
        try:
            response = _send(services, operation, path, model=upload.model or _optional_model(operation), upload=upload)
        except BaseException:
            upload.close()
            raise
        response.call_on_close(upload.close)
        return response
    body = parse_body(read_body(services, g.exchange))
    model = typed(body, "model", str, "text") or _optional_model(operation)
    return _send(services, operation, path, model=model, source=body)


def _optional_model(operation: str) -> str:
    """A request without a model is that of any provider of the route, where the vendor chooses one itself. Raises InvalidRequest where it does not."""
    if operation in _MODEL_IS_OPTIONAL:
        return ""
    raise InvalidRequest("'model' is missing", param="model", code="missing_required_parameter")


def of_account(services: Services, path: str) -> Response:
    """Files and batches: what a vendor's account holds, beside all models. Only for clients without limits, which a batch would pass by."""
    _check(path)
    client = g.exchange.client
    if client is not None and (client.allowed_models != ("*",) or any(scope.limits != Limits() for scope in services.limiter.scopes.of_client(client))):
        raise NotAllowed(
            "files and batches run any model outside of the gateway's limits: a key with limits or with allowed_models may not use them",
            code="route_not_allowed",
        )
    upload = keep(pieces_of_body(services, g.exchange)) if request.method == "POST" else None
    try:
        response = _send(services, path.partition("/")[0], path, any_model=True, upload=upload)
    except BaseException:
        if upload is not None:
            upload.close()
        raise
    if upload is not None:
        response.call_on_close(upload.close)
    return response


def _check(path: str) -> None:
    if not _PATH.fullmatch(path):
        raise UnknownRoute(f"there is no {request.method} /v1/{path[:200]}")


def _send(
    services: Services,
    operation: str,
    path: str,
    model: str = "",
    upload: Upload | None = None,
    source: Json | None = None,
    *,
    any_model: bool = False,
) -> Response:
    """Serves the request of this moment. With no name of a model, or with `any_model`, the header `x-coollm-provider` may name the provider."""
    any_model = any_model or not model
    asked = PassThroughRequest(
        model=request.headers.get("x-coollm-provider", "") if any_model else model,
        method=request.method,
        operation=operation,
        path=path,
        query=request.query_string.decode("latin-1"),
        content_type=request.headers.get("content-type", "") if request.method == "POST" else "",
        accept=request.headers.get("accept", "*/*"),
        upload=upload,
        any_model=any_model,
        source=source or {},
        forwarded_headers=tuple((name, request.headers[name]) for name in FORWARDED_HEADERS if name in request.headers),
    )
    reply = serve(services, FACE, asked, g.exchange)
    return Response(reply.body, status=reply.status, headers=reply.headers)


def _audio(services: Services, rest: str) -> Response:
    return with_model(services, f"audio/{rest}")


def _images(services: Services, rest: str) -> Response:
    return with_model(services, f"images/{rest}")


def _moderations(services: Services) -> Response:
    return with_model(services, "moderations")


def _files(services: Services, rest: str = "") -> Response:
    return of_account(services, f"files/{rest}" if rest else "files")


def _batches(services: Services, rest: str = "") -> Response:
    return of_account(services, f"batches/{rest}" if rest else "batches")


ROUTES = (
    Route("/v1/audio/<path:rest>", ("GET", "POST"), Access.CLIENT, _audio, "audio", is_completion=True),
    Route("/v1/images/<path:rest>", ("POST",), Access.CLIENT, _images, "images", is_completion=True),
    Route("/v1/moderations", ("POST",), Access.CLIENT, _moderations, "moderations", is_completion=True),
    Route("/v1/files", ("GET", "POST"), Access.CLIENT, _files, "files", is_completion=True),
    Route("/v1/files/<path:rest>", ("GET", "DELETE"), Access.CLIENT, _files, "file", is_completion=True),
    Route("/v1/batches", ("GET", "POST"), Access.CLIENT, _batches, "batches", is_completion=True),
    Route("/v1/batches/<path:rest>", ("GET", "POST"), Access.CLIENT, _batches, "batch", is_completion=True),
)
