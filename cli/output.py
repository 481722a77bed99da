"""The only file that prints. Results go to standard output, progress and errors to standard error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coollm.core.errors import ConfigurationError, CoollmError

if TYPE_CHECKING:
    from coollm.core.config.faults import Fault


@dataclass(frozen=True)
class Table:
    """Rows under headings. `empty` is said when there are none."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    empty: str = ""


@dataclass(frozen=True)
class Result:
    """What a command found: `data` for --json, `text` for people, and the exit code.

    `faults` are shown on standard error where --json was not asked for.
    """

    data: Any
    text: Sequence[str | Table] = ()
    as_json: bool = False
    exit_code: int = 0
    faults: Sequence[Fault] = field(default=())


def show(result: Result) -> int:
    """Prints a result and returns its exit code."""
    if result.as_json:
        sys.stdout.write(json.dumps(result.data, indent=2, ensure_ascii=False) + "\n")
        return result.exit_code
    for fault in result.faults:
        say_fault(fault)
    for piece in result.text:
        if isinstance(piece, Table):
            _show_table(piece)
        else:
            sys.stdout.write(plain(piece) + "\n")
    return result.exit_code


_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def plain(text: str) -> str:
    """Text that does nothing to a terminal: it may quote what a client or a vendor wrote."""
    return text.translate(_CONTROLS)


def _show_table(table: Table) -> None:
    if not table.rows:
        if table.empty:
            sys.stdout.write(table.empty + "\n")
        return
    rows = [["-" if cell is None or cell == "" else plain(str(cell)) for cell in row] for row in table.rows]
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(drawn(table))
        return
    widths = [max(len(str(line[column])) for line in [list(table.columns), *rows]) for column in range(len(table.columns))]
    for line in [list(table.columns), *rows]:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n")


def drawn(table: Table) -> Any:
    """A table for a terminal."""
    from rich.markup import escape
    from rich.table import Table as RichTable

    made = RichTable(*table.columns, box=None, pad_edge=False, header_style="bold")
    for row in table.rows:
        made.add_row(*(escape("-" if cell is None or cell == "" else plain(str(cell))) for cell in row))
    return made


def write_again(data: Any, text: Sequence[str | Table], *, as_json: bool) -> None:
    """One result of many that follow each other: with --json each is a line."""
    if as_json:
        write(json.dumps(data, ensure_ascii=False) + "\n")
    else:
        show(Result(data, text))
        sys.stdout.flush()


def write(text: str) -> None:
    """A piece of a result that arrives bit by bit, such as a streamed answer."""
    sys.stdout.write(text)
    sys.stdout.flush()


def progress(text: str) -> None:
    """A line for the person who watches. A terminal that has gone away stops nothing."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


@contextlib.contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """How much of `total` bytes is done: told by calls, and shown on a terminal."""
    if not sys.stderr.isatty() or not total:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(f"      {what}", total=total)
        yield lambda size: shown.advance(task, size)


def warn(text: str) -> None:
    """Something worth knowing that stops nothing."""
    sys.stderr.write(_coloured("warning:", "33") + f" {text}\n")


def say_fault(fault: Fault) -> None:
    """One fault of a configuration."""
    sys.stderr.write(_coloured("error:", "31") + f" {_one_line(str(fault))}\n")
    if fault.hint:
        sys.stderr.write(f"hint: {_one_line(fault.hint)}\n")


def say_error(error: CoollmError) -> None:
    """An error: one line, and at most one for the way out."""
    if isinstance(error, ConfigurationError):
        for fault in error.faults:
            say_fault(fault)
        return
    fail(error.message, error.hint)


def fail(message: str, hint: str = "") -> None:
    """One error in plain words."""
    sys.stderr.write(_coloured("error:", "31") + f" {_one_line(message)}\n")
    if hint:
        sys.stderr.write(f"hint: {_one_line(hint)}\n")


def _one_line(text: str) -> str:
    """Text without line breaks and control characters: it may quote what somebody else wrote."""
    return "".join(character if character.isprintable() else " " for character in text)


def _coloured(text: str, colour: str) -> str:
    return f"\033[{colour}m{text}\033[0m" if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else text


def ask(question: str) -> bool:
    """Whether the user says yes. Without a terminal nobody is asked, and the answer is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
