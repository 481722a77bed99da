from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from coollm.core import paths
from coollm.core.errors import OperationFailed
from tests.conftest import ROOT


def test_which_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths.find_config(Path("a.yaml"), {"COOLLM_CONFIG": "b.yaml"}) == Path("a.yaml")
    assert paths.find_config(None, {"COOLLM_CONFIG": "b.yaml"}) == Path("b.yaml")
    assert paths.find_config(None, {}) == Path("coollm.yaml")


def test_where_things_lie() -> None:
    installed, local = paths.SYSTEM_CONFIG, Path("/home/x/coollm.yaml")
    assert paths.state_directory(installed, None, {}) == Path("/var/lib/coollm")
    assert paths.state_directory(local, None, {"XDG_STATE_HOME": "/s"}) == Path("/s/coollm")
    assert paths.state_directory(local, None, {"HOME": "/home/x"}) == Path("/home/x/.local/state/coollm")
    assert paths.state_directory(installed, Path("/o"), {"COOLLM_STATE_DIR": "/e"}) == Path("/o")
    assert paths.log_directory(installed, Path("/s")) == Path("/var/log/coo-llm")
    assert paths.run_directory(installed, {}) == Path("/run/coollm")
    assert paths.run_directory(local, {"XDG_RUNTIME_DIR": "/r"}) == Path("/r/coollm")
    assert paths.environment_file(installed) == Path("/etc/coollm/environment")
    assert paths.environment_file(local) == Path("/home/x/.env")


def test_private_directories(tmp_path: Path) -> None:
    made = paths.make_private(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(OperationFailed):
        paths.make_private(tmp_path / "file")


def test_a_directory_that_another_user_made_first_is_refused() -> None:
    """In a shared temporary directory somebody else may have made the run directory, to read what is put there."""
    with tempfile.TemporaryDirectory() as shared:
        os.chmod(shared, 0o777)
        theirs = Path(shared) / "coollm-1"
        theirs.mkdir(mode=0o777)
        code = (
            f"import sys, os; sys.path.insert(0, {str(ROOT)!r})\n"
            f"from coollm.core.paths import make_private\nfrom pathlib import Path\nfrom unittest import mock\n"
            f"with mock.patch('os.getuid', return_value=os.getuid() + 4711): make_private(Path({str(theirs)!r}))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "belongs to another user" in done.stderr
