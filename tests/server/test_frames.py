"""What stands around the text of a streamed frame, by which the frames that follow are known without being read."""

from __future__ import annotations

import json

import pytest

from coollm.streaming import _around


def frame(text: str, **more: object) -> bytes:
    return b"data: " + json.dumps({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": None}]}).encode() + b"\n\n"


@pytest.mark.parametrize("text", ["Hello", " there", "a\\b", 'say "yes"', "line\n"])
def test_another_text_stands_in_the_same_place(text: str) -> None:
    before, after = _around(frame(text), text)
    assert before + b"something else" + after == frame("something else")


def test_what_is_not_sure_is_not_told() -> None:
    assert _around(frame("assistant", role="assistant"), "assistant") == (b"", b""), "it stands there twice"
    assert _around(frame("é"), "é") == (b"", b""), "it is written in another way"
