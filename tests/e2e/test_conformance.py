"""Every client before every vendor: the official SDKs against the gateway in front of every simulated dialect, as one table.

A cell is "yes", or the reason why the vendor cannot; there the client must get a 400 that names the parameter. The README holds the table as it comes out.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.conftest import ROOT, GatewayHandle

SAY: list[Any] = [{"role": "user", "content": "hello"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "trip", "parameters": PARAMETERS}}]
IMAGE = base64.b64encode(b"an image of a cat").decode()
PDF = base64.b64encode(b"%PDF-1.4 of a cat").decode()

MODELS = {
    "openai": "gpt-sim",
    "claude": "claude-sim",
    "gemini": "gemini-sim",
    "cohere": "command-sim",
    "replicate": "meta/llama-sim",
    "bedrock": "anthropic.claude-sim-v1",
    "vertex": "gemini-vertex-sim",
    "vertex-claude": "claude-vertex-sim",
    "voyage": "voyage-sim",
    "custom": "custom-sim",
}

NO_CHAT = "has no chat"
NO_EMBEDDINGS = "the API has no embeddings"
REPLICATE = "its models take a prompt: text and one image"

IMPOSSIBLE: dict[tuple[str, str], str] = {
    **{("claude", feature): "the API has no such parameter" for feature in ("n > 1", "seed", "logprobs")},
    **{("vertex-claude", feature): "the API has no such parameter" for feature in ("n > 1", "seed", "logprobs")},
    **{("bedrock", feature): "the API has no such parameter" for feature in ("n > 1", "seed", "logprobs")},
    **{("cohere", feature): "the API has no such parameter" for feature in ("n > 1",)},
    ("cohere", "logprobs"): "its logprobs are of token ids, not of texts",
    ("cohere", "document"): "it reads texts and images",
    ("cohere", "tool result with an image"): "a tool's result is text",
    **{("replicate", feature): REPLICATE for feature in ("tools", "tools, streamed", "parallel tools", "tool result", "tool result with an image")},
    **{("replicate", feature): REPLICATE for feature in ("JSON schema", "reasoning", "n > 1", "logprobs", "document")},
    **{("gemini", feature): "URLs are not fetched by the API" for feature in ("image by URL",)},
    **{("vertex", feature): "URLs are not fetched by the API" for feature in ("image by URL",)},
    **{("bedrock", feature): "URLs are not fetched by the API" for feature in ("image by URL",)},
    **{(vendor, "embeddings"): NO_EMBEDDINGS for vendor in ("claude", "vertex-claude")},
    ("replicate", "embeddings"): "each of its embedding models has inputs of its own",
    **{(vendor, "rerank"): "the API has no rerank" for vendor in ("openai", "claude", "gemini", "replicate", "vertex-claude")},
    ("vertex", "rerank"): "it ranks in another service, Discovery Engine",
}

Ask = Callable[[GatewayHandle, str], None]
CELLS: dict[tuple[str, str, str], str] = {}


def sdk(gateway: GatewayHandle) -> openai.OpenAI:
    return openai.OpenAI(api_key=gateway.client_key, base_url=f"{gateway.url}/v1", max_retries=0)


def claude(gateway: GatewayHandle) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key=gateway.client_key, base_url=gateway.url, max_retries=0)


def chat(gateway: GatewayHandle, model: str, content: Any = "hello", **more: Any) -> Any:
    return sdk(gateway).chat.completions.create(model=model, messages=[{"role": "user", "content": content}], **more)


def chunks(gateway: GatewayHandle, model: str, **more: Any) -> list[Any]:
    return list(sdk(gateway).chat.completions.create(model=model, messages=SAY, stream=True, **more))


def plain(gateway: GatewayHandle, model: str) -> None:
    answer = chat(gateway, model)
    assert answer.choices[0].finish_reason == "stop"
    assert len(answer.choices[0].message.content.split()) == 12
    assert answer.usage.completion_tokens == 12


def streamed(gateway: GatewayHandle, model: str) -> None:
    found = chunks(gateway, model)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in found if chunk.choices) == chat(gateway, model).choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in found if chunk.choices and chunk.choices[0].finish_reason] == ["stop"]
    assert all(chunk.usage is None for chunk in found)


def streamed_usage(gateway: GatewayHandle, model: str) -> None:
    usage = chunks(gateway, model, stream_options={"include_usage": True})[-1].usage
    is_estimated = "llama" in model  # Replicate's streams tell no usage
    assert usage.completion_tokens > 0 if is_estimated else usage.completion_tokens == 12


def tools(gateway: GatewayHandle, model: str) -> None:
    call = chat(gateway, model, tools=TOOLS).choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("trip", {"city": "simulated"})


def tools_streamed(gateway: GatewayHandle, model: str) -> None:
    with sdk(gateway).chat.completions.stream(model=model, messages=SAY, tools=TOOLS) as stream:
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "simulated"}


def parallel_tools(gateway: GatewayHandle, model: str) -> None:
    with sdk(gateway).chat.completions.stream(model=f"{model}~calls=3", messages=SAY, tools=TOOLS) as stream:
        calls = stream.get_final_completion().choices[0].message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "simulated"}] * 3
    assert len({call.id for call in calls}) == 3


def tool_result(gateway: GatewayHandle, model: str) -> None:
    asked = chat(gateway, model, tools=TOOLS).choices[0].message
    told = [*SAY, asked.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "rain-in-paris"}]
    answer = sdk(gateway).chat.completions.create(model=f"{model}~echo=1", messages=told, tools=TOOLS)
    assert "rain-in-paris" in answer.choices[0].message.content


def echoed(gateway: GatewayHandle, model: str, content: Any, **more: Any) -> str:
    return str(chat(gateway, f"{model}~echo=1", content, **more).choices[0].message.content)


def image(gateway: GatewayHandle, model: str) -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}
    assert IMAGE in echoed(gateway, model, [{"type": "text", "text": "what?"}, part])


def image_by_url(gateway: GatewayHandle, model: str) -> None:
    part = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    assert "https://example.com/cat.png" in echoed(gateway, model, [{"type": "text", "text": "what?"}, part])


def document(gateway: GatewayHandle, model: str) -> None:
    part = {"type": "file", "file": {"filename": "cat.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}}
    assert PDF in echoed(gateway, model, [{"type": "text", "text": "what?"}, part])


def json_schema(gateway: GatewayHandle, model: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "trip", "schema": PARAMETERS, "strict": True}}
    assert json.loads(chat(gateway, model, response_format=wanted).choices[0].message.content) == {"city": "simulated"}


def reasoning(gateway: GatewayHandle, model: str) -> None:
    answer = chat(gateway, f"{model}~reasoning=3", reasoning_effort="low")
    assert answer.choices[0].message.reasoning_content == "step0 step1 step2 "
    found = chunks(gateway, f"{model}~reasoning=3", reasoning_effort="low")
    assert "".join(getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in found if chunk.choices) == "step0 step1 step2 "


def several(gateway: GatewayHandle, model: str) -> None:
    assert len(chat(gateway, model, n=2).choices) == 2


def seed(gateway: GatewayHandle, model: str) -> None:
    assert '"seed":7' in echoed(gateway, model, "hello", seed=7)


def stop(gateway: GatewayHandle, model: str) -> None:
    assert "STOP-HERE" in echoed(gateway, model, "hello", stop=["STOP-HERE"])


def logprobs(gateway: GatewayHandle, model: str) -> None:
    told = chat(gateway, f"{model}~tokens=3", logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert [len(token.top_logprobs) for token in told] == [2, 2, 2]
    found = chunks(gateway, f"{model}~tokens=3", logprobs=True, top_logprobs=2)
    assert sum(len(chunk.choices[0].logprobs.content) for chunk in found if chunk.choices and chunk.choices[0].logprobs) == 3


def errors(gateway: GatewayHandle, model: str) -> None:
    chat(gateway, model)
    with pytest.raises(openai.BadRequestError):
        chat(gateway, f"{model}~status=400")
    with pytest.raises(openai.APIError):
        chunks(gateway, f"{model}~tokens=8~error_after=3")


def completions(gateway: GatewayHandle, model: str) -> None:
    answer = sdk(gateway).completions.create(model=model, prompt="hello", max_tokens=50)
    assert len(answer.choices[0].text.split()) == 12
    found = list(sdk(gateway).completions.create(model=model, prompt="hello", max_tokens=50, stream=True))
    assert "".join(chunk.choices[0].text for chunk in found if chunk.choices) == answer.choices[0].text


def responses(gateway: GatewayHandle, model: str) -> None:
    answer = sdk(gateway).responses.create(model=model, input="hello")
    assert (answer.status, len(answer.output_text.split()), answer.usage.output_tokens) == ("completed", 12, 12)


def responses_streamed(gateway: GatewayHandle, model: str) -> None:
    with sdk(gateway).responses.stream(model=model, input="hello") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == sdk(gateway).responses.create(model=model, input="hello").output_text


def responses_tools(gateway: GatewayHandle, model: str) -> None:
    offered: Any = [{"type": "function", "name": "trip", "parameters": PARAMETERS, "strict": True}]
    with sdk(gateway).responses.stream(model=f"{model}~calls=2", input="hello", tools=offered) as stream:
        calls: list[Any] = stream.get_final_response().output
    assert [json.loads(call.arguments) for call in calls if call.type == "function_call"] == [{"city": "simulated"}] * 2
    told: Any = [{"role": "user", "content": "hello"}]
    told += [call.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for call in calls]
    told += [{"type": "function_call_output", "call_id": call.call_id, "output": "rain-in-paris"} for call in calls if call.type == "function_call"]
    assert "rain-in-paris" in sdk(gateway).responses.create(model=f"{model}~echo=1", input=told, tools=offered).output_text


def embeddings(gateway: GatewayHandle, model: str) -> None:
    found = sdk(gateway).embeddings.create(model=embedding_model(model), input=["one", "two"])
    assert [len(row.embedding) for row in found.data] == [8, 8]
    assert found.usage.prompt_tokens > 0


def embedding_model(model: str) -> str:
    """The vendor's model of vectors, by the name of its model of words."""
    vendor = next(name for name, known in MODELS.items() if known == model)
    named = {"bedrock": "amazon.titan-embed-text-sim", "vertex": "text-embedding-sim", "voyage": "voyage-sim"}
    return f"{vendor}:{'embed-sim' if vendor in ('openai', 'gemini', 'cohere', 'custom') else named.get(vendor, model)}"


def rerank(gateway: GatewayHandle, model: str) -> None:
    vendor = next(name for name, known in MODELS.items() if known == model)
    named = f"{vendor}:{'rerank-sim' if vendor in ('openai', 'gemini', 'cohere', 'custom', 'voyage', 'bedrock') else model}"
    body = {"model": named, "query": "red fox", "documents": ["a blue cat", "the red fox"], "top_n": 1}
    found: Any = sdk(gateway).post("/rerank", body=body, cast_to=object)
    assert [row["index"] for row in found["results"]] == [1]


def messages(gateway: GatewayHandle, model: str, content: Any = "hello", **more: Any) -> Any:
    return claude(gateway).messages.create(model=model, max_tokens=5000, messages=[{"role": "user", "content": content}], **more)


def messages_plain(gateway: GatewayHandle, model: str) -> None:
    answer = messages(gateway, model)
    assert (answer.stop_reason, len(answer.content[0].text.split()), answer.usage.output_tokens) == ("end_turn", 12, 12)


def messages_streamed(gateway: GatewayHandle, model: str) -> None:
    with claude(gateway).messages.stream(model=model, max_tokens=5000, messages=SAY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == messages(gateway, model).content[0].text
    assert final.stop_reason == "end_turn"


CLAUDES_TOOLS: list[Any] = [{"name": "trip", "input_schema": PARAMETERS}]


def messages_tools(gateway: GatewayHandle, model: str) -> None:
    answer = messages(gateway, model, tools=CLAUDES_TOOLS)
    assert answer.stop_reason == "tool_use"
    assert [block.input for block in answer.content if block.type == "tool_use"] == [{"city": "simulated"}]


def messages_parallel_tools(gateway: GatewayHandle, model: str) -> None:
    with claude(gateway).messages.stream(model=f"{model}~calls=3", max_tokens=500, messages=SAY, tools=CLAUDES_TOOLS) as stream:
        blocks = [block for block in stream.get_final_message().content if block.type == "tool_use"]
    assert [block.input for block in blocks] == [{"city": "simulated"}] * 3


def messages_tool_result(gateway: GatewayHandle, model: str) -> None:
    asked = messages(gateway, model, tools=CLAUDES_TOOLS)
    shown = [{"type": "text", "text": "rain-in-paris"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IMAGE}}]
    calls = [block for block in asked.content if block.type == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": block.id, "content": shown} for block in calls]
    told: Any = [*SAY, {"role": "assistant", "content": [block.model_dump() for block in asked.content]}, {"role": "user", "content": results}]
    answer = claude(gateway).messages.create(model=f"{model}~echo=1", max_tokens=9000, messages=told, tools=CLAUDES_TOOLS)
    assert "rain-in-paris" in answer.content[0].text
    assert IMAGE in answer.content[0].text


def messages_document(gateway: GatewayHandle, model: str) -> None:
    part = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}
    assert PDF in messages(gateway, f"{model}~echo=1", [{"type": "text", "text": "what?"}, part]).content[0].text


def messages_thinking(gateway: GatewayHandle, model: str) -> None:
    with claude(gateway).messages.stream(
        model=f"{model}~reasoning=3", max_tokens=5000, messages=SAY, thinking={"type": "enabled", "budget_tokens": 2000}
    ) as stream:
        thought = stream.get_final_message().content[0]
    assert thought.type == "thinking"
    assert thought.thinking == "step0 step1 step2 "


def count_tokens(gateway: GatewayHandle, model: str) -> None:
    assert claude(gateway).messages.count_tokens(model=model, messages=SAY).input_tokens > 0


def messages_errors(gateway: GatewayHandle, model: str) -> None:
    messages(gateway, model)
    with pytest.raises(anthropic.BadRequestError):
        messages(gateway, f"{model}~status=400")
    with pytest.raises(anthropic.APIError):
        list(claude(gateway).messages.create(model=f"{model}~tokens=8~error_after=3", max_tokens=50, messages=SAY, stream=True))


def chain(gateway: GatewayHandle, model: str, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=f"{gateway.url}/v1", api_key=gateway.client_key, max_retries=0, **more)  # type: ignore[arg-type]


def chain_plain(gateway: GatewayHandle, model: str) -> None:
    answer = chain(gateway, model).invoke("hello")
    assert len(str(answer.content).split()) == 12
    assert "".join(str(piece.content) for piece in chain(gateway, model).stream("hello")) == answer.content


def chain_tools(gateway: GatewayHandle, model: str) -> None:
    answer = chain(gateway, model).bind_tools(TOOLS).invoke("hello")
    assert answer.tool_calls[0]["args"] == {"city": "simulated"}


def chain_json(gateway: GatewayHandle, model: str) -> None:
    schema = {"title": "trip", **PARAMETERS}
    assert chain(gateway, model).with_structured_output(schema, method="json_schema").invoke("hello") == {"city": "simulated"}


def chain_embeddings(gateway: GatewayHandle, model: str) -> None:
    made = OpenAIEmbeddings(
        model=embedding_model(model),
        base_url=f"{gateway.url}/v1",
        api_key=gateway.client_key,  # type: ignore[arg-type]
        check_embedding_ctx_length=False,
    )
    assert [len(vector) for vector in made.embed_documents(["one", "two"])] == [8, 8]


FEATURES: dict[str, dict[str, tuple[str, Ask]]] = {
    "openai (Python)": {
        "plain": ("plain", plain),
        "streamed": ("plain", streamed),
        "usage of a stream": ("plain", streamed_usage),
        "tools": ("tools", tools),
        "tools, streamed": ("tools, streamed", tools_streamed),
        "parallel tools": ("parallel tools", parallel_tools),
        "tool result": ("tool result", tool_result),
        "image": ("image", image),
        "image by URL": ("image by URL", image_by_url),
        "document": ("document", document),
        "JSON schema": ("JSON schema", json_schema),
        "reasoning": ("reasoning", reasoning),
        "n > 1": ("n > 1", several),
        "seed": ("seed", seed),
        "stop": ("stop", stop),
        "logprobs": ("logprobs", logprobs),
        "errors": ("plain", errors),
        "/v1/completions": ("plain", completions),
        "/v1/responses": ("plain", responses),
        "/v1/responses, streamed": ("plain", responses_streamed),
        "/v1/responses, tools": ("tools", responses_tools),
        "/v1/embeddings": ("embeddings", embeddings),
        "/v1/rerank": ("rerank", rerank),
    },
    "anthropic (Python)": {
        "plain": ("plain", messages_plain),
        "streamed": ("plain", messages_streamed),
        "tools": ("tools", messages_tools),
        "parallel tools, streamed": ("parallel tools", messages_parallel_tools),
        "tool result with an image": ("tool result with an image", messages_tool_result),
        "document": ("document", messages_document),
        "thinking, streamed": ("reasoning", messages_thinking),
        "count_tokens": ("plain", count_tokens),
        "errors": ("plain", messages_errors),
    },
    "langchain-openai": {
        "plain and streamed": ("plain", chain_plain),
        "tools": ("tools", chain_tools),
        "structured output": ("JSON schema", chain_json),
        "embeddings": ("embeddings", chain_embeddings),
    },
}
"""Client → feature → the row of IMPOSSIBLE that it needs, and the test."""

NODE = "openai (Node)"
NODE_NEEDS = {"tools": "tools", "tools, streamed": "tools"}
NEEDS_NO_CHAT = ("embeddings", "rerank")

CASES = [(client, feature, vendor) for client, features in FEATURES.items() for feature in features for vendor in MODELS]


def reason(vendor: str, need: str) -> str | None:
    if vendor == "voyage" and need not in NEEDS_NO_CHAT:
        return NO_CHAT
    return IMPOSSIBLE.get((vendor, need))


@pytest.mark.parametrize(("client", "feature", "vendor"), CASES, ids=["-".join(case).replace(" ", "_") for case in CASES])
def test_a_cell(wide_gateway: GatewayHandle, client: str, feature: str, vendor: str) -> None:
    need, ask = FEATURES[client][feature]
    why_not = reason(vendor, need)
    if why_not is None:
        ask(wide_gateway, MODELS[vendor])
    elif feature != "count_tokens":
        with pytest.raises((openai.BadRequestError, anthropic.BadRequestError)) as raised:
            ask(wide_gateway, MODELS[vendor])
        assert "not supported by" in str(raised.value)
    CELLS[(client, feature, vendor)] = why_not or "yes"


@pytest.fixture(scope="session")
def node_folder() -> Path:
    """The Node client, installed as its lock file says."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: apt-get install nodejs npm")
    folder = ROOT / "build" / "node"
    source = Path(__file__).parent / "node"
    lock = (source / "package-lock.json").read_text()
    if not (folder / "done").exists() or (folder / "done").read_text() != lock:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent", f"--cache={ROOT / 'build' / 'npm-cache'}"], cwd=folder, check=True, timeout=110)
        (folder / "done").write_text(lock)
    shutil.copy(source / "conformance.mjs", folder)
    return folder


@pytest.mark.parametrize("vendor", [vendor for vendor in MODELS if vendor != "voyage"])
def test_the_node_client(wide_gateway: GatewayHandle, node_folder: Path, vendor: str) -> None:
    command = ["node", "conformance.mjs", f"{wide_gateway.url}/v1", wide_gateway.client_key, MODELS[vendor]]
    done = subprocess.run(command, cwd=node_folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for feature, outcome in json.loads(done.stdout).items():
        why_not = reason(vendor, NODE_NEEDS.get(feature, "plain"))
        assert outcome == "yes" if why_not is None else outcome.startswith("400"), (feature, outcome)
        CELLS[(NODE, feature, vendor)] = why_not or "yes"


def table() -> str:
    """The matrix as Markdown. Reasons stand under it, by number."""
    reasons: list[str] = []
    lines = [f"| client | feature | {' | '.join(MODELS)} |", "|---" * (len(MODELS) + 2) + "|"]
    rows = dict.fromkeys((client, feature) for client, feature, _ in CELLS)
    for client, feature in rows:
        cells = []
        for vendor in MODELS:
            cell = CELLS.get((client, feature, vendor), NO_CHAT)
            if cell != "yes" and cell not in reasons:
                reasons.append(cell)
            cells.append("yes" if cell == "yes" else f"no ({reasons.index(cell) + 1})")
        lines.append(f"| {client} | {feature} | {' | '.join(cells)} |")
    notes = [f"{number}. {text}" for number, text in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *notes])


def test_the_table_is_in_the_readme(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed for whoever watches; compared where all of it was run, and passed."""
    made = table()
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "matrix.md").write_text(made + "\n")
    with capsys.disabled():
        print("\n" + made)
    ran = {item.name for item in request.session.items if item.path == request.path}
    if all(f"test_a_cell[{'-'.join(case).replace(' ', '_')}]" in ran for case in CASES) and not request.session.testsfailed:
        assert made in (ROOT / "README.md").read_text(), "the README's table is not what came out: copy it from build/matrix.md"
