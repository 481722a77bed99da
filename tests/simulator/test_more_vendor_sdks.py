"""The simulator's other APIs, held to the vendors' own SDKs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import anthropic
import boto3
import botocore.exceptions
import cohere
import google.oauth2.credentials
import openai
import pytest
import replicate
import voyageai
from botocore.config import Config
from cohere.core.api_error import ApiError
from google import genai
from google.genai import types as genai_types

from tests.conftest import SimulatorHandle

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city", "days"]}
SAY: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(simulator: SimulatorHandle) -> openai.OpenAI:
    return openai.OpenAI(api_key="sk-sim", base_url=f"{simulator.url}/v1", max_retries=0)


@pytest.fixture
def bedrock(simulator: SimulatorHandle) -> Any:
    return bedrock_client(simulator, "secret-of-AKIASIM")


def bedrock_client(simulator: SimulatorHandle, secret: str, service: str = "bedrock-runtime") -> Any:
    return boto3.client(
        service,
        region_name="us-east-1",
        endpoint_url=simulator.url,
        aws_access_key_id="AKIASIM",
        aws_secret_access_key=secret,
        config=Config(retries={"max_attempts": 0}),
    )


@pytest.fixture
def cohere_client(simulator: SimulatorHandle) -> cohere.ClientV2:
    return cohere.ClientV2(api_key="co-sim", base_url=simulator.url)


def test_completions(client: openai.OpenAI) -> None:
    plain = client.completions.create(model="davinci-sim~tokens=5", prompt=["a", "b"])
    assert len(plain.choices) == 2
    chunks = list(client.completions.create(model="davinci-sim~tokens=5", prompt="a", stream=True, stream_options={"include_usage": True}))
    assert (
        "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
        == client.completions.create(model="davinci-sim~tokens=5", prompt="a").choices[0].text
    )
    assert chunks[-1].usage is not None


def test_responses(client: openai.OpenAI) -> None:
    plain = client.responses.create(model="gpt-sim~tokens=7~reasoning=2", input="hello")
    assert plain.usage is not None
    assert (plain.status, plain.usage.output_tokens, plain.usage.output_tokens_details.reasoning_tokens) == ("completed", 9, 2)
    with client.responses.stream(model="gpt-sim~tokens=7~reasoning=2", input="hello") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text == plain.output_text
    follow = client.responses.create(model="gpt-sim", input="more", previous_response_id=plain.id)
    assert follow.previous_response_id == plain.id
    with pytest.raises(openai.BadRequestError, match="not found"):
        client.with_options(api_key="sk-other").responses.create(model="gpt-sim", input="more", previous_response_id=plain.id)
    tool: Any = {"type": "function", "name": "trip", "parameters": SCHEMA, "strict": True}
    with client.responses.stream(model="gpt-sim", input="hello", tools=[tool]) as stream:
        call = stream.get_final_response().output[0]
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "simulated", "days": 1}


def test_logprobs(client: openai.OpenAI, simulator: SimulatorHandle) -> None:
    told = client.chat.completions.create(model="gpt-sim~tokens=3", messages=SAY, logprobs=True, top_logprobs=2).choices[0].logprobs
    assert told is not None
    assert [len(token.top_logprobs) for token in told.content or []] == [2, 2, 2]
    gemini = genai.Client(api_key="AIza-sim", http_options=genai_types.HttpOptions(base_url=simulator.url))
    config = genai_types.GenerateContentConfig(response_logprobs=True, logprobs=2)
    answer = gemini.models.generate_content(model="gemini-sim~tokens=3", contents="hello", config=config)
    assert len(answer.candidates[0].logprobs_result.chosen_candidates) == 3
    assert gemini.models.count_tokens(model="gemini-sim", contents="hello hello").total_tokens > 0


def test_audio_images_and_moderations(client: openai.OpenAI, tmp_path: Path) -> None:
    assert len(client.audio.speech.create(model="tts-sim~tokens=3", voice="alloy", input="hello").content) == 3000
    heard = client.audio.transcriptions.create(model="whisper-sim", file=("a.wav", b"x" * 5000))
    assert heard.text == "file of 5000 bytes"
    image = client.images.generate(model="image-sim", prompt="a cat")
    assert image.data
    assert image.data[0].b64_json
    assert client.images.edit(model="image-sim", image=("a.png", b"x"), prompt="a dog").data
    assert client.moderations.create(input=["a", "b"]).results[1].flagged is False


def test_files_and_batches(client: openai.OpenAI) -> None:
    kept = client.files.create(file=("a.jsonl", io.BytesIO(b"{}\n")), purpose="batch")
    assert client.files.content(kept.id).read() == b"{}\n"
    batch = client.batches.create(input_file_id=kept.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert client.batches.cancel(batch.id).status == "cancelling"
    assert kept.id in [file.id for file in client.files.list()]
    assert client.files.delete(kept.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(kept.id)


def test_anthropics_count_and_vertex(simulator: SimulatorHandle) -> None:
    client = anthropic.Anthropic(api_key="sk-ant", base_url=simulator.url, max_retries=0)
    assert client.messages.count_tokens(model="claude-sim", messages=SAY).input_tokens > 0
    vertex = anthropic.AnthropicVertex(region="global", project_id="p", access_token="ya29.x", base_url=f"{simulator.url}/v1", max_retries=0)
    assert vertex.messages.create(model="claude-sim~tokens=3", max_tokens=9, messages=SAY).usage.output_tokens == 3
    with vertex.messages.stream(model="claude-sim~tokens=3", max_tokens=9, messages=SAY) as stream:
        assert stream.get_final_message().usage.output_tokens == 3


def test_gemini_on_vertex(simulator: SimulatorHandle) -> None:
    options = genai_types.HttpOptions(base_url=simulator.url, api_version="v1")
    credentials = google.oauth2.credentials.Credentials("ya29.x")  # type: ignore[no-untyped-call]
    client = genai.Client(vertexai=True, project="p", location="global", credentials=credentials, http_options=options)
    assert client.models.generate_content(model="gemini-sim~tokens=3", contents="hello").usage_metadata.candidates_token_count == 3
    found = client.models.embed_content(model="text-embedding-sim", contents=["one", "two"]).embeddings
    assert [len(one.values) for one in found] == [8, 8]
    found = client.models.embed_content(model="gemini-embedding-sim", contents="one", config=genai_types.EmbedContentConfig(output_dimensionality=5)).embeddings
    assert [len(one.values) for one in found] == [5]


def test_cohere(cohere_client: cohere.ClientV2) -> None:
    ask: dict[str, Any] = {"model": "command-sim~tokens=7~reasoning=2", "messages": SAY}
    plain = cohere_client.chat(**ask)
    assert (plain.finish_reason, plain.usage.tokens.output_tokens) == ("COMPLETE", 9)
    assert [item.type for item in plain.message.content] == ["thinking", "text"]
    events = list(cohere_client.chat_stream(**ask))
    assert "".join(event.delta.message.content.text or "" for event in events if event.type == "content-delta") == plain.message.content[1].text
    assert events[-1].type == "message-end"
    tool: Any = {"type": "function", "function": {"name": "trip", "parameters": SCHEMA}}
    called = cohere_client.chat(model="command-sim~calls=2", messages=SAY, tools=[tool])
    assert [json.loads(call.function.arguments)["days"] for call in called.message.tool_calls] == [1, 1]
    with pytest.raises(ApiError) as raised:
        cohere_client.chat(model="command-sim~status=422", messages=SAY)
    assert raised.value.status_code == 422
    vectors = cohere_client.embed(model="embed-sim", texts=["a", "b"], input_type="search_query", embedding_types=["float"]).embeddings.float_
    assert vectors is not None
    assert [len(vector) for vector in vectors] == [8, 8]
    ranked = cohere_client.rerank(model="rerank-sim", query="red fox", documents=["a blue cat", "the red fox"], top_n=1)
    assert [result.index for result in ranked.results] == [1]


def test_voyage(simulator: SimulatorHandle) -> None:
    client = voyageai.Client(api_key="pa-sim", base_url=f"{simulator.url}/voyage/v1")  # type: ignore[attr-defined]
    found = client.embed(["a", "b"], model="voyage-sim", output_dimension=4)
    assert [len(vector) for vector in found.embeddings] == [4, 4]
    ranked = client.rerank("red fox", ["a blue cat", "the red fox"], model="rerank-sim")
    assert [row.index for row in ranked.results] == [1, 0]


def test_replicate(simulator: SimulatorHandle) -> None:
    client = replicate.Client(api_token="r8-sim", base_url=simulator.url)
    given = {"prompt": "hello"}
    plain = "".join(client.run("meta/llama-sim~tokens=5", input=given))
    assert len(plain.split()) == 5
    waited = client.models.predictions.create(model="meta/llama-sim~tokens=5~rate=20", input=given)
    waited.wait()
    assert "".join(waited.output) == plain
    assert "".join(str(event) for event in client.stream("meta/llama-sim~tokens=5", input=given)) == plain
    assert client.predictions.cancel(waited.id).status == "canceled"


def test_bedrock(bedrock: Any, simulator: SimulatorHandle) -> None:
    said: Any = [{"role": "user", "content": [{"text": "hello"}]}]
    model = "anthropic.claude-sim-v1:0~tokens=7~reasoning=2"
    plain = bedrock.converse(modelId=model, messages=said)
    assert (plain["stopReason"], plain["usage"]["outputTokens"]) == ("end_turn", 9)
    events = list(bedrock.converse_stream(modelId=model, messages=said)["stream"])
    deltas = [event["contentBlockDelta"]["delta"] for event in events if "contentBlockDelta" in event]
    assert "".join(delta.get("text", "") for delta in deltas) == plain["output"]["message"]["content"][1]["text"]
    tools = {"tools": [{"toolSpec": {"name": "trip", "inputSchema": {"json": SCHEMA}}}]}
    called = bedrock.converse(modelId="claude-sim", messages=said, toolConfig=tools)
    assert called["output"]["message"]["content"][0]["toolUse"]["input"] == {"city": "simulated", "days": 1}
    with pytest.raises(bedrock.exceptions.ThrottlingException):
        bedrock.converse(modelId="claude-sim~status=429", messages=said)
    with pytest.raises(botocore.exceptions.EventStreamError):
        list(bedrock.converse_stream(modelId="claude-sim~error_after=2", messages=said)["stream"])
    with pytest.raises(botocore.exceptions.ClientError, match="signature"):
        bedrock_client(simulator, "wrong").converse(modelId="claude-sim", messages=said)


def test_bedrocks_schemas_vectors_and_ranking(bedrock: Any, simulator: SimulatorHandle) -> None:
    structure = {"jsonSchema": {"name": "trip", "schema": json.dumps(SCHEMA)}}
    said: Any = [{"role": "user", "content": [{"text": "hello"}]}]
    output = {"textFormat": {"type": "json_schema", "structure": structure}}
    told = bedrock.converse(modelId="claude-sim", messages=said, outputConfig=output)["output"]["message"]["content"][0]["text"]
    assert json.loads(told) == {"city": "simulated", "days": 1}
    titan = json.loads(bedrock.invoke_model(modelId="amazon.titan-embed-text-sim", body=json.dumps({"inputText": "a", "dimensions": 4}))["body"].read())
    assert len(titan["embedding"]) == 4
    agents = bedrock_client(simulator, "secret-of-AKIASIM", "bedrock-agent-runtime")
    model = {"modelConfiguration": {"modelArn": "arn:aws:bedrock:us-east-1::foundation-model/rerank-sim"}, "numberOfResults": 1}
    ranked = agents.rerank(
        queries=[{"type": "TEXT", "textQuery": {"text": "red fox"}}],
        sources=[{"type": "INLINE", "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": text}}} for text in ("a blue cat", "the red fox")],
        rerankingConfiguration={"type": "BEDROCK_RERANKING_MODEL", "bedrockRerankingConfiguration": model},
    )
    assert [row["index"] for row in ranked["results"]] == [1]
