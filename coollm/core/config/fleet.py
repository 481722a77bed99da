"""The section `fleet` of the configuration."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from coollm.core.config.sections import Identifier, Section, doc
from coollm.core.config.values import Duration

# What is written into other programs' configurations, or into a command of theirs.
HostPort = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:\[\]\-]{1,250}:[0-9]{1,5}$", title="HOST:PORT")]
Destination = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.@:%\[\]][A-Za-z0-9_.@:%\[\]\-]{0,250}$", title="a host, or USER@HOST")]
Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_./@:\-]{1,250}$", title="a path")]


class FleetHost(Section, frozen=True):
    """A host on which coollm is installed, or is to be."""

    name: Annotated[Identifier, doc("Its name in the fleet's commands.", "gw1")]
    address: Annotated[
        Destination | None, doc("What ssh is given: a host, USER@HOST or a name of its configuration; `name` if not given.", "gw1.company.com")
    ] = None
    groups: Annotated[tuple[str, ...], doc("Groups that `--group` chooses by.", ["frankfurt"])] = ()
    http: Annotated[HostPort | None, doc("HOST:PORT under which load balancers reach its gateway; port 2906 of `address` if not given.", "10.0.0.11:2906")] = (
        None
    )
    weight: Annotated[Annotated[int, Meta(ge=0, le=256)], doc("Its share of the traffic, beside the others'.", 100)] = 100


class LoadBalancer(Section, frozen=True):
    """An haproxy in front of the hosts."""

    name: Annotated[Identifier, doc("Its name.", "lb1")]
    address: Annotated[Destination | None, doc("What ssh is given; this host if not given.", "lb1.company.com")] = None
    socket: Annotated[Word, doc("haproxy's runtime socket there.")] = "/run/haproxy/admin.sock"
    backend: Annotated[Identifier, doc("The backend whose servers the hosts are.")] = "coollm"


class Ssh(Section, frozen=True):
    """How hosts are reached: by the system's ssh, with the user's own configuration, agent and jump hosts. Host keys are verified."""

    user: Annotated[str | None, doc("Who logs in; as the ssh configuration says if not given.", "root")] = None
    config_file: Annotated[str | None, doc("An ssh configuration of the fleet's own.", "/etc/coollm/ssh_config")] = None
    options: Annotated[tuple[str, ...], doc("More of ssh's options, as `-o` takes them.", ["ProxyJump=bastion.company.com"])] = ()
    connect_timeout: Annotated[Duration, doc("How long a host is waited for.", "10s")] = Duration(10)
    sudo: Annotated[bool, doc("Commands there are given to `sudo -n`.")] = False


class Scale(Section, frozen=True):
    """How machines are made for `coollm fleet scale`."""

    command: Annotated[
        str, doc("`COMMAND add` makes one and prints it as an item of `hosts` in JSON; `COMMAND remove NAME` gives it back.", "/usr/local/bin/our-machines")
    ]
    min_hosts: Annotated[Annotated[int, Meta(ge=1, le=1000)], doc("Never fewer.", 2)] = 1
    max_hosts: Annotated[Annotated[int, Meta(ge=1, le=1000)], doc("Never more.", 10)] = 100
    timeout: Annotated[Duration, doc("How long the command, a machine's start, and the end of what runs on one that goes are waited for.", "10m")] = Duration(
        600
    )


class Fleet(Section, frozen=True):
    """Hosts that are operated together, from any administrator's machine; also alone in a file `fleet.yaml`."""

    hosts: Annotated[tuple[FleetHost, ...], doc("The hosts, in the order in which they are changed.")] = ()
    load_balancers: Annotated[tuple[LoadBalancer, ...], doc("What stands in front of them.")] = ()
    ssh: Annotated[Ssh, doc("How they are reached.")] = Ssh()
    scale: Annotated[Scale | None, doc("How machines are made and given back.")] = None
    parallel: Annotated[Annotated[int, Meta(ge=1, le=256)], doc("How many hosts are asked at the same time.", 32)] = 32
