"""A client's uploaded body with the vendor's name of the model in it."""

from __future__ import annotations

from collections.abc import Iterator

from coollm.core.types import UploadedBody


class NamedUpload:
    """The Body of a request that is passed through."""

    def __init__(self, upload: UploadedBody, model: str) -> None:
        self._upload = upload
        self._model = model

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._upload.size_with(self._model)

    def pieces(self) -> Iterator[bytes]:
        """The bytes."""
        return self._upload.pieces_with(self._model)
