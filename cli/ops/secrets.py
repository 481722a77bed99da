"""The encrypted secrets of a host: setting and removing them, moving them out of a configuration, and changing the master key they are under."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from coollm_cli.ops import host, systemd
from coollm_cli.ops.apply import apply_steps, kept_generations, probe_model, wait_for_workers
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.lock import actor
from coollm_cli.ops.operation import Host, Plan, Step
from coollm_cli.ops.rollout import common_parameters, restart_steps
from coollm_cli.ops.times import moment

from coollm.core.config.document import Node, Reader, walk
from coollm.core.config.generations import Generations
from coollm.core.config.load import LARGEST_FILE_BYTES, Loaded, load, secrets_in_clear
from coollm.core.config.placeholders import replaced
from coollm.core.errors import ConfigurationError, OperationFailed, UsageError
from coollm.core.master_key import CREDENTIAL, key_id
from coollm.core.paths import HASH_KEY, RESTORES, is_installed
from coollm.core.secret_store import NAME, as_json, from_json, secret_store
from coollm.core.vendor_keys import read_vendor_keys

_REFERENCE = re.compile(r"\$\{secret:([^}]*)\}")
_ELEMENT = re.compile(r"(llm_providers|api_keys)\[(\d+)\](?:\.api_keys\[(\d+)\])?")

CREDENTIALS = Path("/run/credentials")

VENDOR_KEY = "vendor-key."
"""How the names of vendor keys that were added begin."""

OWN = (HASH_KEY, VENDOR_KEY)
"""Names that the gateway itself uses."""


def list_secrets(config: Path, state: Path) -> list[dict[str, Any]]:
    """Every secret by its name, without its value: when it was set and by whom, and where the configuration uses it."""
    uses = _uses(config, state)
    rows = []
    for name, sealed in sorted(secret_store(config, state).names().items()):
        when = moment(sealed.set)
        rows.append({"name": name, "set": when, "by": sealed.by, "used_by": uses.get(name, []), "master_keys": sorted(sealed.keys)})
    return rows


def set_plan(config: Path, state: Path, name: str, value: str, *, dry_run: bool) -> Plan:
    """Sets a secret, or changes it. Raises OperationFailed."""
    need_owner(config)
    if not NAME.fullmatch(name) or name.startswith(OWN):
        raise UsageError(f"'{name[:80]}' is no name for a secret", "letters, digits, '.', '_' and '-', at most 64, the first a letter or digit")
    store = secret_store(config, state)
    before = store.names().get(name)
    notes = []
    if not store.master.exists():
        notes.append(f"a master key is made: {store.master.file}; without it nobody can read the secrets, so keep a copy of it somewhere else")
        if not dry_run:
            store.master.make()
    if before is not None and not dry_run and store.get(name) == value:
        return Plan("secret-set", {}, (), nothing=f"the secret '{name}' is that already")
    sealed = None if dry_run else as_json(store.seal(name, value, actor()))
    parameters = {"config": str(config), "state": str(state), "name": name, "sealed": sealed, "before": as_json(before) if before else None}
    if not _uses(config, state).get(name):
        notes.append(f"the configuration does not use it yet: write ${{secret:{name}}} where it belongs")
    reverse = ("secret-set", {**parameters, "sealed": parameters["before"], "before": sealed})
    return Plan("secret-set", parameters, set_steps(parameters), notes, reverse=reverse)


def shared(config: Path, state: Path) -> dict[str, str]:
    """What the hosts of a fleet have to have in common, in clear: what clients' keys are hashed under, and what the configuration refers to."""
    need_owner(config)
    store = secret_store(config, state)
    return {name: store.get(name) for name in sorted(store.names()) if not name.startswith(VENDOR_KEY)}


def accept_plan(config: Path, state: Path, given: dict[str, str], *, dry_run: bool) -> Plan:
    """Sets those that differ from what another host has. Raises OperationFailed and UsageError."""
    need_owner(config)
    store = secret_store(config, state)
    kept = store.names()
    if not dry_run:
        store.master.make()
    rows = []
    for name, value in sorted(given.items()):
        if not NAME.fullmatch(name) or name.startswith(VENDOR_KEY):
            raise UsageError(f"'{name[:80]}' is no name for a secret")
        before = kept.get(name)
        if before is None or store.get(name) != value:
            sealed = None if dry_run else as_json(store.seal(name, value, actor()))
            rows.append({"name": name, "sealed": sealed, "before": as_json(before) if before else None})
    if not rows:
        return Plan("secrets-accept", {}, (), nothing="every secret is that already")
    parameters = {"config": str(config), "state": str(state), "rows": rows}
    back = [{**row, "sealed": row["before"], "before": row["sealed"]} for row in rows]
    told = {"names": [row["name"] for row in rows]}
    return Plan("secrets-accept", parameters, accept_steps(parameters), reverse=("secrets-accept", {**parameters, "rows": back}), told=told)


def accept_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `secrets accept`, and of its undo."""
    config, state = Path(parameters["config"]), Path(parameters["state"])

    def put(which: str) -> None:
        store = secret_store(config, state)
        for row in parameters["rows"]:
            store.put(row["name"], from_json(row[which]))

    def take_in(entry: Entry) -> None:
        wait_for_workers(config, state)
        names = [row["name"] for row in parameters["rows"]]
        entry.kept["told"] = {"names": names}
        entry.kept["lines"] = [f"set: {', '.join(names)}"]

    return [
        Step("keep", f"keep {', '.join(row['name'] for row in parameters['rows'])}, encrypted", lambda _: put("sealed"), lambda _: put("before")),
        Step("workers", "every worker takes them in", take_in, lambda _: None),
    ]


def delete_plan(config: Path, state: Path, name: str) -> Plan:
    """Removes a secret that nothing uses. Raises OperationFailed."""
    need_owner(config)
    store = secret_store(config, state)
    before = store.names().get(name)
    if before is None:
        raise OperationFailed(f"there is no secret '{name}'", "coollm secrets list")
    uses = _uses(config, state).get(name, [])
    if uses:
        raise OperationFailed(f"the secret '{name}' is used by {', '.join(uses)}", "take it out of the configuration first: coollm config apply FILE")
    parameters = {"config": str(config), "state": str(state), "name": name, "sealed": None, "before": as_json(before)}
    reverse = ("secret-set", {**parameters, "sealed": parameters["before"], "before": None})
    return Plan("secret-set", parameters, set_steps(parameters), reverse=reverse, asks=True)


def set_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `secrets set`, `secrets delete` and of their undo."""
    config, state, name = Path(parameters["config"]), Path(parameters["state"]), parameters["name"]

    def put(told: dict[str, Any] | None) -> None:
        store = secret_store(config, state)
        sealed = from_json(told)
        if sealed is not None:
            store.open(name, sealed)  # one of a master key that is gone
        store.put(name, sealed)

    def take_in(entry: Entry) -> None:
        wait_for_workers(config, state)
        is_there = parameters["sealed"] is not None
        entry.kept["told"] = {"name": name, "set": is_there}
        entry.kept["lines"] = [f"the secret '{name}' is {'set' if is_there else 'removed'}"]

    return [
        Step(
            "keep",
            f"keep '{name}', encrypted" if parameters["sealed"] else f"'{name}'",
            lambda _: put(parameters["sealed"]),
            lambda _: put(parameters["before"]),
        ),
        Step("workers", "every worker takes it in", take_in, lambda _: None),
    ]


def rotate_plan(config: Path, state: Path, passphrase: str | None) -> Plan:
    """Puts all secrets under a new master key. Raises OperationFailed."""
    need_owner(config)
    store = secret_store(config, state)
    store.master.current()
    if passphrase is not None and is_installed(config):
        raise UsageError(
            "a passphrase needs somebody who types it when the host starts", "coollm.service cannot be asked: use a key file or a systemd credential"
        )
    parameters: dict[str, Any] = {"config": str(config), "state": str(state)}
    if is_installed(config) and _is_credential():
        live = [name for name in host.numbers() if systemd.is_active(systemd.service(name))]
        parameters |= common_parameters(host.numbers(), live, 0) | {"rolling": True}
    count = host.count(len(store.names()), "secret")
    notes = [f"{count} under the master key {store.master.file}; copies of the old one open what was backed up before, and nothing that is set from now on"]
    if passphrase is not None:
        store.master.prepare_next(passphrase)
    return Plan("master-key", parameters, rotate_steps(parameters), notes)


def rotate_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `secrets rotate-master`. Until the last one both keys open every secret."""
    config, state = Path(parameters["config"]), Path(parameters["state"])
    store = secret_store(config, state)
    master = store.master

    def make(entry: Entry) -> None:
        entry.kept["new"] = key_id(master.prepare_next())

    def new_key(entry: Entry) -> bytes:
        found = master.by_id().get(entry.kept["new"])
        if found is None:
            raise OperationFailed(f"the new master key {entry.kept['new']} is gone", f"look for {master.file}.next")
        return found

    def wrap(entry: Entry) -> None:
        entry.kept["secrets"] = store.wrap_all(new_key(entry))

    def unwrap(_: Entry) -> None:
        store.forget_all_but(master.current())

    def forget(entry: Entry) -> None:
        store.forget_all_but(new_key(entry))
        master.forget_previous()
        entry.kept["told"] = {"secrets": entry.kept["secrets"], "master_key": entry.kept["new"]}
        entry.kept["lines"] = [f"{host.count(entry.kept['secrets'], 'secret')} under the new master key {master.file}: keep a copy of it somewhere else"]

    steps = [
        Step("make", "make the new master key", make, lambda _: master.forget_next()),
        Step("wrap", "encrypt every data key under it, too", wrap, unwrap),
        Step("check", "open every secret with it", lambda entry: store.check_all(new_key(entry))),
        Step("switch", f"{master.file} is the new one", lambda _: master.switch(), lambda _: master.switch_back()),
    ]
    if "surge" in parameters:
        steps += restart_steps(parameters)  # systemd gave the instances the old one
    return [*steps, Step("forget", "remove and shred the old one", forget)]


def import_plan(config: Path, state: Path, *, dry_run: bool) -> Plan:
    """Moves the secrets that stand in the configuration in clear to the secret store. Raises ConfigurationError and OperationFailed."""
    need_owner(config)
    loaded = load(config, state=state)
    if loaded.settings is None:
        raise ConfigurationError(loaded.faults)
    in_clear = {fault.path for fault in secrets_in_clear(loaded)}
    found = [(path, node) for path, node in loaded.plain_secrets if path in in_clear]
    if not found:
        return Plan("secrets-import", {}, (), nothing=f"no secret stands in {config} in clear: nothing to do")
    effective = Generations(config, state).effective()
    if effective is not None and effective.file.read_bytes() != config.read_bytes():
        message = f"{config} differs from generation {effective.number}, which is in force: this would put both changes in force at once"
        raise OperationFailed(message, f"coollm config diff, then coollm config apply {config}, then this again")
    store = secret_store(config, state)
    if not dry_run:
        store.master.make()
    names = _names(loaded, found, store.names())
    text = config.read_text("utf-8-sig")
    content = replaced(text, [(node.span, f'"${{secret:{names[path]}}}"') for path, node in found])
    sealed = {} if dry_run else {names[path]: as_json(store.seal(names[path], str(node.value), actor())) for path, node in found}
    parameters = {
        "config": str(config),
        "state": str(state),
        "sealed": sealed,
        "content": content,
        "number": None,
        "before": effective.number if effective else None,
        "confirm_seconds": None,
        "probe_model": probe_model(config, loaded.settings),
        "reason": "secrets import",
        **kept_generations(loaded.settings),
    }
    notes = [f"{path} -> ${{secret:{names[path]}}}" for path, _ in found]
    notes.append("earlier generations and journal entries that hold these secrets in clear are removed: this cannot be taken back afterwards")
    notes.append("copies elsewhere (backups, version control) still hold them: rotate these keys where that matters")
    return Plan("secrets-import", parameters, import_steps(parameters), notes, asks=True)


def import_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `secrets import`."""
    config, state = Path(parameters["config"]), Path(parameters["state"])

    def keep(_: Entry) -> None:
        store = secret_store(config, state)
        for name, told in parameters["sealed"].items():
            store.put(name, from_json(told))

    def take_out(_: Entry) -> None:
        store = secret_store(config, state)
        for name in parameters["sealed"]:
            store.put(name, None)

    def forget(entry: Entry) -> None:
        store = secret_store(config, state)
        clear = [store.get(name) for name in parameters["sealed"]]
        removed = _forget_in_clear(config, state, clear)
        entry.kept["told"] = {"secrets": sorted(parameters["sealed"]), "generations_removed": removed, "generation": entry.kept["number"]}
        entry.kept["lines"] = [f"{host.count(len(parameters['sealed']), 'secret')} moved to the secret store; {config} refers to them"]

    return [
        Step("keep", f"keep {host.count(len(parameters['sealed']), 'secret')}, encrypted", keep, take_out),
        *apply_steps(parameters),
        Step("forget", "remove what holds them in clear", forget),
    ]


def forget_secrets_of(value: str, ours: Host) -> None:
    """Removes what the command itself keeps with a secret in clear: journal entries, and copies made before an upgrade or a restore."""
    for file in ours.directory.rglob("*"):
        is_small = file.suffix in (".json", ".yaml") or (RESTORES in file.parts and file.is_file() and file.stat().st_size <= LARGEST_FILE_BYTES)
        if file.is_file() and is_small and value in file.read_text("utf-8", "replace"):
            file.unlink(missing_ok=True)


def need_owner(config: Path) -> None:
    """Raises OperationFailed for a user who may not change the secrets of this host."""
    if is_installed(config):
        host.need_root()


def _forget_in_clear(config: Path, state: Path, clear: Sequence[str]) -> list[int]:
    generations = Generations(config, state)
    pointer = generations.pointer()
    removed = []
    for one in generations.all():
        if any(value in one.file.read_text("utf-8", "replace") for value in clear):
            shutil.rmtree(one.file.parent)
            removed.append(one.number)
    if pointer is not None and pointer.previous in removed:
        generations.set(pointer.number)
    ours = host.host_of(config, state)
    for value in clear:
        forget_secrets_of(value, ours)
    return sorted(removed)


def _names(loaded: Loaded, found: Iterable[tuple[str, Node]], taken: Iterable[str]) -> dict[str, str]:
    """A name for each secret, from where it stands; the same for the same value."""
    by_value: dict[str, str] = {}
    used, names = set(taken), {}
    for path, node in found:
        value = str(node.value)
        if value not in by_value:
            stem = _stem(loaded, path)
            name, number = stem, 2
            while name in used:
                name, number = f"{stem}-{number}", number + 1
            used.add(name)
            by_value[value] = name
        names[path] = by_value[value]
    return names


def _stem(loaded: Loaded, path: str) -> str:
    element, settings = _ELEMENT.match(path), loaded.settings
    assert settings is not None  # noqa: S101  a plan is made of a valid configuration alone
    if element is None:
        return path.replace(".", "-").replace("_", "-")
    section, index, key = element[1], int(element[2]), element[3]
    if section == "llm_providers":
        return f"{settings.llm_providers[index].id}-{int(key or 0) + 1}"
    return f"client-{settings.api_keys[index].id or index + 1}"


def _uses(config: Path, state: Path) -> dict[str, list[str]]:
    """Where secrets are used, by their names: paths of the configuration in force and of its file, and vendor keys that were added."""
    uses: dict[str, list[str]] = {}
    effective = Generations(config, state).effective()
    for file in {config, effective.file if effective else config}:
        try:
            root = Reader(str(file)).read(file.read_text("utf-8-sig"))
        except (OSError, UnicodeDecodeError):
            continue
        for path, node in walk(root):
            for name in _REFERENCE.findall(node.text() or ""):
                if path not in uses.setdefault(name, []):
                    uses[name].append(path)
    uses.setdefault(HASH_KEY, []).append("the keys of clients and administrators")
    for key in read_vendor_keys(state).keys:
        uses.setdefault(key.secret, []).append(f"vendor key {key.name}")
    return uses


def _is_credential() -> bool:
    """Whether systemd has given the master key to an instance that runs (systemd.exec(5): where credentials are kept)."""
    return any((CREDENTIALS / systemd.service(name) / CREDENTIAL).exists() for name in host.numbers())
