"""Secrets at rest: what is in the file, who can open it, and how the master key is changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coollm.core.config.load import load, secrets_in_clear
from coollm.core.errors import OperationFailed
from coollm.core.master_key import MasterKeys, key_id
from coollm.core.secret_store import SecretStore, secret_store

VALUE = "sk-canary-of-the-store-0123456789"


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    made = SecretStore(tmp_path / "state", MasterKeys(tmp_path / "master.key"))
    made.master.make()
    made.put("openai", made.seal("openai", VALUE, "ann"))
    return made


def test_a_secret_comes_back_and_is_nowhere_in_clear(store: SecretStore, tmp_path: Path) -> None:
    assert store.get("openai") == VALUE
    assert not any(VALUE.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert (tmp_path / "master.key").stat().st_mode & 0o777 == 0o600
    assert store.file.stat().st_mode & 0o777 == 0o600


def test_the_same_value_is_another_text_each_time(store: SecretStore) -> None:
    first, second = store.seal("a", VALUE, "ann"), store.seal("a", VALUE, "ann")
    assert first.value != second.value
    assert first.keys != second.keys


@pytest.mark.parametrize("part", ["value", "keys"])
def test_what_is_changed_or_moved_does_not_open(store: SecretStore, part: str) -> None:
    store.put("claude", store.seal("claude", "sk-ant-other-0123456789", "ann"))
    kept = json.loads(store.file.read_text())
    kept["secrets"]["openai"][part], kept["secrets"]["claude"][part] = kept["secrets"]["claude"][part], kept["secrets"]["openai"][part]
    store.file.write_text(json.dumps(kept))
    for name in ("openai", "claude"):
        with pytest.raises(OperationFailed, match=r"damaged|does not open"):
            store.get(name)


def test_another_master_key_opens_nothing_and_says_which_one_is_needed(store: SecretStore, tmp_path: Path) -> None:
    needed = key_id(store.master.current())
    (tmp_path / "master.key").unlink()
    with pytest.raises(OperationFailed, match="no master key"):
        store.get("openai")
    store.master.make()
    with pytest.raises(OperationFailed, match=needed):
        store.get("openai")


def test_a_master_key_that_others_may_read_is_refused(store: SecretStore, tmp_path: Path) -> None:
    (tmp_path / "master.key").chmod(0o640)
    with pytest.raises(OperationFailed, match="others may read"):
        store.get("openai")


def test_each_step_of_a_change_of_the_master_key_leaves_every_secret_open(store: SecretStore, tmp_path: Path) -> None:
    def is_open() -> bool:
        return SecretStore(store.file.parent, MasterKeys(tmp_path / "master.key")).get("openai") == VALUE

    old = store.master.current()
    new = store.master.prepare_next()
    assert store.master.prepare_next() == new, "done twice it is the same"
    assert is_open()
    store.wrap_all(new)
    assert is_open()
    store.check_all(new)
    store.master.switch()
    store.master.switch()
    assert store.master.current() == new
    assert is_open()
    store.forget_all_but(new)
    store.master.forget_previous()
    assert is_open()
    assert key_id(old) not in store.file.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["master.key", "state"]


def test_a_passphrase_opens_them_and_another_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words").write_text("correct horse\n")
    (tmp_path / "other").write_text("battery staple\n")
    monkeypatch.setenv("COOLLM_PASSPHRASE_FILE", str(tmp_path / "words"))
    store = SecretStore(tmp_path / "state", MasterKeys(tmp_path / "master.key"))
    store.master.make("correct horse")
    store.put("a", store.seal("a", VALUE, "ann"))
    assert "correct" not in (tmp_path / "master.key").read_text()
    monkeypatch.delenv("COOLLM_MASTER_DESCRIPTOR", raising=False)
    assert SecretStore(tmp_path / "state", MasterKeys(tmp_path / "master.key")).get("a") == VALUE
    monkeypatch.delenv("COOLLM_MASTER_DESCRIPTOR")
    monkeypatch.setenv("COOLLM_PASSPHRASE_FILE", str(tmp_path / "other"))
    with pytest.raises(OperationFailed, match="does not open"):
        SecretStore(tmp_path / "state", MasterKeys(tmp_path / "master.key")).get("a")
    monkeypatch.delenv("COOLLM_MASTER_DESCRIPTOR")


def test_references_to_secrets_and_commands(tmp_path: Path) -> None:
    config, state = tmp_path / "coollm.yaml", tmp_path / "state"
    store = secret_store(config, state)
    store.master.make()
    store.put("openai", store.seal("openai", VALUE, "ann"))
    config.write_text(
        "llm_providers:\n"
        '  - {id: a, type: openai, api_keys: ["${secret:openai}"]}\n'
        '  - {id: b, type: openai, api_keys: ["${command:/bin/echo -n sk-from-a-command}", "sk-in-clear-0123456789"]}\n'
    )
    loaded = load(config, {"COOLLM_ALLOW_COMMANDS": "1"}, state=state)
    assert loaded.settings is not None
    keys = [key.reveal() for provider in loaded.settings.llm_providers for key in provider.api_keys]
    assert keys == [VALUE, "sk-from-a-command", "sk-in-clear-0123456789"]
    assert [fault.path for fault in secrets_in_clear(loaded)] == ["llm_providers[1].api_keys[1]"]
    faults = load(config, {}, state=state).faults
    assert [(fault.path, fault.message) for fault in faults] == [("llm_providers[1].api_keys[0]", "commands are not allowed")]
    store.put("openai", None)
    (fault,) = load(config, {"COOLLM_ALLOW_COMMANDS": "1"}, state=state).faults
    assert fault.message == "there is no secret 'openai'"
    assert fault.place is not None
    assert (fault.place.line, fault.hint) == (2, "coollm secrets set openai")


@pytest.mark.parametrize(
    ("command", "says"),
    [("/bin/false", "failed with exit 1"), ("/nowhere/at/all", "cannot be run"), ("", "without a command"), ("'", "cannot be run")],
)
def test_a_command_that_gives_no_secret(tmp_path: Path, command: str, says: str) -> None:
    config = tmp_path / "coollm.yaml"
    config.write_text(f'server: {{admin_api_key: "${{command:{command}}}"}}\n')
    (fault,) = load(config, {"COOLLM_ALLOW_COMMANDS": "1"}, state=tmp_path).faults
    assert says in fault.message
