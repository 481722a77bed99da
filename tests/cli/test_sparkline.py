"""A row of figures in a few characters, also where there are no such characters."""

from __future__ import annotations

import io
import sys

import pytest
from coollm_cli.sparkline import BARS, PLAIN, sparkline


class Terminal(io.StringIO):
    """Standard output of an encoding."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


@pytest.mark.parametrize(("encoding", "bars"), [("utf-8", BARS), ("ascii", PLAIN), ("latin-1", PLAIN)])
def test_bars(monkeypatch: pytest.MonkeyPatch, encoding: str, bars: str) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal(encoding))
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == bars
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == bars[0] * 2
    assert sparkline([0.001, 1000]) == bars[0] + bars[-1]
    assert len(sparkline(range(100), 24)) == 24
    assert sparkline(range(100), 24)[-1] == bars[-1]
