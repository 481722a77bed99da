"""OpenAI's audio, images, moderations, files and batches on the wire. Source: https://platform.openai.com/docs/api-reference and the `openai` package."""

from __future__ import annotations

import base64
import io
import time
import uuid
from typing import Any

from werkzeug.formparser import parse_form_data

from coollm.core.types import Json
from coollm.simulator.answer import Asked, Heard, Reply
from coollm.simulator.behaviour import Behaviour
from coollm.simulator.cohere import ranking
from coollm.simulator.openai import error, key

__all__ = ["error", "key", "read_batches", "read_files", "read_form", "read_images", "read_moderation", "read_rerank", "read_speech"]

BYTES_PER_TOKEN = 1000
_USAGE = {"input_tokens": 11, "output_tokens": 22, "total_tokens": 33}


def _asked(heard: Heard, model: str, make: Any) -> Asked:
    return Asked(model=model, key=heard.key, stream=False, body=heard.body, text="", reply=make)


def _form(heard: Heard) -> tuple[Any, Any]:
    environ = {"wsgi.input": io.BytesIO(heard.data), "CONTENT_TYPE": heard.headers["content-type"], "CONTENT_LENGTH": str(len(heard.data))}
    _, fields, files = parse_form_data(environ)
    return fields, files


def read_speech(heard: Heard) -> Asked:
    """Text to audio: a thousand bytes for each token of the behaviour."""
    body = heard.body
    if not body.get("input") or not body.get("voice"):
        raise ValueError("input and voice are required")

    def make(how: Behaviour, _: str) -> Reply:
        return Reply(body=bytes(range(250)) * 4 * how.tokens, content_type="audio/mpeg")

    return _asked(heard, body["model"], make)


def read_form(heard: Heard) -> Asked:
    """An upload in a form: a transcription or translation, an edit of an image. The answer tells what came."""
    fields, files = _form(heard)
    received = {name: len(file.read()) for name, file in files.items()}
    if not received:
        raise ValueError("file is required")
    told = ", ".join(f"{name} of {size} bytes" for name, size in received.items())

    def make(how: Behaviour, _: str) -> Reply:
        if heard.path.startswith("/v1/images"):
            return Reply(body=_image(how))
        if fields.get("response_format") == "text":
            return Reply(body=told.encode(), content_type="text/plain")
        return Reply(body={"text": told, "fields": fields.to_dict(), "usage": {"type": "tokens", **_USAGE}})

    return _asked(heard, fields["model"], make)


def _image(how: Behaviour) -> Json:
    data = base64.b64encode(bytes(BYTES_PER_TOKEN * how.tokens)).decode()
    return {"created": int(time.time()), "data": [{"b64_json": data}], "usage": {**_USAGE, "input_tokens_details": {"text_tokens": 11, "image_tokens": 0}}}


def read_images(heard: Heard) -> Asked:
    """An image from a prompt."""
    if not heard.body.get("prompt"):
        raise ValueError("prompt is required")
    return _asked(heard, heard.body.get("model") or "dall-e-2", lambda how, _: Reply(body=_image(how)))


def read_moderation(heard: Heard) -> Asked:
    """A judgement on texts."""
    given = heard.body["input"]
    listed = given if isinstance(given, list) else [given]
    model = heard.body.get("model") or "omni-moderation-latest"
    row = {"flagged": False, "categories": {"violence": False}, "category_scores": {"violence": 0.01}, "category_applied_input_types": {"violence": ["text"]}}
    made: Json = {"id": f"modr-{uuid.uuid4().hex}", "model": model, "results": [row] * len(listed)}
    return _asked(heard, model, lambda how, _: Reply(body=made))  # noqa: ARG005


def read_rerank(heard: Heard) -> Asked:
    """A ranking as servers of OpenAI's format make it."""
    body = heard.body
    ranked = ranking(body["query"], body["documents"], body.get("top_n"))
    results = [{"index": index, "relevance_score": score, "document": {"text": body["documents"][index]}} for index, score in ranked]
    made: Json = {"id": "rerank-simulated", "model": body["model"], "results": results, "usage": {"prompt_tokens": 9, "total_tokens": 9}}
    return _asked(heard, body["model"], lambda how, _: Reply(body=made))  # noqa: ARG005


def read_files(heard: Heard) -> Asked:
    """Files: kept, listed, read and deleted. Raises LookupError for one that does not exist."""
    files = heard.memory.files
    file_id = heard.groups[0] if heard.groups else ""
    if heard.method == "POST":
        fields, uploads = _form(heard)
        data = uploads["file"].read()
        made: Json = {"id": f"file-{uuid.uuid4().hex}", "object": "file", "bytes": len(data), "created_at": int(time.time()), "status": "processed"}
        made |= {"filename": uploads["file"].filename, "purpose": fields["purpose"]}
        files[made["id"]] = (made, data)
        return _asked(heard, "", lambda how, _: Reply(body=made))  # noqa: ARG005
    if not file_id:
        listed = [kept for kept, _ in files.values()]
        return _asked(heard, "", lambda how, _: Reply(body={"object": "list", "data": listed, "has_more": False}))  # noqa: ARG005
    kept, data = files[file_id]
    if heard.path.endswith("/content"):
        return _asked(heard, "", lambda how, _: Reply(body=data, content_type="application/octet-stream"))  # noqa: ARG005
    if heard.method == "DELETE":
        del files[file_id]
        return _asked(heard, "", lambda how, _: Reply(body={"id": file_id, "object": "file", "deleted": True}))  # noqa: ARG005
    return _asked(heard, "", lambda how, _: Reply(body=kept))  # noqa: ARG005


def read_batches(heard: Heard) -> Asked:
    """Batches: begun, listed, looked at and cancelled. Raises LookupError for one that does not exist."""
    batches = heard.memory.batches
    batch_id = heard.groups[0] if heard.groups else ""
    if heard.method == "POST" and not batch_id:
        body = heard.body
        if body["input_file_id"] not in heard.memory.files:
            raise ValueError("input_file_id: no such file")
        made: Json = {"id": f"batch_{uuid.uuid4().hex}", "object": "batch", "endpoint": body["endpoint"], "input_file_id": body["input_file_id"]}
        made |= {"completion_window": body["completion_window"], "status": "validating", "created_at": int(time.time())}
        batches[made["id"]] = made
        return _asked(heard, "", lambda how, _: Reply(body=made))  # noqa: ARG005
    if not batch_id:
        return _asked(heard, "", lambda how, _: Reply(body={"object": "list", "data": list(batches.values()), "has_more": False}))  # noqa: ARG005
    batch = batches[batch_id]
    if heard.path.endswith("/cancel"):
        batch["status"] = "cancelling"
    return _asked(heard, "", lambda how, _: Reply(body=batch))  # noqa: ARG005
