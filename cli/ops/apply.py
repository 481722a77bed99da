"""Applies a configuration without a restart: a new generation is put in force, every worker changes over, each instance is asked; or it is taken back."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coollm_cli import output
from coollm_cli.ops import host
from coollm_cli.ops.directory import check_directory
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step
from coollm_cli.ops.times import duration
from coollm_cli.ops.watch import find_probe_model, wait_until_healthy

from coollm.core.config.difference import differences
from coollm.core.config.generations import SHORTEST_CONFIRM_SECONDS, Generations
from coollm.core.config.inputs import stamp
from coollm.core.config.load import load
from coollm.core.config.placeholders import KEPT_PREFIX, with_secrets
from coollm.core.config.schema import Settings
from coollm.core.errors import ConfigurationError, OperationFailed, Unreachable
from coollm.core.files import replace_file
from coollm.core.paths import admin_directory, is_installed, make_private
from coollm.core.secrets import Redactor

TAKE_IN_SECONDS = 10.0
LOOK_SECONDS = 0.05


def apply_plan(config: Path, state: Path, file: Path, confirm_seconds: float | None, message: str | None = None) -> Plan:
    """From the generation in force to `file`. Raises ConfigurationError for one that is not valid."""
    with _with_known_secrets(config, state, file) as whole:
        return _apply_plan(config, state, whole, file, confirm_seconds, message)


@contextmanager
def _with_known_secrets(config: Path, state: Path, file: Path) -> Iterator[Path]:
    """The file, or a copy of it in which secrets that the admin API left out (`${kept:…}`) stand again, as far as a generation of this host has them."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        text = ""
    if KEPT_PREFIX not in text:
        yield file
        return
    for known in (config, *(one.file for one in Generations(config, state).all())):
        if known.exists():
            text = with_secrets(text, config, known, state)
    with tempfile.NamedTemporaryFile(dir=make_private(admin_directory(config, state)), prefix=".applied.", suffix=".yaml") as whole:
        whole.write(text.encode())
        whole.flush()
        yield Path(whole.name)


def _apply_plan(config: Path, state: Path, file: Path, given: Path, confirm_seconds: float | None, message: str | None) -> Plan:
    loaded = load(config, content=file)
    if loaded.settings is None:
        raise ConfigurationError(load(given).faults or loaded.faults)
    if loaded.settings.auth is not None:
        try:
            check_directory(loaded.settings)
        except (OperationFailed, Unreachable) as error:
            output.warn(f"auth: {error.message}; nobody could log in by the directory server now. coollm admins test tells more")
    generations = _generations(config, state)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise OperationFailed(f"{file}: cannot be read: {error.strerror}") from error
    effective = generations.effective()
    if effective is not None and effective.file.read_bytes() == content and not _differs(config, content):
        return Plan("config-apply", {}, (), nothing=f"generation {effective.number} is this configuration: nothing to do")
    parameters = {
        "config": str(config.absolute()),
        "state": str(state.absolute()),
        "content": content.decode("utf-8"),
        "number": None,
        "before": effective.number if effective else None,
        "confirm_seconds": confirm_seconds,
        "probe_model": probe_model(config, loaded.settings),
        "reason": Redactor(loaded.settings.secrets())(message) if message else f"config apply {given}",
        **kept_generations(loaded.settings),
    }
    notes = [str(warning) for warning in loaded.warnings]
    old = _settings(config, effective.file) if effective else None
    notes += differences(effective.file.read_text("utf-8") if effective else "", content.decode("utf-8"), old, loaded.settings)
    notes += restart_needs(old, loaded.settings)
    reverse = None
    if effective is not None:
        reverse = ("config-apply", parameters | {"content": "", "number": effective.number, "before": None, "confirm_seconds": None, "reason": "undo"})
    return Plan("config-apply", parameters, apply_steps(parameters), notes, reverse=reverse)


def kept_generations(settings: Settings) -> dict[str, Any]:
    """How many generations stay as another one is made, and since when they have to have been applied."""
    most, oldest = settings.backup.keep.kept_generations(time.time())
    return {"most": most, "oldest": oldest}


def rollback_plan(config: Path, state: Path, number: int | None) -> Plan:
    """Back to a generation, by default to the one before; to the one in force where its file was edited. Raises OperationFailed if there is none."""
    generations = _generations(config, state)
    effective = generations.effective()
    if effective is None:
        raise OperationFailed("no configuration was ever applied here", "coollm config apply FILE")
    wanted = number
    if wanted is None:
        wanted = next((one.number for one in generations.all() if one.number < effective.number), None)
        if wanted is None:
            raise OperationFailed(f"there is no generation before {effective.number}", "coollm config history")
    target = generations.get(wanted)
    if wanted == effective.number and not _differs(config, target.file.read_bytes()):
        return Plan("config-apply", {}, (), nothing=f"generation {wanted} is in force already")
    loaded = load(config, content=target.file)
    if loaded.settings is None:
        raise ConfigurationError(loaded.faults)
    parameters = {
        "config": str(config.absolute()),
        "state": str(state.absolute()),
        "content": "",
        "number": wanted,
        "before": effective.number,
        "confirm_seconds": None,
        "probe_model": probe_model(config, loaded.settings),
        "reason": f"config rollback {wanted}",
    }
    notes = [f"generation {effective.number} -> {wanted}"]
    old = _settings(config, effective.file)
    notes += differences(effective.file.read_text("utf-8"), target.file.read_text("utf-8"), old, loaded.settings)
    notes += restart_needs(old, loaded.settings)
    reverse = ("config-apply", parameters | {"number": effective.number, "before": wanted, "reason": "undo"})
    return Plan("config-apply", parameters, apply_steps(parameters), notes, reverse=reverse)


def apply_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `config apply`, `config rollback` and of their undo."""
    config, state = Path(parameters["config"]), Path(parameters["state"])
    generations = Generations(config, state)

    def keep(entry: Entry) -> None:
        entry.kept["number"] = parameters["number"]
        if parameters["number"] is None:
            made = generations.add(parameters["content"].encode(), entry.by, parameters["reason"], parameters["most"], parameters["oldest"])
            entry.kept["number"] = made.number

    def switch(entry: Entry) -> None:
        seconds = parameters["confirm_seconds"]
        before = parameters["before"]
        entry.kept["revert_at"] = time.time() + seconds if seconds else None
        generations.set(entry.kept["number"], before, entry.kept["revert_at"])
        wait_for_workers(config, state)

    def back(_: Entry) -> None:
        if parameters["before"] is None:
            generations.pointer_file.unlink(missing_ok=True)
            return
        generations.set(parameters["before"])
        wait_for_workers(config, state)

    def probe(entry: Entry) -> None:
        live = {name for name, _ in host.live_workers(config)}
        for name, directory in host.places(config).items():
            if name in live:
                wait_until_healthy(name, directory, parameters["probe_model"])
        number, revert_at = entry.kept["number"], entry.kept["revert_at"]
        entry.kept["told"] = {"generation": number, "revert_at": revert_at}
        before = parameters["before"]
        entry.kept["audit"] = {"before": generations.get(before).digest if before else None, "after": generations.get(number).digest}
        entry.kept["lines"] = [f"generation {number} is in force"]
        if revert_at is not None:
            entry.kept["lines"].append(f"it reverts in {parameters['confirm_seconds']:.0f} s unless you say: coollm config confirm")

    steps = [
        Step("generation", "keep it as a new generation" if parameters["number"] is None else f"generation {parameters['number']}", keep),
        Step("switch", "every worker changes over to it", switch, back),
        Step("probe", "ask every instance", probe),
    ]
    if parameters["confirm_seconds"] is None:
        steps.append(Step("file", f"{config} is this configuration", lambda entry: _write(config, generations.get(entry.kept["number"]).file)))
    return steps


def confirm_plan(config: Path, state: Path) -> Plan:
    """Keeps a generation that would revert. Raises OperationFailed if there is none, or it has reverted already."""
    generations = _generations(config, state)
    pointer = generations.pointer()
    if pointer is None or pointer.revert_at is None:
        return Plan("config-confirm", {}, (), nothing="no generation waits for you to confirm it")
    if not pointer.is_unconfirmed(time.time()):
        raise OperationFailed(f"generation {pointer.number} was not confirmed in time: {pointer.previous} is in force again", "coollm config apply FILE")
    parameters = {"config": str(config.absolute()), "state": str(state.absolute()), "number": pointer.number, "before": pointer.previous}
    return Plan("config-confirm", parameters, confirm_steps(parameters))


def confirm_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `config confirm`."""
    config = Path(parameters["config"])
    generations = Generations(config, Path(parameters["state"]))
    number = parameters["number"]

    def confirm(entry: Entry) -> None:
        generations.set(number, parameters["before"])
        entry.kept["told"] = {"generation": number}
        entry.kept["lines"] = [f"generation {number} stays in force"]

    return [
        Step("confirm", f"generation {number} stays in force", confirm),
        Step("file", f"{config} is this configuration", lambda _: _write(config, generations.get(number).file)),
    ]


def wait_for_workers(config: Path, state: Path) -> None:
    """Waits until every worker of every instance serves what is in force. Raises OperationFailed if one cannot, or does not in time."""
    ends = time.monotonic() + TAKE_IN_SECONDS
    while True:
        effective = Generations(config, state).effective()
        wanted = stamp(effective.number if effective else 0, state)
        waiting = [(name, report) for name, report in host.live_workers(config) if report.stamp != wanted]
        if not waiting:
            return
        for name, report in waiting:
            if report.refused_stamp == wanted:
                raise OperationFailed(f"instance {name} cannot serve it: {report.refused}")
        if time.monotonic() >= ends:
            name, report = waiting[0]
            raise OperationFailed(
                f"{host.count(len(waiting), 'worker')} have not changed over within {TAKE_IN_SECONDS:.0f} s, the first is {report.pid} of instance {name}",
                "coollm status",
            )
        time.sleep(LOOK_SECONDS)


def restart_needs(before: Settings | None, after: Settings) -> list[str]:
    """What takes effect with the next restart only."""
    if before is None:
        return []
    parts = {
        "server.listen": (before.server.listen, after.server.listen),
        "server.workers": (before.server.workers, after.server.workers),
        "server.tls": (before.server.tls, after.server.tls),
        "server.drain_seconds": (before.server.drain_seconds, after.server.drain_seconds),
        "storage.runtime": (before.storage.runtime, after.storage.runtime),
        "logging.prometheus": (before.logging.prometheus, after.logging.prometheus),
    }
    how = {
        "server.listen": "`coollm restart`",
        "storage.runtime": "`coollm restart`, which takes a minute more: the other store knows nothing of the last one, and is used after it",
    }
    return [f"{path} takes effect with {how.get(path, '`coollm restart --rolling`')}" for path, (old, new) in parts.items() if old != new]


def _generations(config: Path, state: Path) -> Generations:
    if is_installed(config):
        host.need_root()
    return Generations(config, state)


def _settings(config: Path, file: Path) -> Settings | None:
    return load(config, content=file).settings


def _differs(config: Path, content: bytes) -> bool:
    try:
        return config.read_bytes() != content
    except OSError:
        return True


def probe_model(config: Path, settings: Settings) -> str | None:
    """The model that instances are asked for before and after a change; None where none answers for any."""
    places = host.places(config)
    name = next((name for name, _ in host.live_workers(config)), None)
    return None if name is None else find_probe_model(host.client_of(name, places[name]), settings)


def _write(config: Path, file: Path) -> None:
    """The configuration's own file, with the owner and the mode it had."""
    found = config.stat() if config.exists() else None
    replace_file(config, file.read_bytes(), mode=(found.st_mode & 0o777) if found else 0o640, like=config if found else None)
    if is_installed(config):
        from coollm_cli.ops.install import write_drop_ins

        write_drop_ins()


def diff_lines(config: Path, state: Path, first: str | None, second: str | None) -> list[str]:
    """What differs between two configurations, each a generation's number or a file. Raises UsageError and OperationFailed."""
    generations = Generations(config, state)
    if first is None:
        effective = generations.effective()
        if effective is None:
            raise OperationFailed("no configuration was ever applied here", "name two files: coollm config diff A B")
        files = [effective.file]
    else:
        files = [_file_of(first, generations)]
    files.append(config if second is None else _file_of(second, generations))
    try:
        before, after = (file.read_text("utf-8") for file in files)
    except OSError as error:
        raise OperationFailed(f"{error.filename}: cannot be read: {error.strerror}") from error
    return list(differences(before, after, *(_settings(config, file) for file in files)))


def _file_of(name: str, generations: Generations) -> Path:
    return generations.get(int(name)).file if name.isdigit() else Path(name)


def confirm_seconds(text: str | None) -> float | None:
    """How long a configuration may be in force unconfirmed. Raises UsageError."""
    return None if text is None else duration("--confirm-within", text, SHORTEST_CONFIRM_SECONDS)
