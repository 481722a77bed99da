"""Embeddings on Bedrock: InvokeModel, with the body that the model's maker wants.

Sources: https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html, -embed-v3.html (Cohere), the service model of `botocore`
(bedrock-runtime) and `langchain_aws.embeddings.bedrock` of the `langchain-aws` package.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from coollm.core.types import EmbeddingRequest, Json, Target
from coollm.providers.base import VendorRequest, bad_answer, count, unsupported
from coollm.providers.batched_embeddings import BatchedEmbeddings, Family, Vectors
from coollm.providers.bedrock_signing import signed_post

# What a text is for is not told apart by OpenAI's embeddings; a client that knows says so in `input_type`, as Cohere names it.
_DEFAULT_INPUT_TYPE = "search_document"


def embedding_calls(request: EmbeddingRequest, target: Target, base_url: str, key: str) -> VendorRequest:
    """One call after the other, as the model's family takes its texts. Raises VendorError (UNSUPPORTED) for a family that is not known."""
    family = next((family for name, family in _FAMILIES.items() if name in target.model), None)
    if family is None:
        raise unsupported("model", "Bedrock", f"of its embedding models, those named {', '.join(f'{name}*' for name in _FAMILIES)} are known here")
    url = f"{base_url}/model/{quote(target.model, safe='')}/invoke"

    def post(body: Json, answer: BatchedEmbeddings) -> VendorRequest:
        sent = signed_post(url, body, key, answer)
        return VendorRequest(method=sent.method, url=sent.url, headers=sent.headers, body=sent.body, answer=answer, follow=answer.follow)

    return BatchedEmbeddings(request, family, post, "Bedrock").first()


def _titan_body(texts: Sequence[str], request: EmbeddingRequest) -> Json:
    return {"inputText": texts[0], **({"dimensions": request.dimensions} if request.dimensions else {})}


def _read_titan(answer: Json) -> tuple[Vectors, int | None]:
    vector = answer.get("embedding")
    if not isinstance(vector, list):
        raise bad_answer("the answer has no embedding")
    return [vector], count(answer, "inputTextTokenCount")


def _nova_body(texts: Sequence[str], request: EmbeddingRequest) -> Json:
    asked: Json = {"embeddingPurpose": "GENERIC_INDEX", "text": {"truncationMode": "NONE", "value": texts[0]}}
    if request.dimensions:
        asked["embeddingDimension"] = request.dimensions
    return {"taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": asked}


def _read_nova(answer: Json) -> tuple[Vectors, int | None]:
    found = answer.get("embeddings")
    if not isinstance(found, list) or not all(isinstance(one, dict) and isinstance(one.get("embedding"), list) for one in found):
        raise bad_answer("the answer has no embeddings")
    return [one["embedding"] for one in found], None


def _cohere_body(texts: Sequence[str], request: EmbeddingRequest) -> Json:
    body: Json = {"texts": list(texts), "input_type": request.source.get("input_type") or _DEFAULT_INPUT_TYPE, "embedding_types": ["float"]}
    return {**body, **({"output_dimension": request.dimensions} if request.dimensions else {})}


def _read_cohere(answer: Json) -> tuple[Vectors, int | None]:
    """Vectors alone, or by their type; what they cost is not in the body."""
    found = answer.get("embeddings")
    vectors = found.get("float") if isinstance(found, dict) else found
    if not isinstance(vectors, list):
        raise bad_answer("the answer has no embeddings")
    return vectors, None


_FAMILIES = {
    "amazon.titan-embed-text": Family(body=_titan_body, read=_read_titan, most=1),
    "amazon.nova": Family(body=_nova_body, read=_read_nova, most=1),
    "cohere.embed": Family(body=_cohere_body, read=_read_cohere, most=96),
}
