"""The files for containers are valid, and say what the product says: checked without a daemon. `tests/soak/test_image.py` builds the image and runs it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT, clean_environment, coollm

CONTAINERS = ROOT / "etc" / "containers"
SECRETS = dict(line.split("=", 1) for line in (CONTAINERS / "environment.example").read_text().splitlines() if line and not line.startswith("#"))
DRAIN_SECONDS = 30


def compose() -> dict[str, Any]:
    done = subprocess.run(
        ["docker-compose", "-f", str(CONTAINERS / "compose.yaml"), "config"], capture_output=True, text=True, check=False, env=clean_environment(**SECRETS)
    )
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def test_the_configuration(tmp_path: Path) -> None:
    shutil.copy(CONTAINERS / "config.yaml", tmp_path / "coollm.yaml")
    done = coollm("config", "validate", cwd=tmp_path, environment=clean_environment(HOME=str(tmp_path), **SECRETS))
    assert done.returncode == 0, done.stdout + done.stderr
    for name in SECRETS:
        if name != "GRAFANA_PASSWORD":
            assert f"${{{name}}}" in (tmp_path / "coollm.yaml").read_text()
    assert yaml.safe_load((tmp_path / "coollm.yaml").read_text())["server"]["drain_seconds"] == DRAIN_SECONDS


def test_compose() -> None:
    told = compose()
    services = told["services"]
    gateways = [services[name] for name in ("gw1", "gw2", "gw3")]
    assert {"haproxy", "redis", "postgres", "prometheus", "grafana"} <= set(services)
    for one in gateways:
        assert one["environment"].keys() == {name for name in SECRETS if name != "GRAFANA_PASSWORD"}
        assert seconds(one["stop_grace_period"]) >= DRAIN_SECONDS + 5
        assert one["read_only"]
    assert len({next(volume for volume in one["volumes"] if volume.startswith("gw")) for one in gateways}) == 3, "a state of its own each"
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in told["volumes"] or Path(source).is_file(), volume
    missing = subprocess.run(
        ["docker-compose", "-f", str(CONTAINERS / "compose.yaml"), "config", "-q"], capture_output=True, text=True, check=False, env=clean_environment()
    )
    assert missing.returncode != 0
    assert "write etc/containers/.env" in missing.stderr


def seconds(text: str) -> int:
    return int(re.fullmatch(r"(\d+)s", text)[1])  # type: ignore[index]


def test_haproxys_file_is_the_one_that_is_rendered() -> None:
    words = [
        "--inventory",
        "fleet.yaml",
        "--bind",
        ":2906",
        "--nameserver",
        "127.0.0.11:53",
        "--user",
        "none",
        "--socket",
        "/tmp/admin.sock",
        "--metrics",
        ":8405",
    ]
    rendered = coollm("lb", "render", *words, cwd=CONTAINERS)
    assert rendered.stdout.rstrip() == (CONTAINERS / "haproxy.cfg").read_text().rstrip(), rendered.stderr
    checked = subprocess.run(["haproxy", "-c", "-f", str(CONTAINERS / "haproxy.cfg")], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_dockerfile_copies_what_there_is_and_starts_what_there_is() -> None:
    text = (CONTAINERS / "Dockerfile").read_text()
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / name).exists() for name in kept)
    project = (ROOT / "pyproject.toml").read_text()
    for needed in ("pyproject.toml", re.search(r'readme = "(.+)"', project)[1], "requirements.lock"):  # type: ignore[index]
        assert needed in kept
    assert f"--uid {user()}" in text
    assert 'ENTRYPOINT ["coollm"]' in text
    assert 'CMD ["serve"]' in text


def user() -> int:
    return next(one for one in kubernetes() if one["kind"] == "Deployment")["spec"]["template"]["spec"]["securityContext"]["runAsUser"]


def kubernetes() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CONTAINERS / "kubernetes.yaml").read_text()))


@pytest.mark.parametrize("version", ["1.28", "1.33"])
def test_kubernetes(version: str) -> None:
    for one in kubernetes():
        kubernetes_validate.validate(one, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**kubernetes()[0], "spec": {"replicas": "three"}}, version, strict=True)


def test_kubernetes_lets_streams_end() -> None:
    found = {one["kind"]: one for one in kubernetes()}
    deployment = found["Deployment"]["spec"]
    pod = deployment["template"]["spec"]
    container = pod["containers"][0]
    wait = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= wait + DRAIN_SECONDS + 5
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    labels = deployment["template"]["metadata"]["labels"]
    for selector in (
        deployment["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert found["PodDisruptionBudget"]["spec"]["minAvailable"] < deployment["replicas"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
