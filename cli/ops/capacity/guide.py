"""The guide's sizing table: what a host needs for a rate of requests."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """A row. `below` is in requests each second."""

    below: float
    rate: str
    cores: str
    memory: str
    storage: str

    def as_json(self) -> dict[str, str]:
        """As `coollm capacity --json` tells it."""
        return {"requests_per_second": self.rate, "cores": self.cores, "memory": self.memory, "storage": self.storage}


SIZES = (
    Size(10, "< 10", "1-2", "512 MB", "10 GB"),
    Size(100, "10-100", "2-4", "1-2 GB", "50 GB"),
    Size(1000, "100-1000", "4-8", "4-8 GB", "200 GB"),
    Size(float("inf"), "> 1000", "8+", "16+ GB", "500+ GB"),
)


def size_for(requests_per_second: float) -> Size:
    """The row of a rate."""
    return next(size for size in SIZES if requests_per_second < size.below)
