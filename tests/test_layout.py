"""The rules of the house itself."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coollm.core.registry import ALGORITHMS, ENDPOINTS, PROVIDERS, STORES
from tests.conftest import ROOT, clean_environment


def imports(folder: str) -> Iterator[tuple[Path, str]]:
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from ((file, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield file, node.module


def test_the_control_plane_imports_the_core_only() -> None:
    ours = {(str(file.relative_to(ROOT)), name) for file, name in imports("cli") if name.split(".")[0] in ("coollm", "flask", "gevent", "gunicorn", "tests")}
    assert {name for _, name in ours if not name.startswith("coollm.core")} <= {"coollm"}
    assert {file for file, name in ours if name == "coollm"} == {"cli/main.py", "cli/ops/releases.py"}, "for its version alone"


def test_the_core_imports_nothing_above_itself() -> None:
    above = [(file.name, name) for file, name in imports("coollm/core") if name.startswith("coollm") and not name.startswith("coollm.core")]
    assert above == []
    assert [(file.name, name) for file, name in imports("coollm/core") if name.split(".")[0] in ("flask", "gevent", "gunicorn", "typer")] == []


def test_only_one_file_opens_sockets_to_vendors() -> None:
    allowed = {
        "coollm/connecting.py",
        "coollm/wire.py",
        "coollm/server/worker.py",
        "coollm/stores/redis_client.py",
        "coollm/api/access.py",
        "coollm/server/probe.py",
    }
    allowed |= {"coollm/simulator/http.py"}
    found = {str(file.relative_to(ROOT)) for file, name in imports("coollm") if name.split(".")[0] in ("socket", "requests", "urllib3", "http")}
    ours = [(str(file.relative_to(ROOT)), file.read_text()) for file in (ROOT / "coollm").rglob("*.py")]
    found |= {name for name, text in ours if re.search(r"^(from gevent import .*\bsocket\b|import _socket)", text, re.MULTILINE)}
    assert "coollm/connecting.py" in found
    assert found <= allowed


@pytest.mark.parametrize(("registry", "folder"), [(PROVIDERS, "providers"), (STORES, "stores"), (ALGORITHMS, "routing"), (ENDPOINTS, "api")])
def test_a_part_is_one_file_and_one_row(registry: object, folder: str) -> None:
    for name in registry:  # type: ignore[attr-defined]
        assert registry[name] is not None  # type: ignore[index]
        module = registry._rows[name].partition(":")[0]  # type: ignore[attr-defined]
        assert module.startswith(f"coollm.{folder}.")
    others = [file for file in (ROOT / "coollm").rglob("*.py") if file.parent.name != folder and file.name != "registry.py"]
    if folder in ("routing", "stores"):
        for name in registry:  # type: ignore[attr-defined]
            assert not any(f"coollm.{folder}.{name} import" in file.read_text() for file in others), f"{name} is reached by its row"


def test_top_level() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    if not tracked:
        tracked = "\0".join(
            str(file.relative_to(ROOT)) for file in ROOT.iterdir() if not file.name.startswith(".") and file.name not in ("build", "coollm.egg-info")
        )
    names = {name.split("/")[0] for name in tracked.split("\0") if name and not name.startswith(".")}
    locks = {"requirements.lock", "requirements-test.lock"}
    assert names == {"pyproject.toml", "coollm", "cli", "systemd", "etc", "tests", "scripts", "CHANGELOG.md", "README.md"} | locks


def test_every_public_name_has_a_docstring() -> None:
    missing = []
    for folder in ("coollm", "cli"):
        for file in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(file.read_text())
            if not ast.get_docstring(tree):
                missing.append(str(file.relative_to(ROOT)))
            for node in tree.body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                    missing.append(f"{file.relative_to(ROOT)}:{node.name}")
    assert missing == []


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from coollm_cli.main import run
try:
    run(["--help"])
finally:
    heavy = [name for name in ("flask", "gevent", "gunicorn", "requests", "msgspec", "orjson", "yaml", "sqlite3", "redis", "http.client") if name in sys.modules]
    print("HEAVY", heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean_environment(), check=False)
    assert done.stdout.rstrip().endswith("HEAVY []"), done.stdout + done.stderr


def test_shipped_files_are_found() -> None:
    from coollm.core.errors import OperationFailed
    from coollm.core.resources import resource

    assert "ExecStart=" in resource("systemd", "coollm@.service").read_text("utf-8")
    with pytest.raises(OperationFailed, match="missing from this installation"):
        resource("etc", "nothing")


def test_the_units_are_valid_and_hardened(tmp_path: Path) -> None:
    for file in (ROOT / "systemd").iterdir():
        shutil.copy(file, tmp_path / file.name.replace("@.", "@1."))
    units = [str(file) for file in tmp_path.iterdir() if file.suffix in (".service", ".socket", ".timer", ".target", ".slice", ".path")]
    assert len(units) == 22
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False, env=environment)
    complaints = [line for line in done.stderr.splitlines() if "not executable" not in line and line]
    assert complaints == []
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=13", str(tmp_path / "coollm@1.service")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_wheel_carries_both_houses_and_the_shipped_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, env=clean_environment())
    target = tmp_path / "site"
    wheel = next(tmp_path.glob("*.whl"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, env=clean_environment())
    assert sorted(path.name for path in target.iterdir() if path.is_dir() and "dist-info" not in path.name and path.name != "bin") == ["coollm", "coollm_cli"]
    code = "import coollm, coollm_cli; from coollm.core.resources import resource; print(coollm.__file__, resource('etc', 'config.yaml'), resource('systemd', 'coollm@.service'))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=clean_environment(PYTHONPATH=str(target)), check=False
    )
    assert done.stdout.count(str(target)) == 3, done.stdout + done.stderr
