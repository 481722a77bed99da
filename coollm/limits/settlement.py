"""One rule for each way in which a request can end.

| ending                     | requests | tokens                                                                   |
|----------------------------|----------|--------------------------------------------------------------------------|
| ANSWERED                   | charged  | what the vendor counted; our own count, flagged, where it gave none       |
| VENDOR_FAILED              | charged  | none: the vendor bills no failed request                                  |
| CUT (vendor or restart)    | charged  | the vendor's last count, else our count of what came, flagged             |
| CLIENT_GONE, with content  | charged  | the same                                                                  |
| CLIENT_GONE, without       | charged  | the input, flagged: the vendor has read it                                |
| REFUSED by a limit         | none     | none: nothing was reserved                                                |
| WORKER_DIED                | charged  | the estimate, flagged: another worker finds it and lets it run no more    |
| CACHED                     | none     | none: nothing was asked of a vendor                                       |
| HEDGED, the slower of two  | charged  | the input, flagged: the vendor has read it; a line of its own             |

"Requests" and "tokens" are the charges of client, team, model and vendor key alike; money follows the tokens. What counts as running (`concurrent`) is let
go in every case. An attempt that failed is settled for its key, its model and the budgets when it ends, and the client's and team's rates when the whole
request ends.
"""

from __future__ import annotations

import enum

from coollm.core.types import ModelRequest, Usage
from coollm.limits.estimate import counted_usage


class Ending(enum.StrEnum):
    """How a request, or one attempt of it, ended."""

    ANSWERED = "answered"
    VENDOR_FAILED = "vendor_failed"
    CUT = "cut"
    CLIENT_GONE = "client_gone"
    WORKER_DIED = "worker_died"
    CACHED = "cached"
    HEDGED = "hedged"


def settled_usage(ending: Ending, request: ModelRequest, counted: Usage | None, output_characters: int) -> Usage:
    """What is charged for an ending. `counted` is the vendor's last word on usage, `output_characters` what has come of the answer."""
    if ending is Ending.VENDOR_FAILED:
        return Usage()
    if counted is None:
        return counted_usage(request, output_characters)
    if ending is Ending.ANSWERED:
        return counted
    own = counted_usage(request, output_characters)
    if counted.completion_tokens >= own.output_tokens:
        return counted
    # A stream that ends early has told its input (Claude does at the start) and not yet its output.
    return Usage(
        input_tokens=counted.input_tokens,
        cached_input_tokens=counted.cached_input_tokens,
        cache_write_tokens=counted.cache_write_tokens,
        cache_write_1h_tokens=counted.cache_write_1h_tokens,
        output_tokens=own.output_tokens,
        service_tier=counted.service_tier,
        estimated=True,
    )
