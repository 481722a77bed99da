"""Each check of `doctor` that a host of the tests cannot be made to fail: by what it reads."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from coollm_cli.ops import doctor
from coollm_cli.ops.codes import ALL, FINDINGS
from coollm_cli.ops.doctor import CHECKS, Finding, Patient

from coollm.core.config.load import load
from coollm.core.errors import RequestError
from coollm.core.instances import WORKERS, WorkerReport, write_report
from tests.conftest import ROOT


@pytest.fixture
def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Patient:
    """A gateway that somebody starts by hand, with Redis on this host."""
    monkeypatch.setenv("COOLLM_RUN_DIR", str(tmp_path / "run"))
    config = tmp_path / "coollm.yaml"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config.write_text(f"version: '1.0'\nserver: {{listen: '127.0.0.1:{port}'}}\nstorage: {{runtime: {{type: redis, addr: '127.0.0.1:6379'}}}}\n")
    (tmp_path / "state").mkdir(mode=0o700)
    return Patient(config, tmp_path / "state", load(config).settings)


def codes(check: Callable[[Patient], Iterator[Finding]], patient: Patient) -> list[str]:
    return [finding.code for finding in check(patient)]


def test_every_code_is_found_by_a_check_and_explained() -> None:
    text = Path(doctor.__file__).read_text()
    assert all(code in ALL for code in doctor.HEALTH.values())
    assert all(f'"{code.code}"' in text for code in FINDINGS)
    assert all(code.remedy for code in FINDINGS)
    assert len(ALL) == len({code.code for code in ALL.values()})
    assert len(CHECKS) == 18


def test_every_error_of_the_gateway_is_explained() -> None:
    used = set()
    for file in (ROOT / "coollm").rglob("*.py"):
        used |= set(re.findall(r'code="([a-z_]+)"', file.read_text()))
    for error in every_error(RequestError):
        used |= {error.code} - {None}
    assert len(used) > 30
    assert used <= set(ALL), f"coollm explain does not know {sorted(used - set(ALL))}"


def every_error(kind: type[RequestError]) -> Iterator[type[RequestError]]:
    for one in kind.__subclasses__():
        yield one
        yield from every_error(one)


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [("/proc/sys/net/core/somaxconn", 128, "backlog"), ("/proc/sys/vm/overcommit_memory", 0, "overcommit")],
)
def test_kernel(patient: Patient, monkeypatch: pytest.MonkeyPatch, path: str, value: int, code: str) -> None:
    good = {"/proc/sys/net/core/somaxconn": 4096, "/proc/sys/vm/overcommit_memory": 1}
    monkeypatch.setattr(doctor, "_number", good.get)
    assert code not in codes(doctor._kernel, patient)
    monkeypatch.setattr(doctor, "_number", {**good, path: value}.get)
    assert code in codes(doctor._kernel, patient)


@pytest.mark.parametrize(("changes", "code"), [({"f_bavail": 10}, "disk-space"), ({"f_favail": 10}, "inodes")])
def test_disks(patient: Patient, monkeypatch: pytest.MonkeyPatch, changes: dict[str, int], code: str) -> None:
    good = {"f_bavail": 10**6, "f_blocks": 10**7, "f_frsize": 4096, "f_files": 10**6, "f_favail": 10**6}
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(**good))
    assert codes(doctor._disks, patient) == []
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(**{**good, **changes}))
    assert set(codes(doctor._disks, patient)) == {code}


def test_port_that_another_program_has(patient: Patient) -> None:
    assert codes(doctor._port, patient) == []
    assert patient.settings is not None
    with socket.socket() as other:
        other.bind(patient.settings.server.listen)
        other.listen()
        assert codes(doctor._port, patient) == ["port"]


def test_clock(patient: Patient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "timedatectl"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(doctor, "SYSTEMD", tmp_path)
    for said, found in (("yes", []), ("no", ["clock"])):
        tool.write_text(f"#!/bin/sh\necho {said}\n")
        tool.chmod(0o755)
        assert codes(doctor._clock, patient) == found


def test_a_slow_store_and_reservations_that_nobody_settles(patient: Patient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = {"orphaned_holds": 0}
    slow = [0.0]

    def ask(path: str) -> Any:
        time.sleep(slow[0])
        return told

    monkeypatch.setattr(doctor.host, "states", lambda _: [SimpleNamespace(name="1", status="up", directory=tmp_path)])
    monkeypatch.setattr(doctor.host, "client_of", lambda *_: SimpleNamespace(ask=ask))
    assert codes(doctor._store, patient) == []
    told["orphaned_holds"], slow[0] = 3, 0.06
    assert codes(doctor._store, patient) == ["store-latency", "reservations"]


def test_few_descriptors(patient: Patient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    directory = tmp_path / "run" / "port-1"
    (directory / WORKERS).mkdir(parents=True)
    (directory / "instance.json").write_text(f'{{"pid": {os.getpid()}, "config": "", "started": 0, "log": ""}}')
    write_report(directory, WorkerReport(pid=os.getpid(), version="1", generation=1, started=time.time(), written=time.time()))
    for limit, found in ((65536, []), (1024, ["descriptors"])):
        monkeypatch.setattr(doctor, "_limit_of", lambda pid, limit=limit: limit if pid == os.getpid() else None)
        assert codes(doctor._descriptors, patient) == found


def test_mixed_releases(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Patient, "is_installed", True)
    monkeypatch.setattr(doctor.systemd, "is_active", lambda _: True)
    for releases, found in ((("1", "1"), []), (("1", "2"), ["mixed-releases"])):
        states = [
            SimpleNamespace(name=str(number), status="up", release=release, live=[SimpleNamespace(version=release)]) for number, release in enumerate(releases)
        ]
        monkeypatch.setattr(doctor.host, "states", lambda _, states=states: states)
        assert codes(doctor._instances, patient) == found
