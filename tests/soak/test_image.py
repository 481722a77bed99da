"""The image for containers, built for real: of a base that debootstrap makes, since the test reaches no registry of images; then it serves, and ends as it should."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import requests

from tests.conftest import ROOT, clean_environment, free_port, wait_for

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

BASE = "python:3.11-slim-bookworm"
CONFIG = """version: "1.0"
server: {{listen: "127.0.0.1:{port}", workers: 1, drain_seconds: 20}}
llm_providers: [{{id: openai, type: openai, base_url: "simulator://", api_keys: ["sk-one"], models: ["gpt-sim", "gpt-sim~*"]}}]
api_keys: [{{id: app, key: "client-key-of-the-tests"}}]
logging: {{file: "-", audit: {{path: /var/lib/coollm/audit.log}}}}
"""


class Buildah:
    def __init__(self, home: Path) -> None:
        self._words = ["buildah", "--storage-driver", "vfs", "--root", str(home / "root"), "--runroot", str(home / "run")]
        # Packages come from where pip on this machine gets them.
        self.passed = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.lower().endswith("_proxy")}

    def command(self, *words: str) -> list[str]:
        return [*self._words, *words]

    def __call__(self, *words: str) -> str:
        environment = {**clean_environment(), **self.passed, "BUILDAH_ISOLATION": "chroot"}
        done = subprocess.run(self.command(*words), capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout.strip()


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Buildah:
    home = tmp_path_factory.mktemp("images")
    made = Buildah(home)
    sources = Path("/etc/apt/sources.list.d/debian.sources").read_text()
    mirror = next(line.split()[1] for line in sources.splitlines() if line.startswith("URIs:"))
    command = ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", "bookworm", str(home / "base"), mirror]
    subprocess.run(command, check=True, capture_output=True)
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    (home / "base" / bundle.relative_to("/")).write_bytes(bundle.read_bytes())
    container = made("from", "scratch")
    made("add", container, str(home / "base"), "/")
    made("commit", "-q", container, BASE)
    passed = [word for name in made.passed if name != "PIP_FIND_LINKS" for word in ("--env", name)]
    made("build", "--pull-never", *passed, "-f", "etc/containers/Dockerfile", "-t", "coollm", ".")
    return made


def test_it_serves_and_lets_streams_end(buildah: Buildah, tmp_path: Path) -> None:
    port = free_port()
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    (tmp_path / "coollm.yaml").write_text(CONFIG.format(port=port))
    container = buildah("from", "--pull-never", "coollm")
    inside = ["run", "-v", f"{tmp_path}:/config:ro", container, "--"]
    assert "coollm" in buildah(*inside, "coollm", "--version")
    words = (tmp_path / "words.txt").open("wb")
    process = subprocess.Popen(
        buildah.command(*inside, "coollm", "serve"), stdout=words, stderr=words, env={**clean_environment(), "BUILDAH_ISOLATION": "chroot"}
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: _answers(f"{url}/ready"), 30, "the gateway")
        assert "ok" in buildah(*inside, "coollm", "health")
        server = main_process(process.pid)
        assert Path(f"/proc/{server}").stat().st_uid == 2906, "it is not root's"
        body = {"model": "gpt-sim~rate=10~tokens=40", "messages": [{"role": "user", "content": "hello"}], "stream": True}
        headers = {"authorization": "Bearer client-key-of-the-tests"}
        with requests.post(f"{url}/v1/chat/completions", json=body, headers=headers, stream=True, timeout=30) as answer:
            pieces = answer.iter_lines()
            next(pieces)
            os.kill(server, signal.SIGTERM)
            assert list(pieces)[-2:] == [b"data: [DONE]", b""]
        process.wait(30)
    finally:
        process.kill()
        process.wait()
    told = (tmp_path / "words.txt").read_text()
    assert '"message":"request"' in told, "the log is on standard error"
    assert "Traceback" not in told


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).status_code == 200
    except requests.ConnectionError:
        time.sleep(0.2)
        return False


def main_process(pid: int) -> int:
    """gunicorn's own, which the container began with: what buildah runs is above it, and its threads have the children."""
    while True:
        if b"gunicorn" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
        children = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
        pid = int(children[0])
