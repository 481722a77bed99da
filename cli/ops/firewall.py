"""The host's firewall: ssh and the gateway open, everything else closed to the outside; taken back by itself unless it is confirmed.

With nftables it is a table of its own, which touches no other; it comes back after a restart of the host when it was confirmed. With ufw it is ufw's own rules.
Before it stays, a connection to ssh is made from outside, through a network namespace of its own. Sources: nft(8), ufw(8), systemd-run(1), ip-netns(8).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coollm_cli.ops import host, systemd
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step
from coollm_cli.ops.times import duration
from coollm_cli.ops.tools import find, need, run
from coollm_cli.ops.who import where_from

from coollm.core.config.generations import Generations
from coollm.core.config.load import load
from coollm.core.config.schema import Settings
from coollm.core.config.values import Duration
from coollm.core.errors import ConfigurationError, OperationFailed, UsageError
from coollm.core.files import replace_file

BACKENDS = ("nftables", "ufw")
TABLE = "inet coollm"
RULES = Path("/etc/coollm/firewall.nft")
UNIT = Path("/etc/systemd/system/coollm-firewall.service")
REVERT = "coollm-firewall-revert"
LEAST_CONFIRM_SECONDS = 30.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")
PROOF_SECONDS = 5

_UNIT_TEXT = """\
# The firewall that `coollm firewall confirm` has kept.
[Unit]
Description=COO-LLM host firewall
Before=network-pre.target
Wants=network-pre.target
ConditionPathExists=/etc/coollm/firewall.nft

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f /etc/coollm/firewall.nft
ExecStop=/usr/sbin/nft delete table inet coollm

[Install]
WantedBy=multi-user.target
"""


def plan(config: Path, state: Path, backend: str | None, ssh_ports: Sequence[int], sources: Sequence[str], confirm_within: str) -> Plan:
    """What is to be open. Raises UsageError, OperationFailed, and ConfigurationError."""
    host.need_root()
    settings = _settings(config, state)
    chosen = backend or ("ufw" if find("ufw") and not find("nft") else "nftables")
    if chosen not in BACKENDS:
        raise UsageError(f"--backend {backend}: expected nftables or ufw")
    if find("nft" if chosen == "nftables" else "ufw") is None:
        raise OperationFailed(f"{chosen} is not installed", f"apt-get install {chosen}")
    for source in sources:
        try:
            ipaddress.ip_network(source, strict=False)
        except ValueError as error:
            raise UsageError(f"--ssh-from {source}: expected an address or a network such as 10.1.0.0/16") from error
    seconds = duration("--confirm-within", confirm_within, LEAST_CONFIRM_SECONDS)
    ports = list(ssh_ports) or ssh_ports_of()
    listen = settings.server.listen
    gateway = None if listen.host in LOOPBACK else listen.port
    came_from = where_from().get("address")
    if came_from and sources and not any(ipaddress.ip_address(came_from) in ipaddress.ip_network(one, strict=False) for one in sources):
        raise OperationFailed(f"you came from {came_from}, which none of the networks for ssh holds: you would lock yourself out", f"--ssh-from {came_from}")
    parameters = {"backend": chosen, "ssh": ports, "sources": list(sources), "gateway": gateway, "seconds": seconds, "rules": _rules(ports, sources, gateway)}
    notes = [f"ssh on {', '.join(map(str, ports))}, from {', '.join(sources) or 'everywhere'}"]
    notes.append(
        f"the gateway on {gateway}" if gateway else f"the gateway listens on {settings.server.listen}: nobody outside reaches it, so nothing is opened"
    )
    if settings.logging.prometheus.enabled and gateway and not settings.logging.prometheus.allowed_addresses:
        notes.append("/metrics is on the gateway's own port: logging.prometheus.allowed_addresses keeps it for the monitoring network")
    if settings.server.tls is None and gateway:
        notes.append("the gateway speaks plain HTTP: server.tls, or a proxy before it, is missing")
    if chosen == "nftables" and _table() == parameters["rules"] and not is_pending():
        return Plan("firewall", {}, (), nothing="the firewall is like that already")
    return Plan("firewall", parameters, steps(parameters), notes, asks=True)


def _settings(config: Path, state: Path) -> Settings:
    effective = Generations(config, state).effective()
    loaded = load(config, content=effective.file if effective else None, state=state)
    if loaded.settings is None:
        raise ConfigurationError(loaded.faults)
    return loaded.settings


def ssh_ports_of() -> list[int]:
    """Where sshd listens, by its own word; 22 if it does not say."""
    with contextlib.suppress(OperationFailed):
        found = sorted({int(port) for port in re.findall(r"^port (\d+)$", run("sshd", "-T"), re.MULTILINE)})
        if found:
            return found
    return [22]


def steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `firewall apply`."""
    seconds = parameters["seconds"]

    def arm(_: Entry) -> None:
        disarm()
        program, *arguments = _take_back_command(parameters["backend"])
        run("systemd-run", f"--on-active={seconds:.0f}", f"--unit={REVERT}", "--collect", need(program), *arguments)

    def apply(_: Entry) -> None:
        if parameters["backend"] == "ufw":
            for port in parameters["ssh"]:
                for source in parameters["sources"] or ["any"]:
                    run("ufw", "allow", "proto", "tcp", "from", source, "to", "any", "port", str(port), "comment", "coollm: ssh")
            if parameters["gateway"]:
                run("ufw", "allow", "proto", "tcp", "from", "any", "to", "any", "port", str(parameters["gateway"]), "comment", "coollm: gateway")
            run("ufw", "default", "deny", "incoming")
            run("ufw", "--force", "enable")
            return
        run("nft", "-f", "-", words=f"table {TABLE}\ndelete table {TABLE}\n{parameters['rules']}")

    def back(_: Entry) -> None:
        take_back(parameters["backend"])
        disarm()

    def told(entry: Entry) -> None:
        entry.kept["told"] = {"backend": parameters["backend"], "ssh": parameters["ssh"], "gateway": parameters["gateway"], "reverts_in_seconds": seconds}
        entry.kept["lines"] = [
            f"{parameters['backend']}: everything is closed but ssh and the gateway; a new connection to ssh was made from outside",
            f"it is taken back in {Duration(seconds)} unless you log in once more and say: coollm firewall confirm",
        ]

    return [
        Step("arm", f"have it taken back by itself in {Duration(seconds)}", arm, lambda _: disarm()),
        Step("apply", f"put it in force with {parameters['backend']}", apply, back),
        Step("prove", "connect to ssh from outside", lambda _: prove(parameters["ssh"][0], parameters["sources"])),
        Step("told", "say how it stays", told),
    ]


def confirm_plan() -> Plan:
    """Keeps a firewall that would be taken back. Raises OperationFailed."""
    host.need_root()
    if not is_pending():
        return Plan("firewall-confirm", {}, (), nothing="no firewall waits for you to confirm it")
    parameters = {"rules": _table(), "backend": "nftables" if _table() else "ufw"}
    return Plan("firewall-confirm", parameters, confirm_steps(parameters))


def confirm_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `firewall confirm`."""

    def keep(entry: Entry) -> None:
        if parameters["backend"] == "nftables":
            replace_file(RULES, f"table {TABLE}\ndelete table {TABLE}\n{parameters['rules']}".encode(), mode=0o644)
            replace_file(UNIT, _UNIT_TEXT.encode(), mode=0o644)
            systemd.systemctl("daemon-reload")
            systemd.systemctl("enable", UNIT.name)
        entry.kept["lines"] = ["the firewall stays, also after a restart of the host; coollm firewall off takes it away"]

    return [
        Step("disarm", "it is not taken back any more", lambda _: disarm()),
        Step("keep", "keep it for the next start of the host", keep),
    ]


def off_plan() -> Plan:
    """Takes the firewall away."""
    host.need_root()
    is_ufw = find("ufw") is not None and "Status: active" in run("ufw", "status")
    if not _table() and not UNIT.exists() and not is_ufw:
        return Plan("firewall-off", {}, (), nothing="there is no firewall of coollm here")
    parameters = {"ufw": is_ufw and not _table()}
    return Plan("firewall-off", parameters, off_steps(parameters), notes=["every port of this host is open then, unless something else closes it"], asks=True)


def forget() -> None:
    """Nothing of it is left, in force or for the next start."""
    disarm()
    if _table():
        take_back("nftables")
    if UNIT.exists():
        systemd.attempt("disable", UNIT.name)
        UNIT.unlink()
        systemd.systemctl("daemon-reload")
    RULES.unlink(missing_ok=True)


def off_steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `firewall off`."""

    def remove(entry: Entry) -> None:
        forget()
        if parameters["ufw"]:
            take_back("ufw")
        entry.kept["lines"] = ["the firewall is gone, and does not come back with the host's next start"]

    return [Step("remove", "take it away, now and for the next start of the host", remove)]


def is_pending() -> bool:
    """Whether a firewall is in force that will be taken back."""
    return systemd.is_active(f"{REVERT}.timer")


def disarm() -> None:
    """It is not taken back by itself any more."""
    systemd.attempt("stop", f"{REVERT}.timer")


def take_back(backend: str) -> None:
    """Takes the firewall away."""
    with contextlib.suppress(OperationFailed):
        run(*_take_back_command(backend))


def _take_back_command(backend: str) -> list[str]:
    if backend == "ufw":
        return ["ufw", "--force", "disable"]
    return ["nft", "delete", "table", *TABLE.split()]


def _rules(ports: Sequence[int], sources: Sequence[str], gateway: int | None) -> str:
    """The table, as nft reads and lists it."""
    ssh = f"tcp dport {_set(ports)}"
    lines = ["type filter hook input priority filter; policy drop;", "ct state established,related accept", 'iif "lo" accept']
    lines += ["meta l4proto { icmp, ipv6-icmp } accept", "ip6 saddr fe80::/10 udp dport 546 accept"]  # the host's own address, by DHCPv6
    four = [one for one in sources if ipaddress.ip_network(one, strict=False).version == 4]
    six = [one for one in sources if ipaddress.ip_network(one, strict=False).version == 6]
    for family, listed in (("ip", four), ("ip6", six)):
        lines += [f"{family} saddr {source} {ssh} accept" for source in listed]
    if not sources:
        lines.append(f"{ssh} accept")
    if gateway:
        lines.append(f"tcp dport {gateway} accept")
    body = "\n".join(f"\t\t{line}" for line in lines)
    return f"table {TABLE} {{\n\tchain input {{\n{body}\n\t}}\n}}\n"


def _set(ports: Sequence[int]) -> str:
    return str(ports[0]) if len(ports) == 1 else "{ " + ", ".join(map(str, ports)) + " }"


def _table() -> str:
    """The table that is in force; "" if there is none."""
    with contextlib.suppress(OperationFailed):
        return run("nft", "list", "table", *TABLE.split())
    return ""


def prove(port: int, sources: Sequence[str]) -> None:
    """Connects to ssh from a namespace of its own, as somebody outside would. Raises OperationFailed if that does not get through."""
    four = next((ipaddress.ip_network(one, strict=False) for one in sources if ipaddress.ip_network(one, strict=False).version == 4), None)
    outside = str(four.network_address + (1 if four.num_addresses > 2 else 0)) if four is not None else "192.0.2.1"
    if sources and four is None:
        return  # IPv6 alone is open: who confirms it proves it
    name, inside = f"coollm-proof-{os.getpid()}", "198.51.100.1"
    try:
        run("ip", "netns", "add", name)
        run("ip", "link", "add", "coollmproof0", "type", "veth", "peer", "name", "coollmproof1", "netns", name)
        run("ip", "address", "add", f"{inside}/32", "peer", f"{outside}/32", "dev", "coollmproof0")
        run("ip", "link", "set", "coollmproof0", "up")
        run("ip", "-n", name, "address", "add", f"{outside}/32", "peer", f"{inside}/32", "dev", "coollmproof1")
        run("ip", "-n", name, "link", "set", "coollmproof1", "up")
        ends = time.monotonic() + PROOF_SECONDS
        probe = f"exec 3<>/dev/tcp/{inside}/{port}"
        while True:
            try:
                run("ip", "netns", "exec", name, "timeout", "2", "bash", "-c", probe)
            except OperationFailed as error:
                if time.monotonic() >= ends:
                    raise OperationFailed(f"ssh on port {port} cannot be reached from outside any more", "is sshd running?") from error
                time.sleep(0.2)
            else:
                return
    finally:
        for command in (("ip", "link", "del", "coollmproof0"), ("ip", "netns", "del", name)):
            with contextlib.suppress(OperationFailed):
                run(*command)
