"""From a file and the environment to frozen settings, or to every fault at once."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from coollm.core.config.check import check
from coollm.core.config.convert import FAULTY, Converter
from coollm.core.config.document import Node, Reader
from coollm.core.config.faults import Fault, Place
from coollm.core.config.generations import Generations
from coollm.core.config.inputs import stamp
from coollm.core.config.references import ReadSecret, read_environment_file, resolve_references
from coollm.core.config.schema import Settings
from coollm.core.config.vendors import providers_from_environment
from coollm.core.errors import ConfigurationError
from coollm.core.paths import HASH_KEY, SECRETS, environment_file, state_directory
from coollm.core.secrets import Secret
from coollm.core.vendor_keys import VendorKeys, read_vendor_keys

LARGEST_FILE_BYTES = 4 * 1024 * 1024

SIMULATOR_URL = "simulator://"
_PROVIDER = re.compile(r"llm_providers\[(\d+)\]\.")


class Loaded(msgspec.Struct, frozen=True):
    """What a configuration file came to.

    `settings` is None if there are faults. `origins` has the node of every value that the file gives, by path; `variables` are those that references could use;
    `environment_vendors` the variable that gave each provider which the file does not name. `plain_secrets` are the secrets that stand in the file in clear.
    """

    path: Path
    settings: Settings | None
    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...]
    origins: dict[str, Node]
    environment_vendors: dict[str, str]
    plain_secrets: tuple[tuple[str, Node], ...] = ()


class InForce(msgspec.Struct, frozen=True):
    """What a gateway serves: the settings of a generation with the vendor keys of now. `shares` are the parts of the keys that do not take their full share,
    `hash_key` is what keys of clients in the database are hashed under, None where no secret says so; `key_since` is when vendor keys were set, where that is
    known.
    """

    settings: Settings
    generation: int = 0
    stamp: str = ""
    shares: dict[str, float] = {}
    hash_key: bytes | None = None
    key_since: dict[str, float] = {}


def load(path: Path, environ: Mapping[str, str] | None = None, content: Path | None = None, state: Path | None = None) -> Loaded:
    """Reads `path` and collects every fault; nothing is raised for a bad file. With `content` that file is read in the place of `path`.

    Variables of the process win over those of the environment file beside the configuration. Secrets are those of the directory `state`, by default the one
    that belongs to the configuration.
    """
    state = state or state_directory(path)
    from_file, faults = read_environment_file(environment_file(path))
    variables = {**from_file, **(os.environ if environ is None else environ)}
    text, unreadable = _read(content or path)
    if unreadable:
        return Loaded(path, None, (*faults, unreadable), (), {}, {})
    reader = Reader(str(path))
    root = reader.read(text)
    faults += reader.faults
    faults += _with_way_out(resolve_references(root, variables, path.parent, _reader(path, state)), environment_file(path))
    converter = Converter()
    settings = FAULTY if reader.faults and not root.value else converter.convert(root, Settings, "")
    faults += converter.faults
    faults += check(root)
    vendors: dict[str, str] = {}
    if not faults and not settings.llm_providers:
        found, vendors = providers_from_environment(variables)
        settings = msgspec.structs.replace(settings, llm_providers=found)
    faults = _each_once(faults)
    if faults:
        return Loaded(path, None, tuple(faults), (), converter.origins, vendors)
    plain = tuple((where, node) for where, node in converter.secrets if not node.variables)
    return Loaded(path, settings, (), _warnings(settings, converter.origins), converter.origins, vendors, plain)


def load_in_force(path: Path, state: Path) -> InForce:
    """What the generation of `path` that is in force comes to; the file itself, as number 0, where none was ever applied.

    Raises ConfigurationError, and OperationFailed where the generation, or what is kept beside it, cannot be read.
    """
    generation = Generations(path, state).effective()
    return load_generation(path, state, generation.number if generation else 0, generation.file if generation else None)


def load_generation(path: Path, state: Path, number: int, content: Path | None) -> InForce:
    """The same for a generation by its number and file. What is read is what the stamp names, or newer."""
    named = stamp(number, state)
    loaded = load(path, content=content, state=state)
    if loaded.settings is None:
        raise ConfigurationError(loaded.faults)
    kept, read_secret = read_vendor_keys(state), _reader(path, state)
    hash_key = bytes.fromhex(read_secret(HASH_KEY)) if has_secret(state, HASH_KEY) else None
    since = {**_set_when(loaded, loaded.settings, path, state), **{one.name: one.added for one in kept.keys}}
    return InForce(_with_vendor_keys(loaded.settings, kept, read_secret), number, named, kept.shares(), hash_key, since)


def _set_when(loaded: Loaded, settings: Settings, path: Path, state: Path) -> dict[str, float]:
    """When the vendor keys that are secrets of the store were set, by `provider/key id`."""
    names = {}
    for index, provider in enumerate(settings.llm_providers):
        for number, key in enumerate(provider.api_keys):
            node = loaded.origins.get(f"llm_providers[{index}].api_keys[{number}]")
            for variable in node.variables if node else ():
                if variable.startswith("secret:"):
                    names[f"{provider.id}/{key.fingerprint()}"] = variable.removeprefix("secret:")
    if not names:
        return {}
    from coollm.core.secret_store import secret_store

    kept = secret_store(path, state).names()
    return {key: kept[name].set for key, name in names.items() if name in kept}


def _with_vendor_keys(settings: Settings, kept: VendorKeys, read_secret: ReadSecret) -> Settings:
    """The settings with the keys that were added, and without those that were retired. Raises OperationFailed where a key cannot be read."""
    if not kept.keys and not kept.retired:
        return settings
    providers = []
    for provider in settings.llm_providers:
        added = [Secret(read_secret(one.secret)) for one in kept.keys if one.provider == provider.id]
        known = {key.fingerprint(): key for key in (*provider.api_keys, *added)}
        used = tuple(key for name, key in known.items() if not kept.is_retired(provider.id, name))
        providers.append(msgspec.structs.replace(provider, api_keys=used))
    return msgspec.structs.replace(settings, llm_providers=tuple(providers))


def has_secret(state: Path, name: str) -> bool:
    """Whether a secret of this name is kept; without a look at what decrypts."""
    try:
        return f'"{name}"'.encode() in (state / SECRETS).read_bytes()
    except OSError:
        return False


def _reader(path: Path, state: Path) -> ReadSecret:
    """Reads secrets. What can decrypt is loaded when the first is asked for: most configurations have none."""
    opened: list[ReadSecret] = []

    def read(name: str) -> str:
        if not opened:
            from coollm.core.secret_store import secret_store

            opened.append(secret_store(path, state).reader())
        return opened[0](name)

    return read


def _read(path: Path) -> tuple[str, Fault | None]:
    start = Place(str(path), 1, 1)
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        return "", Fault(None, str(path), "no such file", "write one with `coollm init`, or name another with --config FILE")
    except OSError as error:
        return "", Fault(None, str(path), f"cannot be read: {error.strerror}")
    if len(data) > LARGEST_FILE_BYTES:
        return "", Fault(None, str(path), f"is larger than {LARGEST_FILE_BYTES // 1024 // 1024} MiB")
    try:
        return data.decode("utf-8-sig"), None
    except UnicodeDecodeError as error:
        before = data[: error.start]
        place = Place(str(path), before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1)
        return "", Fault(place if data else start, "", "not UTF-8 text", "save the file as UTF-8")


def _with_way_out(faults: list[Fault], environment: Path) -> list[Fault]:
    """Undefined variables, where their file is there and not for this user to read."""
    if not faults or not environment.exists() or os.access(environment, os.R_OK):
        return faults
    hint = f"{environment} cannot be read by this user: use sudo, or export the variable"
    return [msgspec.structs.replace(fault, hint=hint) for fault in faults]


def _each_once(faults: list[Fault]) -> list[Fault]:
    """The faults in the order of the file, one for each place and path."""
    unique = {(fault.place, fault.path): fault for fault in reversed(faults)}
    return sorted(unique.values(), key=lambda fault: (fault.place is not None, fault.place or Place("", 0, 0), fault.path))


def _warnings(settings: Settings, origins: dict[str, Node]) -> tuple[Fault, ...]:
    """What is allowed and yet worth saying: a gateway or a console that nobody can use."""
    found: list[Fault] = []
    server = settings.server
    if server.webui.enabled and not (server.webui.local_only or server.tls or server.trusted_proxies or _is_loopback(server.listen.host)):
        words = "nobody signs in over a network in clear: set server.tls, or server.trusted_proxies for a proxy with TLS, or server.webui.local_only"
        found.append(Fault(origins["server.webui.enabled"].place, "server.webui.enabled", words))
    if not settings.llm_providers:
        found.append(Fault(None, "llm_providers", "no vendor is configured and none has its key in the environment: no request can be served"))
    if not settings.api_keys:
        found.append(Fault(None, "api_keys", "no client is configured: only the administrator of this host can send requests"))
    known = {name for provider in settings.llm_providers for name in (provider.id, provider.type)} | {"*"}
    for index, client in enumerate(settings.api_keys):
        for number, name in enumerate(client.allowed_providers):
            if name not in known:
                path = f"api_keys[{index}].allowed_providers[{number}]"
                found.append(Fault(origins[path].place, path, f"no provider '{name}' has its key in the environment"))
    return tuple(found)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def secrets_in_clear(loaded: Loaded) -> tuple[Fault, ...]:
    """The secrets that stand in the file in clear, each with its place. Keys of simulated vendors are none, nor is an address without a password."""
    found = []
    for path, node in loaded.plain_secrets:
        if loaded.settings is None or (path == "storage.ledger.url" and not urlsplit(str(node.value)).password):
            continue
        provider = _PROVIDER.match(path)
        if provider and loaded.settings.llm_providers[int(provider[1])].base_url == SIMULATOR_URL:
            continue
        found.append(Fault(node.place, path, "a secret stands here in clear", "coollm secrets import moves it to the secret store"))
    return tuple(found)
