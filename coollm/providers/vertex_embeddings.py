"""Embeddings on Vertex AI: `predict` of the text models, `embedContent` of the newer Gemini ones.

Sources: https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api and `models.embed_content` of the `google-genai` package,
which tells the two kinds apart by their names as this does.
"""

from __future__ import annotations

from collections.abc import Sequence

from coollm.core.types import EmbeddingRequest, Json
from coollm.providers.base import VendorRequest, bad_answer, count
from coollm.providers.batched_embeddings import BatchedEmbeddings, Family, Vectors
from coollm.providers.payload import write_json

_PREDICTED = ("gemini-embedding-001", "gemini-embedding-exp")


def embedding_calls(model: str, name: str, credentials: tuple[str, str], request: EmbeddingRequest) -> VendorRequest:
    """The calls to the model `name`, whose address is `model`."""
    by_content = "gemini" in name and not name.startswith(_PREDICTED)
    family = _CONTENT if by_content else _GEMINI_PREDICT if name.startswith(_PREDICTED) else _PREDICT
    url = f"{model}:{'embedContent' if by_content else 'predict'}"
    headers = (("content-type", "application/json"), credentials)

    def post(body: Json, answer: BatchedEmbeddings) -> VendorRequest:
        return VendorRequest(method="POST", url=url, headers=headers, body=write_json(body), answer=answer, follow=answer.follow)

    return BatchedEmbeddings(request, family, post, "Vertex").first()


def _predict_body(texts: Sequence[str], request: EmbeddingRequest) -> Json:
    task = request.source.get("task_type")
    instances = [{"content": text, **({"task_type": task} if task else {})} for text in texts]
    # A text that is too long is an error, as it is at OpenAI, and not cut without a word.
    parameters: Json = {"autoTruncate": False, **({"outputDimensionality": request.dimensions} if request.dimensions else {})}
    return {"instances": instances, "parameters": parameters}


def _read_predictions(answer: Json) -> tuple[Vectors, int | None]:
    found = [one.get("embeddings") for one in answer.get("predictions") or () if isinstance(one, dict)]
    if not found or not all(isinstance(one, dict) and isinstance(one.get("values"), list) for one in found):
        raise bad_answer("the answer has no predictions")
    made = [one for one in found if isinstance(one, dict)]
    return [one["values"] for one in made], sum(count(one.get("statistics"), "token_count") for one in made)


def _content_body(texts: Sequence[str], request: EmbeddingRequest) -> Json:
    config: Json = {"autoTruncate": False, **({"outputDimensionality": request.dimensions} if request.dimensions else {})}
    return {"content": {"parts": [{"text": texts[0]}]}, "embedContentConfig": config}


def _read_content(answer: Json) -> tuple[Vectors, int | None]:
    vector = (answer.get("embedding") or {}).get("values")
    if not isinstance(vector, list):
        raise bad_answer("the answer has no embedding")
    return [vector], count(answer.get("usageMetadata"), "promptTokenCount")


# Of the text models 250 texts at most go into a call, of Gemini's one.
_PREDICT = Family(body=_predict_body, read=_read_predictions, most=250)
_GEMINI_PREDICT = Family(body=_predict_body, read=_read_predictions, most=1)
_CONTENT = Family(body=_content_body, read=_read_content, most=1)
