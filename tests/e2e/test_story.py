"""What `coollm explain REQUEST_ID` tells: every attempt with why it moved on, times, cost, and what to do; also of a log that was rotated."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from tests.conftest import serve

CONFIGURATION = {
    "llm_providers": [
        {"id": "bad", "type": "openai", "base_url": "simulator://", "api_keys": ["sk-bad~status=429~retry_after=60"], "models": ["gpt-sim*"]},
        {
            "id": "good",
            "type": "openai",
            "base_url": "simulator://",
            "api_keys": ["sk-good"],
            "models": ["gpt-sim*"],
            "pricing": {"input_token_cost": 2.0, "output_token_cost": 8.0},
        },
    ],
    "policy": {"algorithm": "weighted", "retry": {"max_attempts": 1}},
}
CONFIGURATION["llm_providers"][0]["weight"] = 1000.0  # type: ignore[index]


def test_the_whole_story(tmp_path: Path) -> None:
    with serve(tmp_path, CONFIGURATION, workers=1) as gateway:
        moved = gateway.chat("gpt-sim~latency_ms=50")
        assert moved.status_code == 200
        refused = gateway.chat("no-model\u001b[2J\u0007")
        streamed = gateway.chat("gpt-sim", stream=True)
        assert b"[DONE]" in streamed.content
        ids = [answer.headers["x-request-id"] for answer in (moved, refused, streamed)]
        for one in ids:
            gateway.logged(one)

        told = gateway.coollm("explain", ids[0])
        assert told.returncode == 0, told.stderr
        assert "429" in told.stdout
        assert "rate_limited" in told.stdout
        assert "answered for by good" in told.stdout
        assert "8 input + 12 output tokens, $0.000112" in told.stdout
        data = json.loads(gateway.coollm("explain", ids[0], "--json").stdout)
        bad, good = data["attempts"][0], data["attempts"][-1]
        assert (bad["provider"], good["provider"], good["outcome"]) == ("bad", "good", "answered")
        assert bad["after_ms"] <= good["after_ms"] <= data["latency_ms"]
        assert good["ms"] >= 50

        told = gateway.coollm("explain", ids[1])
        assert "error model_not_found: No provider that the client may use serves the model. What to do: coollm models lists them" in told.stdout
        assert "no vendor was asked" in told.stdout
        assert "\u001b" not in told.stdout, "what a client wrote does nothing to a terminal"
        assert "the first content after" in gateway.coollm("explain", ids[2]).stdout

        # The log is rotated twice: the older one is compressed, and both are searched.
        log = tmp_path / "state" / "logs" / "app.log"
        with gzip.open(log.with_name("app.log.2.gz"), "wb") as file:
            file.write(log.read_bytes())
        log.write_bytes(b"")
        assert gateway.coollm("explain", ids[0], "--json").stdout == json.dumps(data, indent=2, ensure_ascii=False) + "\n"
        nothing = gateway.coollm("explain", "req_nothing")
        assert nothing.returncode == 1
        assert "app.log.2.gz" in nothing.stderr
        log.with_name("app.log.2.gz").write_bytes(b"this is no gzip")
        broken = gateway.coollm("explain", "req_nothing")
        assert broken.returncode == 1
        assert "cannot be read" in broken.stderr
