"""Releases: each a virtual environment of its own under /opt/coollm/releases, complete or not there.

Source: https://docs.python.org/3/library/venv.html, https://pip.pypa.io/en/stable/cli/pip_install/.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from coollm.core.errors import OperationFailed, UsageError
from coollm.core.paths import CURRENT_RELEASE, INSTANCES, RELEASES

COMPLETE = ".complete"
EXTRAS = "all"
LOCK = "requirements.lock"
BUILD_SECONDS = 900.0

_WHEEL = re.compile(r"coollm-([0-9][A-Za-z0-9.!+_]*)-[^-]+-[^-]+-[^-]+\.whl")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.!+_]*")


def version_of(wheel: Path) -> str:
    """The version in a wheel's name. Raises UsageError for what is no wheel of coollm."""
    found = _WHEEL.fullmatch(wheel.name)
    if found is None:
        raise UsageError(f"{wheel}: not a wheel of coollm", "its name is coollm-VERSION-py3-none-any.whl")
    return found[1]


def source(what: str | None, wheelhouse: Path | None) -> dict[str, Any]:
    """Where a release comes from: a wheel, or a version of a wheelhouse or the package index; by default the newest of the wheelhouse, else what runs now.

    Returns its `version`, `wheel` and `wheelhouse`, with absolute paths. Raises UsageError.
    """
    if wheelhouse is not None and not wheelhouse.is_dir():
        raise UsageError(f"--wheelhouse {wheelhouse}: no such directory")
    house = str(wheelhouse.absolute()) if wheelhouse else None
    if what is not None and what.endswith(".whl"):
        wheel = Path(what)
        if not wheel.is_file():
            raise UsageError(f"{wheel}: no such file")
        return {"version": version_of(wheel), "wheel": str(wheel.absolute()), "wheelhouse": house}
    if what is not None and not _VERSION.fullmatch(what):
        raise UsageError(f"'{what}' is neither a version nor a wheel")
    wheels = {version_of(file): file for file in (wheelhouse.glob("coollm-*.whl") if wheelhouse else ()) if _WHEEL.fullmatch(file.name)}
    if what is None:
        if wheels:
            newest = max(wheels.values(), key=lambda file: _order(version_of(file)))
            return {"version": version_of(newest), "wheel": str(newest.absolute()), "wheelhouse": house}
        return {"version": running_version(), "wheel": None, "wheelhouse": house}
    if what in wheels:
        return {"version": what, "wheel": str(wheels[what].absolute()), "wheelhouse": house}
    if wheelhouse is not None and not is_complete(what):
        raise UsageError(f"--wheelhouse {wheelhouse}: no wheel of coollm {what}", f"there: {', '.join(sorted(wheels)) or 'none'}")
    return {"version": what, "wheel": None, "wheelhouse": house}


def _order(version: str) -> tuple[tuple[int, str], ...]:
    """Versions in their order, as far as ours go: numbers by their size."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"[.+_!]|(?<=\d)(?=[a-z])", version))


def is_complete(version: str) -> bool:
    """Whether a release is installed, whole."""
    return (RELEASES / version / COMPLETE).is_file()


def current() -> str:
    """The version that the command is of; "" if none is installed."""
    return os.path.basename(os.readlink(CURRENT_RELEASE)) if CURRENT_RELEASE.is_symlink() else ""


def in_use() -> set[str]:
    """The releases that the command or an instance runs."""
    links = [CURRENT_RELEASE, *(INSTANCES.iterdir() if INSTANCES.is_dir() else ())]
    return {os.path.basename(os.readlink(link)) for link in links if link.is_symlink()}


def build(where: dict[str, Any]) -> None:
    """Installs a release beside the others. Raises OperationFailed."""
    target = RELEASES / where["version"]
    if is_complete(where["version"]):
        return
    shutil.rmtree(target, ignore_errors=True)
    RELEASES.mkdir(parents=True, exist_ok=True, mode=0o755)
    _run([str(base_python()), "-m", "venv", str(target)], "a virtual environment could not be made")
    pip = [str(target / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    offline = ["--no-index", "--find-links", where["wheelhouse"]] if where["wheelhouse"] else []
    lock = Path(where["wheelhouse"]) / LOCK if where["wheelhouse"] else None
    wanted = where["wheel"] or f"coollm=={where['version']}"
    if lock is not None and lock.is_file():
        _run([*pip, *offline, "--require-hashes", "--no-deps", "-r", str(lock)], "what coollm needs could not be installed")
        _run([*pip, *offline, "--no-deps", wanted], "coollm could not be installed")
    else:
        named = f"{wanted}[{EXTRAS}]" if where["wheel"] else f"coollm[{EXTRAS}]=={where['version']}"
        _run([*pip, *offline, named], "coollm could not be installed")
    _run([str(target / "bin" / "coollm"), "--version"], "the release does not run")
    (target / COMPLETE).touch()


def running_version() -> str:
    """The version of this command."""
    from coollm import __version__

    return __version__


def remove(version: str) -> None:
    """Removes a release that nothing runs."""
    if version not in in_use():
        shutil.rmtree(RELEASES / version, ignore_errors=True)


def base_python() -> Path:
    """The interpreter of releases: the one beneath this one. Raises OperationFailed for one that the gateway's user cannot reach."""
    found = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if found.is_relative_to("/home") or found.is_relative_to("/root"):
        way_out = "bootstrap with the system's Python: /usr/bin/python3 -m venv DIR, then pip install the wheel there"
        raise OperationFailed(f"{found} belongs to a person, and the units may not read it", way_out)
    return found


def _run(command: list[str], failure: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COOLLM_"))}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False, env=environment)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OperationFailed(f"{failure}: {error}") from error
    if done.returncode != 0:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise OperationFailed(f"{failure}: {said[-1] if said else f'exit {done.returncode}'}", "see that the wheelhouse is whole: scripts/release makes one")
