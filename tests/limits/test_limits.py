from __future__ import annotations

import pytest

from coollm.core.config.schema import ClientLimits
from coollm.core.errors import LimitReached
from coollm.core.types import ChatRequest, ImagePart, Message, Target, TextPart, Usage
from coollm.limits.estimate import DEFAULT_OUTPUT_TOKENS, input_tokens
from coollm.limits.limiter import TOKENS, Identity, Limiter, client_counter, key_counter
from coollm.limits.settlement import Ending, settled_usage
from coollm.stores.memory import MemoryStore


def chat(text: str = "x" * 400, **more: object) -> ChatRequest:
    return ChatRequest(model="m", messages=(Message(role="user", parts=(TextPart(text=text),)),), **more)  # type: ignore[arg-type]


TARGET = Target(provider="p", type="t", key_id="k", model="m", req_per_min=2, tokens_per_min=1000)
OTHER = Target(provider="q", type="t", key_id="k", model="m")


def test_reserve_then_settle() -> None:
    store = MemoryStore()
    limiter = Limiter(store)
    who = Identity(id="c", limits=ClientLimits(req_per_min=5, tokens_per_min=2000))
    grant, _ = limiter.lease(who, chat(max_output_tokens=100), [TARGET])
    assert grant is not None
    assert grant.client is not None
    assert store.used([client_counter("c", TOKENS), key_counter("p/k", TOKENS)]) == {client_counter("c", TOKENS): 204, key_counter("p/k", TOKENS): 204}
    limiter.settle([grant.key, grant.client], Usage(input_tokens=90, output_tokens=10))
    assert store.used([client_counter("c", TOKENS), key_counter("p/k", TOKENS)]) == {client_counter("c", TOKENS): 100, key_counter("p/k", TOKENS): 100}
    assert limiter.fullness(key_counter("p/k", TOKENS)) == pytest.approx(0.204, abs=0.01)


def test_a_full_key_is_passed_over() -> None:
    limiter = Limiter(MemoryStore())
    who = Identity(id="c")
    names = []
    for _ in range(4):
        grant, _ = limiter.lease(who, chat(max_output_tokens=1), [TARGET, OTHER])
        assert grant is not None
        names.append(grant.target.provider)
    assert names == ["p", "p", "q", "q"]


def test_a_full_client_is_refused_with_a_true_wait() -> None:
    limiter = Limiter(MemoryStore())
    who = Identity(id="c", limits=ClientLimits(req_per_min=1))
    limiter.lease(who, chat(), [OTHER])
    with pytest.raises(LimitReached) as raised:
        limiter.lease(who, chat(), [OTHER])
    assert raised.value.retry_after_seconds is not None
    assert 55 < raised.value.retry_after_seconds <= 61


def test_what_never_fits_is_told_so() -> None:
    limiter = Limiter(MemoryStore())
    who = Identity(id="c", limits=ClientLimits(tokens_per_min=150))
    with pytest.raises(LimitReached) as raised:
        limiter.lease(who, chat(max_output_tokens=100), [OTHER])
    assert (raised.value.code, raised.value.retry_after_seconds) == ("request_too_large", None)
    grant, _ = limiter.lease(who, chat(), [OTHER])
    assert grant is not None, f"an output that is only guessed ({DEFAULT_OUTPUT_TOKENS}) does not make a request too large"


def test_images_are_not_counted_as_text() -> None:
    image = ChatRequest(model="m", messages=(Message(role="user", parts=(ImagePart(data="A" * 4_000_000, media_type="image/png"),)),))
    assert input_tokens(image) < 2000


@pytest.mark.parametrize(
    ("ending", "counted", "characters", "expected"),
    [
        (Ending.ANSWERED, Usage(input_tokens=9, output_tokens=3), 0, (9, 3, False)),
        (Ending.ANSWERED, None, 40, (104, 10, True)),
        (Ending.VENDOR_FAILED, None, 0, (0, 0, False)),
        (Ending.CUT, Usage(input_tokens=9, output_tokens=1), 40, (9, 10, True)),
        (Ending.CUT, Usage(input_tokens=9, output_tokens=50), 40, (9, 50, False)),
        (Ending.CLIENT_GONE, None, 0, (104, 0, True)),
        (Ending.CLIENT_GONE, None, 40, (104, 10, True)),
    ],
)
def test_the_rule_for_each_ending(ending: Ending, counted: Usage | None, characters: int, expected: tuple[int, int, bool]) -> None:
    usage = settled_usage(ending, chat(), counted, characters)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == expected
