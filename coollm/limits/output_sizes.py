"""How long the answers of a model usually are: what is reserved for a request that does not say. Learnt from answers, by all workers together."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

# Of the last answers so many count, the older ones less.
MEMORY = 50
MOST_MODELS = 500

# So many answers are waited for before a model's size is believed.
LEAST_ANSWERS = 5

# Reserved is more than the mean: most answers are then shorter than what was reserved for them.
DEVIATIONS = 2.0


class Size(msgspec.Struct, frozen=True, array_like=True):
    """Mean and mean deviation of the output tokens, and how many answers they stand for."""

    mean: float
    deviation: float
    answers: int


class OutputSizes:
    """By the model's name, as clients write it."""

    def __init__(self) -> None:
        self._own: dict[str, Size] = {}
        self._others: dict[str, list[Size]] = {}

    def learn(self, model: str, output_tokens: int) -> None:
        """Takes in an answer to a request that gave no limit."""
        before = self._own.pop(model, None)
        if before is None:
            self._own[model] = Size(float(output_tokens), 0.0, 1)
        else:
            share = 1 / min(MEMORY, before.answers + 1)
            mean = before.mean + (output_tokens - before.mean) * share
            deviation = before.deviation + (abs(output_tokens - mean) - before.deviation) * share
            self._own[model] = Size(mean, deviation, min(MEMORY, before.answers + 1))
        if len(self._own) > MOST_MODELS:
            del self._own[next(iter(self._own))]

    def expected(self, model: str) -> int | None:
        """Output tokens to reserve; None where too little is known."""
        rows = [*self._others.get(model, ()), *([self._own[model]] if model in self._own else [])]
        answers = sum(row.answers for row in rows)
        if answers < LEAST_ANSWERS:
            return None
        usual: float = sum((row.mean + DEVIATIONS * row.deviation) * row.answers for row in rows) / answers
        return max(1, round(usual))

    def news(self) -> dict[str, Size]:
        """What this worker tells the others."""
        return self._own

    def hear(self, news: Iterable[dict[str, Size]]) -> None:
        """Takes in what the others tell now."""
        heard: dict[str, list[Size]] = {}
        for one in news:
            for model, size in one.items():
                heard.setdefault(model, []).append(size)
        self._others = heard
