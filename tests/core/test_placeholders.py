"""A configuration without its secrets, and with them again."""

from __future__ import annotations

from pathlib import Path

import pytest

from coollm.core.config.load import load
from coollm.core.config.placeholders import with_secrets, with_section, without_secrets

TEXT = """\
# the key was sk-in-clear-0123456789 once; žluťoučký 🐎
server: {admin_api_key: 'an-admin-key-0123456789'}
llm_providers:
  - id: a
    type: openai
    api_keys:
      - &shared sk-in-clear-0123456789   # a comment stays
      - "sk-quoted-0123456789"
  - {id: b, type: openai, api_keys: [*shared, "${FROM_ENVIRONMENT}"]}
policy:
  algorithm: cost
  retry: {max_attempts: 2}
teams: [{id: x}]
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FROM_ENVIRONMENT", "sk-environment-0123456789")
    path = tmp_path / "coollm.yaml"
    path.write_text(TEXT)
    return path


def test_no_secret_is_in_it_and_it_comes_back_as_it_was(config: Path, tmp_path: Path) -> None:
    shown = without_secrets(config, config, tmp_path)
    for secret in ("sk-in-clear-0123456789", "sk-quoted-0123456789", "an-admin-key-0123456789", "sk-environment-0123456789"):
        assert secret not in shown
    assert "${FROM_ENVIRONMENT}" in shown
    assert "# a comment stays" in shown
    assert with_secrets(shown, config, config, tmp_path).split("\n", 1)[1] == TEXT.split("\n", 1)[1], "all but the secret in a comment"


def test_a_placeholder_that_is_not_known_is_a_fault(config: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(without_secrets(config, config, tmp_path))
    faults = load(config, content=other, state=tmp_path).faults
    assert faults[0].message == "the secret that stood here is not known on this host"
    assert "coollm secrets set NAME" in faults[0].hint


@pytest.mark.parametrize(
    "text", [TEXT, TEXT.replace("policy:\n  algorithm: cost\n  retry: {max_attempts: 2}\n", ""), TEXT.replace("algorithm: cost", "# nothing")]
)
def test_another_section_in_the_place_of_one(tmp_path: Path, config: Path, text: str) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(with_section(text, "policy", {"algorithm": "latency"}))
    settings = load(config, content=other, state=tmp_path).settings
    assert settings is not None
    assert (settings.policy.algorithm, settings.policy.retry.max_attempts, settings.teams[0].id) == ("latency", 3, "x")
