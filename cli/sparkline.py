"""A row of figures in a few characters: `▁▃█▆▂`. Where the terminal has no such characters, `.:=#`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"
PLAIN = "_.:-=+*#"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The last `width` values, the largest as the highest bar. Nothing for none."""
    shown = list(values)[-width:]
    bars = BARS if can_show(BARS) else PLAIN
    largest = max(shown, default=0.0)
    if largest <= 0:
        return bars[0] * len(shown)
    return "".join(bars[min(len(bars) - 1, round(value / largest * (len(bars) - 1)))] for value in shown)


def can_show(text: str) -> bool:
    """Whether standard output has these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
