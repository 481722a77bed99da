"""haproxy's configuration in front of the hosts of a fleet: a first wall, streams that may be silent for long, and hosts that leave by their own /ready.

Only a request of which no byte has reached a host is given to another one: a POST is never billed twice. Source: the configuration manual of haproxy 2.6
(http-check, retry-on, stick-table, http-request, bind, timeout).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coollm_cli.ops.fleet.inventory import Inventory, http_address

BACKEND = "coollm"
RUN = "/run/haproxy"


@dataclass(frozen=True)
class Options:
    """What is asked for. `certificate` is a PEM file with chain and key; `admin_from` are networks that may reach /admin and /metrics; `stick` is a header;
    `nameserver` is HOST:PORT of one that knows hosts whose addresses change.
    """

    bind: str = ":443"
    certificate: str | None = None
    max_body_mb: int = 50
    requests_per_10_seconds: int = 1000
    admin_from: Sequence[str] = ()
    stick: str | None = None
    socket: str = f"{RUN}/admin.sock"
    metrics: str = "127.0.0.1:8405"
    nameserver: str | None = None
    user: str | None = "haproxy"


def render(inventory: Inventory, options: Options) -> str:
    """The whole file."""
    return "\n".join((_global(options), _defaults(), *_names(options), _frontend(options), _backend(inventory, options), _metrics(options)))


def _global(options: Options) -> str:
    lines = [
        "# Written by `coollm lb render`. A reload loses no connection: systemctl reload haproxy.",
        "global",
        "    log stdout format raw local0 notice",
        f"    stats socket {options.socket} mode 660 level admin expose-fd listeners",
        "    stats timeout 30s",
        "    # Streams of an old process may go on for so long after a reload.",
        "    hard-stop-after 15m",
    ]
    if options.user:
        lines += [f"    user {options.user}", f"    group {options.user}"]
    lines += ["    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets", ""]
    return "\n".join(lines)


def _defaults() -> str:
    return """defaults
    mode http
    log global
    option dontlognull
    # A piece of a stream is handed on at once.
    option http-no-delay
    # A reload closes no idle connection under the request that a client just sends: it is answered, and closed then.
    option idle-close-on-response
    timeout connect 5s
    # A head or a body that comes a little at a time is given up; a stream may be silent while a model thinks.
    timeout http-request 30s
    timeout http-keep-alive 75s
    timeout client 10m
    timeout server 10m
    timeout queue 30s
    # Another host is tried where this one could not be connected to, and in no other case: what a host has read may have been billed.
    retries 2
    option redispatch 1
    retry-on conn-failure
"""


def _names(options: Options) -> list[str]:
    """Hosts whose addresses change are asked for again and again."""
    if options.nameserver is None:
        return []
    waits = ("timeout resolve 1s", "timeout retry 1s", "hold valid 5s", "hold obsolete 30s")
    return ["resolvers names", f"    nameserver first {options.nameserver}", *(f"    {wait}" for wait in waits), ""]


def _frontend(options: Options) -> str:
    tls = f" ssl crt {options.certificate} alpn h2,http/1.1" if options.certificate else ""
    lines = [
        "frontend clients",
        f"    bind {options.bind}{tls}",
        "    option httplog",
        "    option forwardfor",
        "    http-request set-header x-forwarded-proto https if { ssl_fc }",
        f"    http-request deny deny_status 413 if {{ req.hdr_val(content-length) gt {options.max_body_mb * 1024 * 1024} }}",
        "    stick-table type ipv6 size 200k expire 1m store http_req_rate(10s)",
        "    http-request track-sc0 src",
        f"    http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt {options.requests_per_10_seconds} }}",
        "    # What is for administrators alone is not to be found from elsewhere.",
        "    acl for_administrators path -m beg -i /admin /metrics /ui",
    ]
    if options.admin_from:
        lines.append(f"    http-request deny deny_status 404 if for_administrators !{{ src {' '.join(options.admin_from)} }}")
    else:
        lines.append("    http-request deny deny_status 404 if for_administrators")
    lines += [f"    default_backend {BACKEND}", ""]
    return "\n".join(lines)


def _backend(inventory: Inventory, options: Options) -> str:
    lines = [
        f"backend {BACKEND}",
        "    balance leastconn",
        "    option httpchk",
        "    http-check send meth GET uri /ready ver HTTP/1.1 hdr host coollm",
        "    # A host that is drained says 404: what it serves goes on, and nothing new comes.",
        "    http-check disable-on-404",
        "    # A host that is gone without a word: what it served is given up within fifteen seconds, and not after the ten minutes of a silent stream.",
        "    option srvtcpka",
        "    srvtcpka-idle 5s",
        "    srvtcpka-intvl 3s",
        "    srvtcpka-cnt 3",
    ]
    if options.stick:
        lines += ["    stick-table type string len 64 size 1m expire 30m", f"    stick on req.hdr({options.stick})"]
    found = " resolvers names init-addr last,libc,none" if options.nameserver else ""
    lines.append("    default-server check inter 1s fall 2 rise 2 slowstart 5s")
    # On each server: of a default-server haproxy 2.6.12 takes tcp-ut and does nothing with it (seen with strace).
    lines += [f"    server {host.name} {http_address(host)} weight {host.weight} tcp-ut 15s{found}" for host in inventory.fleet.hosts]
    return "\n".join([*lines, ""])


def _metrics(options: Options) -> str:
    return f"""frontend metrics
    bind {options.metrics}
    no log
    http-request use-service prometheus-exporter if {{ path /metrics }}
    http-request deny deny_status 404
"""
