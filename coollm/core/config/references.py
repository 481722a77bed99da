"""`${NAME}`, `${NAME:-default}` and `${file:PATH}` in the strings of a configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from coollm.core.config.document import Node, walk
from coollm.core.config.faults import Fault, Place
from coollm.core.registry import did_you_mean

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}|\$\{")
CREDENTIALS = "credentials/"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class UndefinedReference(Exception):
    """A reference has no value; the text says which and why."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def resolve_references(root: Node, variables: Mapping[str, str], directory: Path) -> list[Fault]:
    """Replaces the references of every string in place and returns the faults. `$${` stands for a literal `${`.

    Relative paths of `${file:PATH}` start at `directory`, the configuration's own.
    """
    faults: list[Fault] = []
    done: set[int] = set()
    for path, node in walk(root):
        if not isinstance(node.value, str) or "${" not in node.value or id(node) in done:
            continue
        done.add(id(node))
        used: list[str] = []
        try:
            node.value = _REFERENCE.sub(lambda match: _value(match, variables, directory, used), node.value)  # noqa: B023
        except UndefinedReference as undefined:
            faults.append(Fault(node.place, path, undefined.message, undefined.hint))
            node.value = None
        node.variables = tuple(used)
    return faults


def _value(match: re.Match[str], variables: Mapping[str, str], directory: Path, used: list[str]) -> str:
    if match[0] == "$${":
        return "${"
    reference = match[1]
    if reference is None:
        raise UndefinedReference("a '${' without its '}'", "write $${ for a literal ${")
    used.append(reference.split(":-")[0])
    if reference.startswith("file:"):
        return _file(_place(directory, reference.removeprefix("file:")))
    name, has_default, default = reference.partition(":-")
    if not _NAME.fullmatch(name):
        raise UndefinedReference(f"'${{{reference}}}' is not a reference", "use ${NAME}, ${NAME:-default} or ${file:PATH}")
    if variables.get(name):
        return variables[name]
    if has_default:
        return default
    if name in variables:
        raise UndefinedReference(f"the variable {name} is empty", f"give {name} a value, or write ${{{name}:-}} if empty is meant")
    raise UndefinedReference(f"the variable {name} is not defined{did_you_mean(name, tuple(variables))}", f"export {name}, or put it into the environment file")


def _place(directory: Path, name: str) -> Path:
    """`credentials/NAME` is a credential that systemd has given this process (systemd.exec(5), LoadCredential=), where it has, else a file as any other."""
    given = os.environ.get("CREDENTIALS_DIRECTORY")
    if given and name.startswith(CREDENTIALS):
        return Path(given) / name.removeprefix(CREDENTIALS)
    return directory / name


def _file(path: Path) -> str:
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UndefinedReference(f"the file {path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from error


def read_environment_file(path: Path) -> tuple[dict[str, str], list[Fault]]:
    """Variables of a file of `NAME=value` lines; a file that is missing, or not for this user to read, has none.

    As systemd's EnvironmentFile= reads it (systemd.exec(5)): `#` and `;` begin comments, quotes may enclose a value.
    """
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, PermissionError):
        # The installed file is root's: systemd reads it and hands its variables to the service, whose user cannot.
        return {}, []
    except (OSError, UnicodeDecodeError) as error:
        return {}, [Fault(None, str(path), f"cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}")]
    found: dict[str, str] = {}
    faults: list[Fault] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            continue
        name, separator, value = stripped.removeprefix("export ").partition("=")
        if not separator or not _NAME.fullmatch(name.strip()):
            faults.append(Fault(Place(str(path), number, 1), "", "expected NAME=value"))
            continue
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[name.strip()] = value
    return found, faults
