from __future__ import annotations

import json
from pathlib import Path

import pytest

from coollm.core.config.explain import explain_all, explain_path, plain
from coollm.core.config.json_schema import json_schema
from coollm.core.config.load import load
from coollm.core.config.sample import render_sample
from coollm.core.config.values import Address, Duration
from coollm.core.errors import UsageError
from coollm.core.secrets import Secret

DATA = Path(__file__).parent.parent / "data"
GUIDE_VARIABLES = {"SECURE_ADMIN_KEY": "admin-key-1", "SECURE_PASSWORD": "password-1", "CLIENT_KEY_1": "client-key-1", "OPENAI_API_KEY": "sk-1,sk-2"}


def check(tmp_path: Path, text: str, **variables: str):
    file = tmp_path / "coollm.yaml"
    file.write_text(text)
    return load(file, variables)


def faults(tmp_path: Path, text: str, **variables: str) -> list[tuple[int, int, str, str]]:
    found = check(tmp_path, text, **variables).faults
    return [(fault.place.line if fault.place else 0, fault.place.column if fault.place else 0, fault.path, fault.message) for fault in found]


def test_every_setting_of_the_guide_validates_together() -> None:
    loaded = load(DATA / "guide.yaml", GUIDE_VARIABLES)
    assert loaded.faults == ()
    settings = loaded.settings
    assert settings is not None
    assert settings.server.listen == Address("0.0.0.0", 443)
    assert settings.server.admin_api_key == Secret("admin-key-1")
    assert settings.storage.runtime.type == "redis"
    assert settings.policy.retry.max_attempts == 3
    assert settings.api_keys[0].limits.tokens_per_min == 50000
    assert settings.auth is not None
    assert settings.auth.user_search_filter == "(sAMAccountName=%s)"
    assert settings.compliance.data_retention_days == 365


def test_vendors_come_from_the_environment_when_the_file_names_none() -> None:
    loaded = load(DATA / "guide.yaml", {**GUIDE_VARIABLES, "CLAUDE_API_KEY": "sk-ant-1"})
    assert loaded.settings is not None
    assert {provider.id: [key.reveal() for key in provider.api_keys] for provider in loaded.settings.llm_providers} == {
        "openai": ["sk-1", "sk-2"],
        "claude": ["sk-ant-1"],
    }
    assert ["api_keys[0].allowed_providers[1]" in warning.path for warning in loaded.warnings].count(True) == 1


@pytest.mark.parametrize(
    ("server", "warned"),
    [
        ("{webui: {enabled: true}}", False),
        ("{listen: ':2906', webui: {enabled: true}}", True),
        ("{listen: ':2906', webui: {enabled: true, local_only: true}}", False),
        ("{listen: ':2906', trusted_proxies: [10.0.0.1], webui: {enabled: true}}", False),
        ("{listen: ':2906', webui: {enabled: false}}", False),
    ],
)
def test_a_console_that_nobody_can_sign_in_to_is_said(tmp_path: Path, server: str, warned: bool) -> None:
    (tmp_path / "coollm.yaml").write_text(f"server: {server}\n")
    assert ("server.webui.enabled" in {warning.path for warning in load(tmp_path / "coollm.yaml", {}).warnings}) is warned


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ('server: {cors: {origins: ["*"], credentials: true}}', "server.cors.origins[0]", "any page could act"),
        ('server: {cors: {origins: ["chat.company.com"]}}', "server.cors.origins[0]", "expected an origin"),
        ('server: {trusted_proxies: ["10.0.0.0/99"]}', "server.trusted_proxies[0]", "expected an address or a network"),
        ('api_keys: [{key: abcdefgh, allowed_addresses: ["everywhere"]}]', "api_keys[0].allowed_addresses[0]", "expected an address or a network"),
        ('logging: {prometheus: {allowed_addresses: ["x"]}}', "logging.prometheus.allowed_addresses[0]", "expected an address or a network"),
        ('auth: {type: ldap, server: a, base_dn: b, user_dn: "uid=x"}', "auth.user_dn", "a DN with %s"),
    ],
)
def test_who_may_ask_from_where(tmp_path: Path, text: str, path: str, says: str) -> None:
    (tmp_path / "coollm.yaml").write_text(text)
    (fault,) = load(tmp_path / "coollm.yaml", {}).faults
    assert (fault.path, says in fault.message) == (path, True), fault


TEN_FAULTS = """\
version: "2.0"
server:
  listen: "nowhere"
  workrs: 4
  max_body_mb: 0
llm_providers:
  - id: one
    type: opnai
    api_keys: ["${NOT_DEFINED}"]
  - id: one
    type: custom
api_keys:
  - allowed_providers: ["two"]
policy:
  algorithm: fastest
  retry: {interval: soon}
storage: []
"""


def test_ten_faults_are_told_at_once_with_their_places(tmp_path: Path) -> None:
    found = faults(tmp_path, TEN_FAULTS)
    places = [(line, column, path) for line, column, path, _ in found]
    assert places == [
        (1, 10, "version"),
        (3, 11, "server.listen"),
        (4, 3, "server.workrs"),
        (5, 16, "server.max_body_mb"),
        (8, 11, "llm_providers[0].type"),
        (9, 16, "llm_providers[0].api_keys[0]"),
        (10, 5, "llm_providers[1].base_url"),
        (10, 9, "llm_providers[1].id"),
        (13, 5, "api_keys[0].key"),
        (13, 25, "api_keys[0].allowed_providers[0]"),
        (15, 14, "policy.algorithm"),
        (16, 21, "policy.retry.interval"),
        (17, 10, "storage"),
    ]
    messages = {path: message for _, _, path, message in found}
    assert "did you mean 'workers'?" in messages["server.workrs"]
    assert "did you mean 'openai'?" in messages["llm_providers[0].type"]
    assert "NOT_DEFINED is not defined" in messages["llm_providers[0].api_keys[0]"]
    assert "given twice" in messages["llm_providers[1].id"]
    assert "'two'" in messages["api_keys[0].allowed_providers[0]"]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("server: {listen: ':x'}", (1, 18), "HOST:PORT"),
        ("a: [1, 2", (2, 1), "not valid YAML"),
        ("server:\n\tlisten: 1", (2, 1), "not valid YAML"),
        ("- 1", (1, 1), "expected a section of keys, got a list"),
        ("server: {workers: '4'}", (1, 19), "expected a whole number of at least 1, got '4'"),
        ("server: {workers: 2}\nserver: {workers: 3}", (2, 1), "given twice"),
        ("api_keys: [{key: 12345678}]", (1, 18), "put it into quotes"),
        ("api_keys: [{key: abc, expires_at: soon}]", (1, 35), "date and time"),
        ("api_keys: [{key: 'a b'}]", (1, 18), "without spaces"),
        ("logging: {prometheus: {enabled: maybe}}", (1, 33), "true or false"),
        ("model_aliases: {fast: gpt}", (1, 23), "provider:model"),
        ("storage: {runtime: {type: redis}}", (1, 27), "needs an address"),
        ("policy: {hybrid_weights: {latency: -1}}", (1, 36), "at least 0"),
        ("server: {admin_api_key: '${X'}", (1, 25), "without its '}'"),
        ("server: {admin_api_key: '${file:missing}'}", (1, 25), "cannot be read"),
        ("a: &x [*x]", (1, 1), "refers to itself"),
        ("auth: {type: ldap, server: s, base_dn: d, user_search_filter: '(uid=x)'}", (1, 63), "%s"),
        ("llm_providers: [{id: 'a b', type: openai, api_keys: [k]}]", (1, 22), "letters, digits"),
        ("llm_providers: [{id: a, type: openai}]", (1, 17), "at least one key"),
        ("llm_providers: [{id: a, type: custom, base_url: 'ftp://x'}]", (1, 49), "http://"),
    ],
)
def test_each_fault_has_its_place(tmp_path: Path, text: str, place: tuple[int, int], message: str) -> None:
    found = faults(tmp_path, text)
    assert any((line, column) == place and message in told for line, column, _, told in found), found


def test_a_secret_of_the_wrong_form_is_not_shown(tmp_path: Path) -> None:
    found = faults(tmp_path, "server: {admin_api_key: 'geheim im klartext'}")
    assert "geheim" not in str(found)


def test_missing_and_unreadable_files_are_faults(tmp_path: Path) -> None:
    assert "no such file" in load(tmp_path / "none.yaml", {}).faults[0].message
    (tmp_path / "latin.yaml").write_bytes(b"version: '1.0'\nserver: {listen: '\xff'}")
    fault = load(tmp_path / "latin.yaml", {}).faults[0]
    assert fault.place is not None
    assert (fault.place.line, fault.place.column) == (2, 19)


def test_references(tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_text("from-file\n")
    (tmp_path / ".env").write_text("# comment\nexport A='from env file'\nWORKERS=3\n")
    text = """
server: {admin_api_key: "${file:key.txt}", workers: "${WORKERS}", drain_seconds: "${DRAIN:-5m}"}
llm_providers: [{id: a, type: custom, base_url: "http://h", name: "${A} $${B}"}]
"""
    settings = check(tmp_path, text, A="from process").settings
    assert settings is not None
    assert settings.server.admin_api_key == Secret("from-file")
    assert settings.server.workers == 3
    assert settings.server.drain_seconds == 300
    assert settings.llm_providers[0].name == "from process ${B}"


def test_anchors_and_merges(tmp_path: Path) -> None:
    text = """
llm_providers:
  - &base {id: a, type: custom, base_url: "http://h", limits: &l {req_per_min: 5}}
  - {<<: *base, id: b}
"""
    settings = check(tmp_path, text).settings
    assert settings is not None
    assert [provider.limits.req_per_min for provider in settings.llm_providers] == [5, 5]


def test_an_empty_file_is_the_default_configuration(tmp_path: Path) -> None:
    settings = check(tmp_path, "").settings
    assert settings is not None
    assert settings.storage.runtime.type == "sqlite"


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("30s", 30), ("5m", 300), ("1h", 3600), ("1d", 86400), (7, 7)])
def test_durations(text: str, seconds: float) -> None:
    assert Duration.parse(text) == seconds
    assert Duration.parse(str(Duration.parse(text))) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 minutes", "-3s", True, -1])
def test_bad_durations(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        Duration.parse(text)  # type: ignore[arg-type]


def test_explain_names_file_variable_environment_and_default(tmp_path: Path) -> None:
    loaded = check(tmp_path, 'server: {admin_api_key: "${KEY}", workers: 3}', KEY="secret-value", OPENAI_API_KEY="sk-secret")
    found = {row.path: row for row in explain_all(loaded)}
    assert (found["server.workers"].value, found["server.workers"].origin) == (3, "file")
    assert found["server.workers"].where.endswith("coollm.yaml:1:44")
    assert (found["server.admin_api_key"].value, found["server.admin_api_key"].origin) == ("********", "variable")
    assert found["server.admin_api_key"].where.startswith("KEY at")
    assert (found["llm_providers[0].api_keys"].origin, found["llm_providers[0].api_keys"].where) == ("environment", "OPENAI_API_KEY")
    assert found["policy.retry.max_attempts"].origin == "default"
    assert "secret-value" not in str(found)
    assert [row.path for row in explain_path(loaded, "policy.retry")] == ["policy.retry.max_attempts", "policy.retry.timeout", "policy.retry.interval"]
    with pytest.raises(UsageError, match=r"did you mean 'policy.retry.timeout'"):
        explain_path(loaded, "policy.retry.timout")


def test_the_schema_describes_every_key_and_agrees_with_the_loader() -> None:
    schema = json_schema()

    def undescribed(node: dict, path: str) -> list[str]:
        found = []
        for name, inner in node.get("properties", {}).items():
            if not inner.get("description"):
                found.append(f"{path}.{name}")
            found += undescribed(inner, f"{path}.{name}") + undescribed(inner.get("items", {}), f"{path}.{name}[]")
        return found

    assert undescribed(schema, "") == []
    assert schema["additionalProperties"] is False
    assert schema["properties"]["policy"]["properties"]["retry"]["properties"]["timeout"]["default"] == "30s"
    json.dumps(schema)


def test_the_shipped_sample_is_made_from_the_schema_and_loads() -> None:
    from coollm.core.resources import resource
    from tests.sample_values import SAMPLE_TITLE, SAMPLE_VALUES

    shipped = resource("etc", "config.yaml").read_text("utf-8")
    assert shipped == render_sample(SAMPLE_VALUES, SAMPLE_TITLE), "run scripts/sample"
    loaded = load(Path(str(resource("etc", "config.yaml"))), {"ADMIN_KEY": "k1-admin", "OPENAI_API_KEY": "k2", "ANTHROPIC_API_KEY": "k3", "CLIENT_KEY_1": "k4"})
    assert loaded.faults == ()


def test_the_sample_with_everything_commented_in_is_the_same_configuration(tmp_path: Path) -> None:
    """What stands behind a # is the default: leaving it out or writing it means the same."""
    text = render_sample({"version": "1.0"}, "title")
    assert all(line.startswith(("#", "version", " ")) or not line for line in text.splitlines())
    first = check(tmp_path, text).settings
    assert plain(first) == plain(check(tmp_path, "").settings)


def test_an_environment_file_of_root_is_no_fault_and_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd reads it for the service, which may not."""
    (tmp_path / ".env").write_text("KEY=value\n")
    read = Path.read_text

    def refuse(self: Path, *arguments: object) -> str:
        if self.name == ".env":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).endswith(".env"))
    text = 'server: {admin_api_key: "${KEY}"}'
    assert check(tmp_path, text, KEY="from-systemd").faults == ()
    fault = check(tmp_path, text).faults[0]
    assert "KEY is not defined" in fault.message
    assert "use sudo" in fault.hint
