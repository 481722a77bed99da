"""`${NAME}`, `${NAME:-default}`, `${secret:NAME}`, `${file:PATH}` and `${command:PROGRAM ARGUMENTS}` in the strings of a configuration.

A command is run without a shell, and only where $COOLLM_ALLOW_COMMANDS is 1 in the environment: a configuration, which may come over the admin API, cannot
allow it to itself.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from coollm.core.config.document import Node, walk
from coollm.core.config.faults import Fault, Place
from coollm.core.errors import OperationFailed
from coollm.core.registry import did_you_mean

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}|\$\{")
CREDENTIALS = "credentials/"

ALLOW_COMMANDS = "COOLLM_ALLOW_COMMANDS"
COMMAND_SECONDS = 10.0
MOST_COMMAND_BYTES = 64 * 1024

ReadSecret = Callable[[str], str]
"""A secret of the store by its name. Raises OperationFailed."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class UndefinedReference(Exception):
    """A reference has no value; the text says which and why."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def resolve_references(root: Node, variables: Mapping[str, str], directory: Path, read_secret: ReadSecret) -> list[Fault]:
    """Replaces the references of every string in place and returns the faults. `$${` stands for a literal `${`.

    Relative paths of `${file:PATH}` start at `directory`, the configuration's own.
    """
    faults: list[Fault] = []
    done: set[int] = set()
    resolver = _Resolver(variables, directory, read_secret)
    for path, node in walk(root):
        if not isinstance(node.value, str) or "${" not in node.value or id(node) in done:
            continue
        done.add(id(node))
        resolver.used = []
        try:
            node.value = _REFERENCE.sub(resolver.value, node.value)
        except UndefinedReference as undefined:
            faults.append(Fault(node.place, path, undefined.message, undefined.hint))
            node.value = None
        node.variables = tuple(resolver.used)
    return faults


class _Resolver:
    """Gives the values of references, and remembers which it gave since `used` was emptied."""

    def __init__(self, variables: Mapping[str, str], directory: Path, read_secret: ReadSecret) -> None:
        self._variables = variables
        self._directory = directory
        self._read_secret = read_secret
        self.used: list[str] = []

    def value(self, match: re.Match[str]) -> str:
        """What a reference stands for. Raises UndefinedReference."""
        if match[0] == "$${":
            return "${"
        reference = match[1]
        if reference is None:
            raise UndefinedReference("a '${' without its '}'", "write $${ for a literal ${")
        kind, colon, rest = reference.partition(":")
        if colon and kind in ("file", "secret", "command"):
            self.used.append(reference if kind != "command" else f"command:{rest.split(' ')[0]}")
            if kind == "file":
                return _file(_place(self._directory, rest))
            return self._secret(rest) if kind == "secret" else self._command(rest)
        if colon and kind == "kept":
            raise UndefinedReference("the secret that stood here is not known on this host", "coollm secrets set NAME, and write ${secret:NAME} here")
        self.used.append(reference.split(":-")[0])
        return self._variable(reference)

    def _variable(self, reference: str) -> str:
        variables = self._variables
        name, has_default, default = reference.partition(":-")
        if not _NAME.fullmatch(name):
            raise UndefinedReference(f"'${{{reference}}}' is not a reference", "use ${NAME}, ${NAME:-default}, ${secret:NAME} or ${file:PATH}")
        if variables.get(name):
            return variables[name]
        if has_default:
            return default
        if name in variables:
            raise UndefinedReference(f"the variable {name} is empty", f"give {name} a value, or write ${{{name}:-}} if empty is meant")
        near = did_you_mean(name, tuple(variables))
        raise UndefinedReference(f"the variable {name} is not defined{near}", f"export {name}, or put it into the environment file")

    def _secret(self, name: str) -> str:
        try:
            return self._read_secret(name)
        except OperationFailed as error:
            raise UndefinedReference(error.message, error.hint) from error

    def _command(self, text: str) -> str:
        """What a program prints. Neither its words of complaint nor its output are told: they may hold the secret."""
        if self._variables.get(ALLOW_COMMANDS) != "1":
            raise UndefinedReference("commands are not allowed", f"put {ALLOW_COMMANDS}=1 into the environment file, if this host's administrator wants them")
        try:
            argv = shlex.split(text)
            if not argv:
                raise UndefinedReference("a '${command:}' without a command", "name the program and its arguments")
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_SECONDS, check=False)  # noqa: S603
            if done.returncode != 0:
                raise UndefinedReference(f"the command {argv[0]} failed with exit {done.returncode}", "run it by hand as the gateway's user")
            if len(done.stdout) > MOST_COMMAND_BYTES:
                raise UndefinedReference(f"the command {argv[0]} printed more than {MOST_COMMAND_BYTES} bytes")
            return done.stdout.decode().rstrip("\r\n")
        except subprocess.TimeoutExpired as error:
            raise UndefinedReference(f"the command {argv[0]} did not end within {COMMAND_SECONDS:.0f} s") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "its text or its output cannot be read"
            raise UndefinedReference(f"the command cannot be run: {reason}", "name the program by its full path") from error


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
