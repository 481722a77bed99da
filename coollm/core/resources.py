"""The files of `systemd/` and `etc/`, found in a checkout and in an installed wheel."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from coollm.core.errors import OperationFailed

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def resource(folder: str, name: str) -> Traversable:
    """The shipped file `name` of `folder` ("etc" or "systemd").

    A wheel holds the folders as `coollm.files.etc` and `coollm.files.systemd` (see pyproject.toml); in a checkout they lie beside the package.
    Raises OperationFailed if the file is in neither.
    """
    package = files("coollm")
    for place in (package / "files" / folder / name, package / ".." / folder / name):
        if place.is_file():
            return place
    raise OperationFailed(f"the shipped file {folder}/{name} is missing from this installation", "install the coollm wheel again")
