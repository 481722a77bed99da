"""A request leaves nothing that only Python's collector of cycles would free: under errors and streams that are cut, that kept a worker growing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT, SimulatorHandle, clean_environment, free_port

# What each vendor does: its models carry it behind their names.
VENDORS = {
    "good": ("openai", "/v1", "gpt-sim"),
    "claude": ("claude", "", "claude-sim"),
    "slow": ("openai", "/v1", "gpt-sim~tokens=400~rate=200"),
    "slow claude": ("claude", "", "claude-sim~tokens=400~rate=200"),
    "failing": ("openai", "/v1", "gpt-sim~status=500"),
    "limited": ("openai", "/v1", "gpt-sim~status=429"),
    "strict": ("openai", "/v1", "gpt-sim~status=400"),
    "cut": ("openai", "/v1", "gpt-sim~cut_after=5"),
    "erring": ("claude", "", "claude-sim~error_after=5"),
    "malformed": ("openai", "/v1", "gpt-sim~malformed_after=5"),
    "silent": ("openai", "/v1", "gpt-sim~hang=1"),
    "away": ("openai", "", "gpt-away"),
}

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"

# Where it is asked, who, whether for a stream, whether the client reads to the end, and the status.
KINDS = {
    "whole": (CHAT, "good", False, True, 200),
    "stream": (CHAT, "good", True, True, 200),
    "whole claude": (CHAT, "claude", False, True, 200),
    "stream claude": (CHAT, "claude", True, True, 200),
    "the client leaves": (CHAT, "slow", True, False, 200),
    "the client leaves claude": (CHAT, "slow claude", True, False, 200),
    "failing": (CHAT, "failing", False, True, 502),
    "limited": (CHAT, "limited", False, True, 429),
    "strict": (CHAT, "strict", False, True, 400),
    "cut whole": (CHAT, "cut", False, True, 502),
    "cut stream": (CHAT, "cut", True, True, 200),
    "erring stream": (CHAT, "erring", True, True, 200),
    "malformed stream": (CHAT, "malformed", True, True, 200),
    "silent": (CHAT, "silent", False, True, 504),
    "away": (CHAT, "away", False, True, 503),
    "messages": (MESSAGES, "claude", False, True, 200),
    "a stream of messages": (MESSAGES, "claude", True, True, 200),
    "the client leaves messages": (MESSAGES, "slow claude", True, False, 200),
    "a stream of responses": (RESPONSES, "good", True, True, 200),
    "the client leaves responses": (RESPONSES, "slow", True, False, 200),
}


def body(model: str, path: str = CHAT, *, stream: bool = False, **more: Any) -> str:
    said = {"input": "hello"} if path == RESPONSES else {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 500}
    return json.dumps({"model": model, "stream": stream, **said, **more})


def test_nothing_is_left_to_the_collector(simulator: SimulatorHandle, tmp_path: Path) -> None:
    rows = [
        {"id": name.replace(" ", "-"), "type": kind, "base_url": simulator.url + path, "api_keys": [f"sk-{name.replace(' ', '-')}"], "models": [model]}
        for name, (kind, path, model) in VENDORS.items()
    ]
    rows[-1]["base_url"] = f"http://127.0.0.1:{free_port()}/v1"
    # Each kind has keys of its own, so that none is asked for that cools down.
    rows += [{**row, "id": f"{row['id']}-streams", "api_keys": [f"{row['api_keys'][0]}-streams"]} for row in rows]
    configuration = {
        "version": "1.0",
        "llm_providers": rows,
        "api_keys": [{"id": "app", "key": "client-key-of-the-tests"}],
        "policy": {"retry": {"max_attempts": 1, "timeout": "1s"}, "fallback": {"enabled": False}, "timeouts": {"first_byte": "1s"}},
        "storage": {"runtime": {"type": "memory"}},
    }
    config = tmp_path / "coollm.yaml"
    config.write_text(yaml.safe_dump(configuration))
    wanted: list[tuple[str, str, str, bool, bool]] = [
        ("no key", CHAT, body("gpt-sim"), False, True),
        ("broken", CHAT, '{"model": "gpt-sim", "messages": [', True, True),
        ("nonsense", CHAT, body("gpt-sim", temperature="warm"), True, True),
        ("unknown", CHAT, body("no-such-model"), True, True),
    ]
    expected = {"no key": 401, "broken": 400, "nonsense": 400, "unknown": 404}
    for name, (path, vendor, stream, reads_to_end, status) in KINDS.items():
        provider = vendor.replace(" ", "-") + ("-streams" if stream else "")
        wanted.append((name, path, body(f"{provider}:{VENDORS[vendor][2]}", path, stream=stream), True, reads_to_end))
        expected[name] = status
    environment = clean_environment(HOME=str(tmp_path), COOLLM_CONFIG=str(config), COOLLM_STATE_DIR=str(tmp_path / "state"))
    command = [sys.executable, "-m", "gevent.monkey", "--module", "tests.server.garbage"]
    done = subprocess.run(command, input=json.dumps(wanted), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {name: status for name, (status, _) in told.items()} == expected
    assert {name: kinds for name, (_, kinds) in told.items() if kinds} == {}
