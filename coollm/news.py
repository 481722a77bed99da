"""What the workers of a store tell each other with each beat: how vendor keys do, and how long answers are."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from coollm.limits.output_sizes import OutputSizes, Size
from coollm.routing.stats import Board, Told


class _News(msgspec.Struct, frozen=True, array_like=True):
    keys: dict[str, Told]
    sizes: dict[str, Size]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_News)


class Exchange:
    """Writes this worker's news, and takes in the others'."""

    def __init__(self, board: Board, sizes: OutputSizes) -> None:
        self._board = board
        self._sizes = sizes

    def write(self) -> bytes:
        """The news of now."""
        return _encoder.encode(_News(self._board.news(), self._sizes.news()))

    def hear(self, told: Sequence[bytes]) -> None:
        """Takes in the others' news. What another version has written is passed over."""
        heard = []
        for one in told:
            try:
                heard.append(_decoder.decode(one))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
        self._board.hear([one.keys for one in heard])
        self._sizes.hear([one.sizes for one in heard])
