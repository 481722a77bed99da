"""Rerank on Bedrock: the Rerank operation of its agent runtime, for every rerank model that it hosts.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_agent-runtime_Rerank.html and the service model of `botocore` (bedrock-agent-runtime).
"""

from __future__ import annotations

from coollm.core.types import Json, ModelRequest, Ranked, Ranking, RerankRequest, Target
from coollm.providers.base import Losses, VendorRequest, WireFormat, bad_answer, count, no_stream, parse_object
from coollm.providers.bedrock_signing import region_of, signed_post


def rerank_call(request: RerankRequest, target: Target, base_url: str, key: str, losses: Losses) -> VendorRequest:
    """A `POST /rerank`, at the host beside that of models."""
    for name in request.inexpressible:
        losses.lose(name, "Bedrock")
    url = base_url.replace("//bedrock-runtime", "//bedrock-agent-runtime", 1)
    return signed_post(f"{url}/rerank", _body(request, target, region_of(base_url)), key, RANKING)


def _body(request: RerankRequest, target: Target, region: str) -> Json:
    arn = target.model if target.model.startswith("arn:") else f"arn:aws:bedrock:{region}::foundation-model/{target.model}"
    reranker: Json = {"modelConfiguration": {"modelArn": arn}}
    if request.top_n:
        reranker["numberOfResults"] = request.top_n
    return {
        "queries": [{"type": "TEXT", "textQuery": {"text": request.query}}],
        "sources": [{"type": "INLINE", "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": one}}} for one in request.documents],
        "rerankingConfiguration": {"type": "BEDROCK_RERANKING_MODEL", "bedrockRerankingConfiguration": reranker},
    }


def _decode(request: ModelRequest, body: bytes) -> Ranking:  # noqa: ARG001
    rows = parse_object(body, "the answer").get("results")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise bad_answer("the answer has no results")
    return Ranking(id="", ranked=tuple(Ranked(index=count(row, "index"), score=float(row.get("relevanceScore") or 0.0)) for row in rows), usage=None)


RANKING = WireFormat(wire="bedrock rerank", read=_decode, decoder=no_stream)
