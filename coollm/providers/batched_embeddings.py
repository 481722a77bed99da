"""Embeddings of vendors that take one text, or a few, in a call: the calls follow each other, and their vectors are one answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from coollm.core.types import EmbeddingRequest, Embeddings, Json, ModelRequest, Usage, Value
from coollm.providers.base import FollowUp, StreamDecoder, VendorRequest, bad_answer, no_stream, parse_object, unsupported
from coollm.providers.sse import EventStream

Vectors = Sequence[Sequence[float]]


class Family(Value, frozen=True):
    """How a family of models is asked for vectors: `most` texts in a call, by `body`; `read` gives an answer's vectors, and its tokens if it tells them."""

    body: Callable[[Sequence[str], EmbeddingRequest], Json]
    read: Callable[[Json], tuple[Vectors, int | None]]
    most: int


class BatchedEmbeddings:
    """The calls for one request, and the format of their answer. `post` makes a call's request of its body."""

    wire = "batched embeddings"

    def __init__(self, request: EmbeddingRequest, family: Family, post: Callable[[Json, BatchedEmbeddings], VendorRequest], vendor: str) -> None:
        self._request = request
        self._family = family
        self._post = post
        self._vectors: list[tuple[float, ...]] = []
        self._tokens: int | None = 0
        self._bodies = self._batches(vendor)

    def first(self) -> VendorRequest:
        """The first call; the others follow by its `follow`."""
        return self._post(next(self._bodies), self)

    def follow(self, answer: bytes) -> FollowUp | None:
        """Takes the vectors of a call. Raises VendorError (BAD_ANSWER) if there are none."""
        vectors, tokens = self._family.read(parse_object(answer, "the answer"))
        self._vectors += [tuple(vector) for vector in vectors]
        self._tokens = None if tokens is None or self._tokens is None else self._tokens + tokens
        body = next(self._bodies, None)
        return None if body is None else FollowUp(request=self._post(body, self))

    def usage(self, body: bytes) -> Usage | None:  # noqa: ARG002  it must be put together
        """Never known at a glance."""
        return None

    def is_plain(self, piece: bytes) -> bool:  # noqa: ARG002  there is no stream
        """Never."""
        return False

    def decode(self, request: ModelRequest, body: bytes) -> Embeddings:  # noqa: ARG002  it was read as it came
        """The vectors of all calls."""
        if len(self._vectors) != len(self._request.inputs):
            raise bad_answer("the answers have not a vector for each input")
        usage = None if self._tokens is None else Usage(input_tokens=self._tokens)
        return Embeddings(model=request.model, vectors=tuple(self._vectors), usage=usage)

    def stream_decoder(self) -> StreamDecoder:
        """There is no stream."""
        return no_stream()

    def framing(self) -> EventStream:
        """There is no stream."""
        return EventStream()

    def _batches(self, vendor: str) -> Iterator[Json]:
        texts = [one for one in self._request.inputs if isinstance(one, str)]
        if len(texts) != len(self._request.inputs):
            raise unsupported("input", vendor, "it takes texts, not the numbers of tokens")
        return iter([self._family.body(texts[place : place + self._family.most], self._request) for place in range(0, len(texts), self._family.most)])
