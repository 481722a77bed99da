"""A host with something to lose: a gateway that has served, made once, and copied for each test to the same place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.config import Config

from tests.backup.places import BUCKET, Network, moto_server, reset_moto, s3rver
from tests.conftest import clean_environment, serve, wait_for

CLIENT = "client-key-of-the-backup-tests"
VENDOR = "sk-vendor-canary-of-the-backup-tests"
S3_ID, S3_SECRET = "S3RVER", "S3RVER"
REQUESTS = 12


class Site:
    """A home with a configuration and a state. Commands are run as its user would."""

    def __init__(self, home: Path, recipient: str, identity: Path, **environment: str) -> None:
        self.home = home
        self.recipient = recipient
        self.identity = identity
        self.config = home / "coollm.yaml"
        self.state = home / "state"
        self.environment = clean_environment(
            HOME=str(home),
            COOLLM_CONFIG=str(self.config),
            COOLLM_STATE_DIR=str(self.state),
            COOLLM_RUN_DIR=str(home / "run"),
            AWS_ACCESS_KEY_ID=S3_ID,
            AWS_SECRET_ACCESS_KEY=S3_SECRET,
            AWS_DEFAULT_REGION="us-east-1",
            **environment,
        )

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """A session of its own, as a service and a login have: a backup gives way to all that is of its session, and other tests saturate the processors."""
        command = [sys.executable, "-m", "coollm_cli.main", *arguments]
        pipe, told = subprocess.PIPE, {**self.environment, **environment}
        return subprocess.Popen(command, cwd=self.home, env=told, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, text=True, start_new_session=True)

    def coollm(self, *arguments: str, code: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        out, words = process.communicate(timeout=280)
        assert code is None or process.returncode == code, f"{arguments}: exit {process.returncode}\n{out}\n{words}"
        assert "Traceback" not in out + words
        return subprocess.CompletedProcess(arguments, process.returncode, out, words)

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.coollm(*arguments, "--json", code=code).stdout)

    def backup(self, *arguments: str) -> str:
        """Makes a backup. Returns its id."""
        return self.json("backup", "create", *arguments)["id"]

    def set(self, **backup: Any) -> None:
        """Changes what the configuration says of backups, before anything was applied."""
        told = yaml.safe_load(self.config.read_text())
        told["backup"] = {**told.get("backup", {}), **backup}
        self.config.write_text(yaml.safe_dump(told))
        shutil.rmtree(self.state / "generations", ignore_errors=True)

    def live(self) -> dict[str, bytes]:
        """Every file of the configuration and the state that a gateway reads, with what is in it."""
        kept = [self.config, *(file for file in self.state.rglob("*") if file.is_file())]
        apart = {self.state / name for name in ("admin", "backups", "logs", "drill")}
        wanted = [file for file in kept if not apart & set(file.parents) and not file.name.endswith(("-wal", "-shm")) and ".lock" not in file.name]
        return {str(file): file.read_bytes() for file in wanted}


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The public key of a recipient, and the file with the private one."""
    file = tmp_path_factory.mktemp("keys") / "recovery.key"
    command = [sys.executable, "-m", "coollm_cli.main", "backup", "keygen", str(file), "--json"]
    told = subprocess.run(command, capture_output=True, text=True, env=clean_environment(HOME=str(file.parent)), check=True)
    return json.loads(told.stdout)["recipient"], file


@pytest.fixture(scope="session")
def master_home(tmp_path_factory: pytest.TempPathFactory, keys: tuple[str, Path]) -> tuple[Path, Path, str]:
    """A home that has served: what is copied, where it was, and the key of a client that the configuration does not have."""
    place = tmp_path_factory.mktemp("site") / "home"
    place.mkdir()
    configuration = {
        "llm_providers": [
            {
                "id": "openai",
                "type": "openai",
                "base_url": "simulator://",
                "api_keys": [VENDOR],
                "model": "gpt-sim",
                "models": ["gpt-sim"],
                "pricing": {"input_token_cost": 2.0, "output_token_cost": 8.0},
            }
        ],
        "api_keys": [{"id": "app", "key": CLIENT, "limits": {"budget_usd": 100}}],
        "backup": {"recipients": [keys[0]]},
    }
    with serve(place, configuration, workers=1) as gateway:
        stored = json.loads(gateway.coollm("clients", "create", "mobile", "--yes", "--json").stdout)["key"]
        for _ in range(REQUESTS):
            assert gateway.chat("gpt-sim").status_code == 200
        wait_for(lambda: json.loads(gateway.coollm("usage", "report", "--json").stdout)["total"]["requests"] == REQUESTS, what="the ledger")
        assert gateway.coollm("secrets", "import", "--yes").returncode == 0
        text = (place / "coollm.yaml").read_text()
        (place / "next.yaml").write_text(text + "# the second\n")
        assert gateway.coollm("config", "apply", "next.yaml", "--yes", "--message", "for the tests").returncode == 0
    copy = place.parent / "master"
    shutil.copytree(place, copy)
    return copy, place, stored


@pytest.fixture
def site(master_home: tuple[Path, Path, str], keys: tuple[str, Path]) -> Site:
    copy, place, _ = master_home
    while place.exists():  # a process that ends takes the last files of its databases away itself
        shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(copy, place)
    return Site(place, *keys)


@pytest.fixture(scope="session")
def stored_key(master_home: tuple[Path, Path, str]) -> str:
    return master_home[2]


class Bucket:
    """A bucket behind a network that can be spoilt."""

    def __init__(self, port: int, network: Network) -> None:
        self.network = network
        self.endpoint = f"http://127.0.0.1:{network.port}"
        options = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required", response_checksum_validation="when_required")
        self.client = boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id=S3_ID, aws_secret_access_key=S3_SECRET, region_name="us-east-1", config=options
        )

    def keys(self) -> list[str]:
        return sorted(one["Key"] for one in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", ()))


@pytest.fixture(scope="session")
def moto_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with moto_server(tmp_path_factory.mktemp("moto") / "words.txt") as port:
        yield port


@pytest.fixture(scope="session")
def s3rver_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    home = tmp_path_factory.mktemp("s3rver")
    with s3rver(home / "words.txt", home / "data") as port:
        yield port


@pytest.fixture(params=["moto", "s3rver"])
def bucket(request: pytest.FixtureRequest) -> Iterator[Bucket]:
    """Each of the stores."""
    yield from made(request.param, request)


@pytest.fixture
def moto_bucket(request: pytest.FixtureRequest) -> Iterator[Bucket]:
    yield from made("moto", request)


def made(kind: str, request: pytest.FixtureRequest) -> Iterator[Bucket]:
    port = request.getfixturevalue(f"{kind}_port")
    network = Network(port)
    found = Bucket(port, network)
    if kind == "moto":
        reset_moto(port)
        found.client.create_bucket(Bucket=BUCKET)
    for key in list(found.keys()):
        found.client.delete_object(Bucket=BUCKET, Key=key)
    yield found
    network.close()


def in_bucket(site: Site, bucket: Bucket, **more: Any) -> None:
    """Backups of the site go to a bucket."""
    site.set(target=f"s3://{BUCKET}/coo-llm", s3={"endpoint": bucket.endpoint, "region": "us-east-1", "checksums": "when_required", **more})


def as_root() -> bool:
    return os.getuid() == 0
