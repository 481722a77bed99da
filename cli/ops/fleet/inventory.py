"""Which hosts there are: `--inventory FILE`, else `fleet.yaml` here or in /etc/coollm, else the section `fleet` of the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from coollm.core.config.fleet import Fleet, FleetHost
from coollm.core.config.load import load
from coollm.core.errors import ConfigurationError, OperationFailed, UsageError
from coollm.core.paths import SYSTEM_CONFIG, find_config
from coollm.core.registry import did_you_mean

FILE_NAME = "fleet.yaml"
FOLDER = "fleet.d"
DEFAULT_PORT = 2906


@dataclass(frozen=True)
class Inventory:
    """The fleet, and the file that says so."""

    file: Path
    fleet: Fleet

    def hosts(self, names: Sequence[str] = (), groups: Sequence[str] = ()) -> list[FleetHost]:
        """Those that are chosen, in their order; all of them if none is. Raises UsageError."""
        known = [one.name for one in self.fleet.hosts]
        for name in names:
            if name not in known:
                raise UsageError(f"there is no host '{name}' in {self.file}{did_you_mean(name, known)}", f"hosts: {', '.join(known)}")
        all_groups = {group for one in self.fleet.hosts for group in one.groups}
        for group in groups:
            if group not in all_groups:
                raise UsageError(
                    f"there is no group '{group}' in {self.file}{did_you_mean(group, all_groups)}", f"groups: {', '.join(sorted(all_groups)) or 'none'}"
                )
        if not names and not groups:
            return list(self.fleet.hosts)
        return [one for one in self.fleet.hosts if one.name in names or set(one.groups) & set(groups)]


def destination(host: FleetHost) -> str:
    """What ssh is given."""
    return host.address or host.name


def http_address(host: FleetHost) -> str:
    """HOST:PORT of its gateway."""
    return host.http or f"{destination(host).rpartition('@')[2]}:{DEFAULT_PORT}"


def find_inventory(given: Path | None, config: Path | None) -> Inventory:
    """Raises ConfigurationError, and OperationFailed where no host is named."""
    for file in [given] if given is not None else [Path(FILE_NAME), SYSTEM_CONFIG.parent / FILE_NAME]:
        if given is not None or file.exists():
            return _read(file)
    return _read(find_config(config))


def _read(file: Path) -> Inventory:
    loaded = load(file)
    if loaded.settings is None:
        raise ConfigurationError(loaded.faults)
    if not loaded.settings.fleet.hosts:
        raise OperationFailed(f"{file} names no hosts", "fleet: {hosts: [{name: gw1, address: gw1.company.com}]}")
    fleet = loaded.settings.fleet
    return Inventory(file, msgspec.structs.replace(fleet, hosts=(*fleet.hosts, *made_hosts(file))))


def made_hosts(file: Path) -> list[FleetHost]:
    """Hosts that `coollm fleet scale` has made: `fleet.d/NAME.json` beside the inventory, in the order in which they came. Raises OperationFailed."""
    found = []
    for one in sorted((file.parent / FOLDER).glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name)):
        try:
            found.append(msgspec.json.decode(one.read_bytes(), type=FleetHost))
        except (OSError, msgspec.MsgspecError) as error:
            raise OperationFailed(f"{one}: it names no host: {error}", 'a file has {"name": "gw4", "address": "10.0.0.14"}') from error
    return found
