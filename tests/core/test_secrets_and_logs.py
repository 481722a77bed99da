from __future__ import annotations

import json
import logging
from pathlib import Path

from coollm.core.config.schema import Settings
from coollm.core.logs import open_log
from coollm.core.secrets import MASK, Redactor, Secret, key_digest


def test_a_secret_never_shows_itself() -> None:
    secret = Secret("sk-canary-123456")
    assert "canary" not in f"{secret} {secret!r} {[secret]} { ({'a': secret}) }"
    assert secret == Secret("sk-canary-123456")
    assert secret != Secret("sk-canary-12345")
    assert key_digest("a" * 20 + "b") != key_digest("a" * 20 + "c")


def test_the_redactor_knows_live_secrets_and_the_shape_of_keys() -> None:
    redact = Redactor([Secret("hunter22"), Secret('with"quote\\x'), Secret("abc")])
    assert redact("my hunter22!") == f"my {MASK}!"
    assert "quote" not in redact(json.dumps({"k": 'with"quote\\x'}))
    assert redact("abc stays: too short to black out") == "abc stays: too short to black out"
    assert "AIza" not in redact("error for AIzaSyD-1234567890abcdefghij")
    assert "sk-proj" not in redact("Incorrect API key provided: sk-proj-abcdefghijklmnop1234")
    assert "topsecret" not in redact("Authorization: Bearer topsecret1")


def test_log_lines_are_json_redacted_and_without_variables(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    secret = Secret("canary-in-traceback")
    handler = open_log(Settings(), path, Redactor([secret]))
    log = logging.getLogger("coollm.test")

    def fails() -> None:
        local = secret.reveal()
        raise ValueError(f"bad {local}")

    try:
        fails()
    except ValueError:
        log.exception("it failed with %s", secret.reveal(), extra={"request_id": "r1"})
    handler.close()
    text = path.read_text()
    line = json.loads(text)
    assert (line["request_id"], line["error"], line["level"]) == ("r1", "ValueError", "error")
    assert line["trace"]
    assert "canary" not in text


def test_a_rotated_log_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    handler = open_log(Settings(), path, Redactor())
    log = logging.getLogger("coollm.test")
    log.info("one")
    path.rename(tmp_path / "app.log.1")
    handler._checked = -10.0  # type: ignore[attr-defined]
    log.info("two")
    handler.close()
    assert json.loads(path.read_text())["message"] == "two"
    assert json.loads((tmp_path / "app.log.1").read_text())["message"] == "one"


def test_what_a_secret_is_made_of_is_masked_too() -> None:
    account = Secret('{"type":"service_account","private_key":"-----BEGIN-abcdef\\nxyz"}')
    redact = Redactor([Secret("AKIAEXAMPLE:half-of-a-secret:a-session"), account])
    assert redact("used half-of-a-secret and a-session") == "used ******** and ********"
    assert "abcdef" not in redact("key -----BEGIN-abcdef\nxyz")
