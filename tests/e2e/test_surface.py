"""The routes beside chat: what they pass on, what they refuse, and what they remember."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import requests

from tests.conftest import GatewayHandle, SimulatorHandle, every_dialect, serve, wait_for

SAY: list[Any] = [{"role": "user", "content": "hello"}]
KEYS = [
    {"id": "app", "key": "client-key-of-the-tests"},
    {"id": "limited", "key": "limited-key-0001", "limits": {"req_per_min": 50, "tokens_per_min": 100000}},
]


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHandle]:
    """Two keys of OpenAI's, so that what one of them keeps is not known to the other."""
    providers = every_dialect(simulator.url)
    providers[0]["api_keys"] = ["sk-vendor-openai-0001", "sk-vendor-openai-0002"]
    policy = {"algorithm": "round_robin"}
    with serve(tmp_path_factory.mktemp("surface"), {"llm_providers": providers, "api_keys": KEYS, "policy": policy}) as handle:
        yield handle


@pytest.fixture
def client(gateway: GatewayHandle) -> openai.OpenAI:
    return sdk(gateway)


def sdk(gateway: GatewayHandle, key: str = "client-key-of-the-tests") -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=f"{gateway.url}/v1", max_retries=0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_goes_on_where_it_was_kept(client: openai.OpenAI, stream: bool) -> None:
    """Two keys in turn: without a way back, every second one would not be found."""
    for _ in range(6):
        if stream:
            with client.responses.stream(model="gpt-sim", input="one") as events:
                ids = {event.response.id for event in events if hasattr(event, "response")}
            assert len(ids) == 1, "the same id in all events"
            first = ids.pop()
        else:
            first = client.responses.create(model="gpt-sim", input="one").id
        second = client.responses.with_raw_response.create(model="gpt-sim", input="two", previous_response_id=first)
        assert second.parse().status == "completed"


def test_a_response_that_nobody_keeps(client: openai.OpenAI, gateway: GatewayHandle) -> None:
    with pytest.raises(openai.BadRequestError, match="not found"):
        client.responses.create(model="gpt-sim", input="two", previous_response_id="resp_unknown")
    kept = client.responses.create(model="gpt-sim", input="one").id
    with pytest.raises(openai.NotFoundError) as raised:
        client.responses.create(model="claude-sim", input="two", previous_response_id=kept)
    assert raised.value.code == "previous_response_not_found"
    with pytest.raises(openai.BadRequestError) as unsupported:
        client.responses.create(model="claude-sim", input="two", previous_response_id="resp_unknown")
    assert unsupported.value.param == "previous_response_id"


def test_responses_and_their_errors_in_a_stream(client: openai.OpenAI) -> None:
    for model in ("gpt-sim", "claude-sim"):
        kinds = [event.type for event in client.responses.create(model=f"{model}~error_after=3", input="x", stream=True)]
        assert kinds[-1] == "error"
        assert "response.completed" not in kinds
        incomplete = client.responses.create(model=f"{model}~tokens=30", input="x", max_output_tokens=5)
        assert incomplete.incomplete_details is not None
        assert (incomplete.status, incomplete.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_usage_of_responses_is_charged(client: openai.OpenAI, gateway: GatewayHandle) -> None:
    raw = client.responses.with_raw_response.create(model="gpt-sim~tokens=9~reasoning=4~cached=2", input="hello " * 10)
    line = gateway.logged(raw.headers["x-request-id"])
    assert (line["route"], line["output_tokens"], line["reasoning_tokens"], line["cached_input_tokens"]) == ("responses", 9, 4, 2)


def test_completions_go_where_they_exist(client: openai.OpenAI, simulator: SimulatorHandle) -> None:
    assert len(client.completions.create(model="custom:davinci-sim", prompt=["a", "b"], max_tokens=5).choices) == 2
    assert simulator.seen()[-1]["path"] == "/v1/completions"
    assert client.completions.create(model="gpt-sim", prompt="a").choices[0].text
    assert simulator.seen()[-1]["path"] == "/v1/chat/completions"
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model="claude-sim", prompt="a", suffix="b")
    assert raised.value.param == "suffix"
    assert client.completions.create(model="custom:davinci-sim", prompt=[[1, 2], [3]], max_tokens=5, n=2).usage is not None


def test_audio_and_images(client: openai.OpenAI, gateway: GatewayHandle, simulator: SimulatorHandle) -> None:
    raw = client.audio.speech.with_raw_response.create(model="tts-sim~tokens=30", voice="alloy", input="hello")
    assert (len(raw.content), raw.headers["content-type"]) == (30_000, "audio/mpeg")
    heard = client.audio.transcriptions.create(model="openai:whisper-sim", file=("a.wav", b"x" * 300_000), prompt="Žluťoučký 🐎")
    assert heard.text == "file of 300000 bytes"
    assert json.loads(heard.model_dump_json())["fields"] == {"model": "whisper-sim", "prompt": "Žluťoučký 🐎"}
    assert client.audio.transcriptions.create(model="whisper-sim", file=("a.wav", b"x"), response_format="text")
    image = client.images.with_raw_response.generate(model="image-sim", prompt="a cat")
    line = gateway.logged(image.headers["x-request-id"])
    assert (line["route"], line["input_tokens"], line["output_tokens"], line["ending"]) == ("images", 11, 22, "answered")
    assert client.images.edit(model="image-sim", image=[("a.png", b"x"), ("b.png", b"y" * 100_000)], prompt="a dog").data
    assert client.images.generate(prompt="a cat").data, "the vendor chooses the model"
    assert client.moderations.create(input="x").results[0].flagged is False


def test_what_cannot_be_passed_through(client: openai.OpenAI, gateway: GatewayHandle) -> None:
    with pytest.raises(openai.BadRequestError, match="does not serve this route"):
        client.audio.speech.create(model="claude-sim", voice="alloy", input="x")
    with pytest.raises(openai.NotFoundError):
        client.audio.speech.create(model="no-such-model", voice="alloy", input="x")
    url = f"{gateway.url}/v1/audio/transcriptions"
    for content_type, body in (
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"nonsense"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-sim'),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n'),
        ("application/json", b"{"),
        ("application/json", b"{}"),
    ):
        answer = requests.post(url, data=body, headers={**gateway.headers, "content-type": content_type}, timeout=10)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error"), answer.text
    for path in ("audio/../files", "audio/%2e%2e/files", "audio/a b"):
        assert requests.post(f"{gateway.url}/v1/{path}", json={"model": "tts-sim"}, headers=gateway.headers, timeout=10).status_code in (400, 404)


def test_an_answer_that_breaks_off_is_not_whole(simulator: SimulatorHandle, tmp_path: Path) -> None:
    with serve(tmp_path, {"llm_providers": every_dialect(simulator.url)}) as own:
        body = {"model": "custom:tts-sim~tokens=50~rate=200~cut_after=10", "voice": "alloy", "input": "x"}
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            _ = requests.post(f"{own.url}/v1/audio/speech", json=body, headers=own.headers, timeout=10).content
        line = wait_for(lambda: next((line for line in own.requests_logged() if line["route"] == "audio"), None), what="the log line")
        assert (line["ending"], line["error"]) == ("cut", "stream_interrupted")
        assert "Traceback" not in own.words()
        with pytest.raises(openai.RateLimitError):
            sdk(own).images.generate(model="openai:image-sim~status=429~retry_after=120", prompt="x")


def test_files_and_batches_live_in_one_account(client: openai.OpenAI, gateway: GatewayHandle) -> None:
    kept = client.files.create(file=("a.jsonl", io.BytesIO(b'{"custom_id": "1"}\n' * 20_000)), purpose="batch")
    for _ in range(3):
        assert client.files.retrieve(kept.id).bytes == 380_000
    assert client.files.content(kept.id).read().startswith(b'{"custom_id"')
    batch = client.batches.create(input_file_id=kept.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert client.batches.retrieve(batch.id).status == "validating"
    assert client.batches.cancel(batch.id).status == "cancelling"
    assert client.files.delete(kept.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(kept.id)
    named = client.with_options(default_headers={"x-coollm-provider": "custom"}).files.with_raw_response.list()
    assert named.headers["x-coollm-provider"] == "custom"
    with pytest.raises(openai.NotFoundError):
        client.with_options(default_headers={"x-coollm-provider": "claude"}).files.list()


def test_files_are_not_for_keys_with_limits(gateway: GatewayHandle) -> None:
    limited = sdk(gateway, "limited-key-0001")
    with pytest.raises(openai.PermissionDeniedError) as raised:
        limited.batches.list()
    assert raised.value.code == "route_not_allowed"


def test_what_is_left_of_a_clients_limits_is_told_in_its_dialect(gateway: GatewayHandle) -> None:
    headers = sdk(gateway, "limited-key-0001").chat.completions.with_raw_response.create(model="gpt-sim", messages=SAY, max_tokens=50).headers
    assert headers["x-ratelimit-limit-requests"] == "50"
    assert 0 < int(headers["x-ratelimit-remaining-requests"]) < 50
    assert headers["x-ratelimit-reset-requests"] == "60s"
    assert int(headers["x-ratelimit-remaining-tokens"]) < 100_000
    claude = anthropic.Anthropic(api_key="limited-key-0001", base_url=gateway.url, max_retries=0)
    told = claude.messages.with_raw_response.create(model="gpt-sim", max_tokens=50, messages=SAY).headers
    assert told["anthropic-ratelimit-requests-limit"] == "50"
    assert told["anthropic-ratelimit-tokens-reset"].endswith("Z")


def test_tokens_are_counted_by_the_vendor_where_it_counts(gateway: GatewayHandle, simulator: SimulatorHandle) -> None:
    claude = anthropic.Anthropic(api_key=gateway.client_key, base_url=gateway.url, max_retries=0)
    for model, path in (("claude-sim", "/v1/messages/count_tokens"), ("gemini-sim", "/v1beta/models/gemini-sim:countTokens")):
        assert claude.messages.count_tokens(model=model, messages=SAY, system="x", tools=[{"name": "f", "input_schema": {"type": "object"}}]).input_tokens > 5
        assert simulator.seen()[-1]["path"] == path
    before = len(simulator.seen())
    assert claude.messages.count_tokens(model="gpt-sim", messages=SAY).input_tokens > 0
    assert len(simulator.seen()) == before, "an estimate asks nobody"


def test_unsupported_parameters_are_dropped_if_the_configuration_says_so(simulator: SimulatorHandle, tmp_path: Path) -> None:
    configuration = {"llm_providers": every_dialect(simulator.url), "policy": {"drop_unsupported": True}}
    with serve(tmp_path, configuration, workers=1) as own:
        client = sdk(own)
        raw = client.chat.completions.with_raw_response.create(model="claude-sim~echo=1", messages=SAY, seed=7, n=2, logprobs=True, temperature=1.5)
        assert raw.headers["x-coollm-dropped"] == "n, seed, logprobs, temperature"
        assert "seed" not in (raw.parse().choices[0].message.content or "")
        assert own.logged(raw.headers["x-request-id"])["dropped"] == ["n", "seed", "logprobs", "temperature"]
        sound: Any = [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}}]}]
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="claude-sim", messages=sound)
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model="claude-sim", input="x", previous_response_id="resp_1")


def test_replicate_waits_and_is_told_to_stop(gateway: GatewayHandle, simulator: SimulatorHandle) -> None:
    """A prediction that takes long is asked for until it is there; one that nobody waits for is cancelled."""
    answer = sdk(gateway).chat.completions.create(model="meta/llama-sim~tokens=10~rate=8", messages=SAY)
    assert len((answer.choices[0].message.content or "").split()) == 10
    with pytest.raises(openai.APITimeoutError):
        sdk(gateway).with_options(timeout=0.8).chat.completions.create(model="meta/llama-sim~tokens=90~rate=1", messages=SAY)
    wait_for(lambda: any(row["path"].endswith("/cancel") for row in simulator.seen()[-20:]), 5, "the cancellation")


def test_thoughts_come_back_signed_through_another_dialect(gateway: GatewayHandle, simulator: SimulatorHandle) -> None:
    """Claude's thinking with its signature through OpenAI's chats and responses, and Gemini's signatures through Anthropic's messages."""
    client = sdk(gateway)
    tool: Any = {"type": "function", "function": {"name": "trip", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
    for model in ("claude-sim~reasoning=2", "anthropic.claude-sim-v1~reasoning=2"):
        asked = client.chat.completions.create(model=model, messages=SAY, tools=[tool]).choices[0].message
        told: Any = [*SAY, asked.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": (asked.tool_calls or [])[0].id, "content": "x"}]
        seen = client.chat.completions.create(model=f"{model}~echo=1", messages=told, tools=[tool]).choices[0].message.content or ""
        assert "step0 step1" in seen
        assert "simulated-signature" in seen
        given = client.responses.create(model=model, input="hello", tools=[{"type": "function", **tool["function"], "strict": False}])
        again: Any = [*SAY, *(item.model_dump(exclude_none=True) for item in given.output), {"role": "user", "content": "and?"}]
        seen = client.responses.create(model=f"{model}~echo=1", input=again).output_text
        assert "simulated-signature" in seen
    claude = anthropic.Anthropic(api_key=gateway.client_key, base_url=gateway.url, max_retries=0)
    offered: Any = [{"name": "trip", "input_schema": {"type": "object"}}]
    message = claude.messages.create(model="gemini-sim", max_tokens=99, messages=SAY, tools=offered)
    results: Any = [{"type": "tool_result", "tool_use_id": block.id, "content": "x"} for block in message.content if block.type == "tool_use"]
    turns: Any = [*SAY, {"role": "assistant", "content": [block.model_dump() for block in message.content]}, {"role": "user", "content": results}]
    first = claude.messages.create(model="gemini-sim~echo=1", max_tokens=9999, messages=turns, tools=offered).content[0]
    assert first.type == "text"
    assert '"thoughtSignature":"c2ltdWxhdGVk"' in first.text
    # What another vendor thought is left out for Claude, which would refuse the signature.
    other = claude.messages.create(model="command-sim~reasoning=2", max_tokens=99, messages=SAY)
    turns = [*SAY, {"role": "assistant", "content": [block.model_dump() for block in other.content]}, {"role": "user", "content": "and?"}]
    last = claude.messages.create(model="claude-sim~echo=1", max_tokens=9999, messages=turns).content[0]
    assert last.type == "text"
    assert "step0" not in last.text


def test_cache_markers_reach_the_vendors_that_know_them(gateway: GatewayHandle) -> None:
    marked: Any = [{"role": "user", "content": [{"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}]}]
    client = sdk(gateway)
    assert '"cache_control":{"type":"ephemeral"}' in str(client.chat.completions.create(model="claude-sim~echo=1", messages=marked).choices[0].message.content)
    assert '"cachePoint":{"type":"default"}' in str(
        client.chat.completions.create(model="anthropic.claude-sim-v1~echo=1", messages=marked).choices[0].message.content
    )
    claude = anthropic.Anthropic(api_key=gateway.client_key, base_url=gateway.url, max_retries=0)
    answer = claude.messages.create(
        model="anthropic.claude-sim-v1~echo=1", max_tokens=999, messages=marked, system=[{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]
    )
    assert answer.content[0].type == "text"
    assert answer.content[0].text.count("cachePoint") == 2


def test_service_tiers(gateway: GatewayHandle) -> None:
    client = sdk(gateway)
    asked = client.chat.completions.create(model="claude-sim~echo=1", messages=SAY, service_tier="default")
    assert '"service_tier":"standard_only"' in str(asked.choices[0].message.content)
    assert asked.service_tier == "default"


def test_uploads_leave_no_file_behind(gateway: GatewayHandle, client: openai.OpenAI) -> None:
    for _ in range(5):
        client.audio.transcriptions.create(model="whisper-sim", file=("a.wav", b"x" * 200_000))

    def deleted_files() -> int:
        links = [link for pid in gateway.workers() for link in Path(f"/proc/{pid}/fd").iterdir()]
        return sum("(deleted)" in str(_target(link)) and "/tmp/" in str(_target(link)) for link in links)

    base = 4  # gunicorn's heartbeat file of each worker
    wait_for(lambda: deleted_files() <= base, 3, "the uploads to be let go")


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize(
    "model",
    [
        "bedrock:amazon.titan-embed-text-sim",
        "bedrock:amazon.nova-embed-sim",
        "bedrock:cohere.embed-sim",
        "vertex:text-embedding-sim",
        "vertex:gemini-embedding-001",
        "vertex:gemini-embedding-sim",
    ],
)
def test_vectors_of_vendors_that_take_few_texts_in_a_call(client: openai.OpenAI, model: str) -> None:
    texts = [f"text {number} of some length" for number in range(99)]
    found = client.embeddings.create(model=model, input=texts, dimensions=4)
    assert [row.index for row in found.data] == list(range(99))
    assert [len(row.embedding) for row in found.data] == [4] * 99
    alone = client.embeddings.create(model=model, input=texts[97], dimensions=4)
    assert found.data[97].embedding == alone.data[0].embedding, "the vectors stand in the order of the texts"
    assert found.usage.prompt_tokens > 90 * alone.usage.prompt_tokens > 0
    with pytest.raises(openai.BadRequestError, match="not the numbers of tokens"):
        client.embeddings.create(model=model, input=[1, 2, 3])


def test_an_embedding_model_of_bedrock_that_nobody_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"amazon\.titan-embed-text"):
        client.embeddings.create(model="bedrock:rerank-sim", input="a")


def test_a_tier_and_a_strict_tool_reach_bedrock(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "trip", "parameters": {"type": "object", "properties": {}}, "strict": True}}
    told = [*SAY, {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "trip", "arguments": "{}"}}]}]
    told.append({"role": "tool", "tool_call_id": "c1", "content": "ok"})
    answer = client.chat.completions.create(model="anthropic.claude-sim-v1~echo=1", messages=told, tools=[tool], service_tier="flex")
    heard = json.loads(str(answer.choices[0].message.content))
    assert heard["serviceTier"] == {"type": "flex"}
    assert heard["toolConfig"]["tools"][0]["toolSpec"]["strict"] is True
