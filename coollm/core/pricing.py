"""What tokens cost: the rates of a model, in US dollars per million tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from coollm.core.types import ServiceTier, Usage, Value

MILLION = 1_000_000


class Rates(msgspec.Struct, frozen=True):
    """US dollars per million tokens of each kind. A kind without a rate of its own costs as input, or as output."""

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None
    reasoning: float | None = None

    def cost_usd(self, usage: Usage) -> float:
        """US dollars for `usage`."""
        millionths = (
            usage.input_tokens * self.input
            + usage.cached_input_tokens * _or(self.cached_input, self.input)
            + usage.cache_write_tokens * self._write
            + usage.cache_write_1h_tokens * _or(self.cache_write_1h, self._write)
            + usage.output_tokens * self.output
            + usage.reasoning_tokens * _or(self.reasoning, self.output)
        )
        return millionths / MILLION

    @property
    def _write(self) -> float:
        return _or(self.cache_write, self.input)

    def dearest_usd(self, input_tokens: int, output_tokens: int) -> float:
        """US dollars that so many tokens cost at most, whatever kind they turn out to be."""
        dearest_input = max(self.input, _or(self.cached_input, 0.0), self._write, _or(self.cache_write_1h, 0.0))
        dearest_output = max(self.output, _or(self.reasoning, 0.0))
        return (input_tokens * dearest_input + output_tokens * dearest_output) / MILLION


class Tier(Value, frozen=True):
    """The rates of all tokens of a request whose input is longer than `above` tokens."""

    above: int
    rates: Rates


class Schedule(Value, frozen=True):
    """Rates, and those of long requests, the shortest first."""

    rates: Rates
    tiers: tuple[Tier, ...] = ()

    def at(self, input_tokens: int) -> Rates:
        """The rates of a request with so much input."""
        found = self.rates
        for tier in self.tiers:
            if input_tokens > tier.above:
                found = tier.rates
        return found

    def up_to(self, input_tokens: int) -> Iterator[Rates]:
        """All rates that a request with at most so much input may be billed at."""
        yield self.rates
        yield from (tier.rates for tier in self.tiers if input_tokens > tier.above)


class Price(Value, frozen=True):
    """The price of a model: its standard schedule, and that of each service tier which has one. `source` says who gave it."""

    standard: Schedule
    services: Mapping[str, Schedule] = {}
    source: str = "configuration"

    def cost_usd(self, usage: Usage) -> float:
        """US dollars for `usage`, at the tier that served it."""
        return self._schedule(usage.service_tier).at(usage.prompt_tokens).cost_usd(usage)

    def dearest_usd(self, input_tokens: int, output_tokens: int, asked: ServiceTier | None) -> float:
        """US dollars that a request costs at most. One that asks for no tier, or for `auto`, may be served at any; the others at theirs, or the standard."""
        schedules = [self.standard]
        schedules += self.services.values() if asked in (None, "auto") else [self._schedule(asked)]
        return max(rates.dearest_usd(input_tokens, output_tokens) for schedule in schedules for rates in schedule.up_to(input_tokens))

    def _schedule(self, tier: ServiceTier | None) -> Schedule:
        return self.services.get(tier, self.standard) if tier else self.standard

    @property
    def comparable(self) -> float:
        """One figure to compare prices by: US dollars for a million input and a quarter of a million output tokens."""
        return self.standard.rates.input + self.standard.rates.output / 4


def flat(rates: Rates, source: str = "configuration") -> Price:
    """A price without tiers."""
    return Price(standard=Schedule(rates=rates), source=source)


def _or(rate: float | None, otherwise: float) -> float:
    return otherwise if rate is None else rate
