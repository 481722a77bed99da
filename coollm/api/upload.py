"""A multipart body on its way to a vendor: kept in a file as it arrives, with a gap where the name of the model stood.

Werkzeug's decoder of multipart bodies does the parsing, one piece at a time (`werkzeug.sansio.multipart`); the parts are written again as RFC 7578 has them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator

from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from coollm.core.errors import GatewayFault, InvalidRequest

IN_MEMORY_BYTES = 64 * 1024
READ_BYTES = 64 * 1024


class Upload:
    """An UploadedBody. `model` is what the client wrote; None if it named none."""

    def __init__(self) -> None:
        # Above the size that stays in memory, an unnamed file: nothing is left behind when the process ends, however it does.
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115  closed with the request
        self._size = 0
        self._gap: int | None = None
        self.model: str | None = None

    @property
    def has_model(self) -> bool:
        """Whether the body names a model."""
        return self._gap is not None

    def write(self, data: bytes) -> None:
        """More of the body. Raises GatewayFault if the disk is full."""
        try:
            self._file.write(data)
        except OSError as error:
            raise GatewayFault(f"the upload cannot be kept: {error.strerror}", status=507, code="insufficient_storage") from error
        self._size += len(data)

    def leave_gap(self, model: str) -> None:
        """Here stands the name of the model."""
        self._gap, self.model = self._size, model

    def size_with(self, model: str) -> int:
        """Bytes with this name of the model in its place."""
        return self._size + (len(model.encode()) if self.has_model else 0)

    def pieces_with(self, model: str) -> Iterator[bytes]:
        """The body, piece by piece."""
        gap = self._size if self._gap is None else self._gap
        yield from self._read(0, gap)
        if self.has_model:
            yield model.encode()
            yield from self._read(gap, self._size)

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def _read(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            self._file.seek(start)
            piece = self._file.read(min(READ_BYTES, end - start))
            start += len(piece)
            yield piece


def keep(pieces: Iterable[bytes]) -> Upload:
    """A body as it comes, whatever it is. Raises GatewayFault."""
    upload = Upload()
    try:
        for piece in pieces:
            upload.write(piece)
    except BaseException:
        upload.close()
        raise
    return upload


def keep_multipart(pieces: Iterable[bytes], content_type: str) -> Upload:
    """A multipart body, with a gap for the model. Raises InvalidRequest for one that is malformed, and GatewayFault."""
    boundary = parse_options_header(content_type)[1].get("boundary", "").encode("latin-1", "replace")
    if not boundary:
        raise InvalidRequest("the content-type multipart/form-data has no boundary")
    upload = Upload()
    decoder, reader = MultipartDecoder(boundary), _Reader(upload, boundary)
    try:
        for piece in pieces:
            decoder.receive_data(piece)
            _take_all(decoder, reader)
        decoder.receive_data(None)
        _take_all(decoder, reader)
    except ValueError as error:
        upload.close()
        raise InvalidRequest(f"the multipart body is malformed: {error}") from None
    except BaseException:
        upload.close()
        raise
    if not reader.is_complete:
        upload.close()
        raise InvalidRequest("the multipart body is malformed: its end is missing")
    return upload


def _take_all(decoder: MultipartDecoder, reader: _Reader) -> None:
    event = decoder.next_event()
    while not isinstance(event, NeedData):
        reader.take(event)
        if isinstance(event, Epilogue):
            return
        event = decoder.next_event()


class _Reader:
    """Writes what comes, except the name of the model."""

    def __init__(self, upload: Upload, boundary: bytes) -> None:
        self.is_complete = False
        self._upload = upload
        self._delimiter = b"\r\n--" + boundary
        self._model: bytes | None = None

    def take(self, event: Event) -> None:
        """One event of the decoder."""
        if isinstance(event, Field | File):
            self._model = b"" if isinstance(event, Field) and event.name == "model" else None
            headers = b"".join(f"{name}: {value}\r\n".encode() for name, value in event.headers)
            self._upload.write(self._delimiter + b"\r\n" + headers + b"\r\n")
        elif isinstance(event, Data) and self._model is None:
            self._upload.write(event.data)
        elif isinstance(event, Data) and self._model is not None:
            self._model += event.data
            if not event.more_data:
                self._upload.leave_gap(self._model.decode("utf-8", "replace"))
        elif isinstance(event, Epilogue):
            self.is_complete = True
            self._upload.write(self._delimiter + b"--\r\n")
