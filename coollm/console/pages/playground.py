"""One question to a model, streamed: what it answers, who served it, and how fast."""

from __future__ import annotations

import orjson
from flask import Response

from coollm.console import ask
from coollm.console.page import Page, Visit

LONGEST_QUESTION = 20_000
MOST_TOKENS = 4096


def page(visit: Visit) -> Response:
    """The form."""
    models = [one["id"] for one in visit.get("/v1/models")["data"]]
    return visit.render("playground.html", title="Playground", models=models)


def stream(visit: Visit) -> Response:
    """The answer as it comes, as the models' own API sends it. It is charged to no client; the audit log says who asked, and not what."""
    model, question = visit.field("model"), visit.request.form.get("question", "")
    if not model or not question.strip() or len(question) > LONGEST_QUESTION:
        return visit.render("refusal.html", 400, message=f"A model and a question of at most {LONGEST_QUESTION} characters are needed.")
    visit.services.audit.tell(visit.principal, "console_playground", model=model[:200])
    asked = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_completion_tokens": MOST_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer = visit.begin(ask.Question("POST", "/v1/chat/completions", body=orjson.dumps(asked)))
    if answer.status >= 400:
        return Response(ask.whole(answer), status=answer.status, mimetype="application/json")
    told = {name: value for name, value in answer.headers.items() if name.startswith(("x-coollm-", "x-coo-", "x-request-id"))}
    return Response(ask.flowing(answer), mimetype="text/event-stream", headers={**told, "x-accel-buffering": "no"})


PAGES = (
    Page("/ui/playground", ("GET",), "operator", page, "playground", "Playground"),
    Page("/ui/playground", ("POST",), "operator", stream, "playground_stream", is_stream=True),
)
