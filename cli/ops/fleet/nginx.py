"""nginx's configuration in front of the hosts of a fleet, with the OWASP core rule set before it where that is asked for (ModSecurity 3, Debian's packages).

What people write to models is any text at all, code and SQL among it: the rules look at addresses, headers and cookies, at the form of bodies, and at the
fields of them that are no text. Bodies, answers and keys come into no log; an answer is never held back.

Sources: https://nginx.org/en/docs/http/ngx_http_upstream_module.html, …/ngx_http_proxy_module.html (proxy_buffering, proxy_next_upstream) and
…/ngx_http_limit_req_module.html; the reference manual of ModSecurity 3 (SecRequestBody…, ctl, SecAuditLogParts); crs-setup.conf of the core rule set 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coollm_cli.ops.fleet.inventory import Inventory, http_address

CORE_RULES = "/usr/share/modsecurity-crs/rules"
CORE_SETUP = "/etc/modsecurity/crs/crs-setup.conf"
MODULE = "/usr/lib/nginx/modules/ngx_http_modsecurity_module.so"

# Fields of bodies that name something.
NO_TEXTS = ("model", "service_tier", "encoding_format", "previous_response_id")

# Rules of our own have numbers that are kept free for sites.
_RULE = 10_100


@dataclass(frozen=True)
class Options:
    """What is asked for. `certificate` is a PEM file with chain and key; `admin_from` are networks that may reach /admin and /metrics; `upstream` are HOST:PORT
    before which it stands instead of the hosts, as haproxy is.
    """

    bind: str = ":443"
    certificate: str | None = None
    max_body_mb: int = 50
    requests_per_10_seconds: int = 1000
    admin_from: Sequence[str] = ()
    user: str | None = "www-data"
    upstream: Sequence[str] = ()
    is_firewall: bool = False


def render(inventory: Inventory, options: Options) -> str:
    """The whole file."""
    parts = [_main(options), "http {", *_shared(options), *_upstream(inventory, options), *_server(options), "}", ""]
    return "\n".join(parts)


def _main(options: Options) -> str:
    lines = ["# Written by `coollm lb render --kind nginx`. A reload lets running requests end: systemctl reload nginx."]
    if options.user:
        lines.append(f"user {options.user};")
    lines += ["worker_processes auto;", "worker_rlimit_nofile 65536;", "# Streams of old workers may go on for so long after a reload."]
    lines += ["worker_shutdown_timeout 15m;"]
    if options.is_firewall:
        lines.append(f"load_module {MODULE};")
    lines += ["events { worker_connections 16384; }"]
    return "\n".join(lines)


def _shared(options: Options) -> list[str]:
    per_second = max(1, options.requests_per_10_seconds // 10)
    networks = "".join(f" {network} 1;" for network in options.admin_from)
    return [
        "    server_tokens off;",
        "    access_log off;",
        "    default_type application/json;",
        f"    client_max_body_size {options.max_body_mb}m;",
        "    # A head or a body that comes a little at a time is given up; a stream may be silent while a model thinks.",
        "    client_header_timeout 30s;",
        "    client_body_timeout 30s;",
        "    keepalive_timeout 75s;",
        "    proxy_connect_timeout 5s;",
        "    proxy_read_timeout 10m;",
        "    proxy_send_timeout 10m;",
        f"    limit_req_zone $binary_remote_addr zone=addresses:20m rate={per_second}r/s;",
        f"    geo $is_administrator {{ default 0;{networks} }}",
    ]


def _upstream(inventory: Inventory, options: Options) -> list[str]:
    servers = [f"        server {address} max_fails=1 fail_timeout=2s;" for address in options.upstream]
    for host in inventory.fleet.hosts if not options.upstream else ():
        share = f"weight={host.weight}" if host.weight else "down"
        servers.append(f"        server {http_address(host)} {share} max_fails=1 fail_timeout=2s;")
    return ["    upstream coollm {", "        least_conn;", *servers, "        keepalive 64;", "    }"]


def _server(options: Options) -> list[str]:
    tls = " ssl http2" if options.certificate else ""
    address, _, port = options.bind.rpartition(":")
    lines = ["    server {", f"        listen {f'{address}:' if address else ''}{port}{tls};"]
    if options.certificate:
        lines += [f"        ssl_certificate {options.certificate};", f"        ssl_certificate_key {options.certificate};"]
        lines += ["        ssl_protocols TLSv1.2 TLSv1.3;"]
    if options.is_firewall:
        lines += ["        modsecurity on;", "        modsecurity_rules '", *(f"            {line}" for line in _rules(options)), "        ';"]
    lines += [
        "        # What is refused here is told as the gateway would tell it.",
        *(f"        error_page {status} @{status};" for status in _REFUSALS),
        *(_refusal(status, kind, text) for status, (kind, text) in _REFUSALS.items()),
        "        # What is for administrators alone is not to be found from elsewhere.",
        "        location ~* ^/(admin|metrics|ui)(/|$) {",
        "            if ($is_administrator = 0) { return 404; }",
        # To its rules a configuration looks like an attack, and the gateway looks at everything that administrators send.
        *(["            modsecurity off;"] if options.is_firewall else []),
        *_proxy(),
        "        }",
        "        location / {",
        f"            limit_req zone=addresses burst={options.requests_per_10_seconds} nodelay;",
        "            limit_req_status 429;",
        *_proxy(),
        "        }",
        "    }",
    ]
    return lines


_REFUSALS = {
    403: ("request_refused", "The request was refused by the firewall before the gateway"),
    413: ("request_too_large", "The request is larger than is allowed here"),
    429: ("rate_limit_exceeded", "Too many requests from this address"),
    502: ("gateway_unreachable", "No gateway answers"),
    504: ("gateway_unreachable", "No gateway answers in time"),
}


def _refusal(status: int, code: str, text: str) -> str:
    body = f'{{"error":{{"message":"{text}","type":"{code}","param":null,"code":"{code}"}}}}'
    return f"        location @{status} {{ internal; default_type application/json; return {status} '{body}'; }}"


def _proxy() -> list[str]:
    """Only a request that could not be handed over is given to another host: what a host has read may have been billed."""
    return [
        "            proxy_pass http://coollm;",
        "            proxy_http_version 1.1;",
        '            proxy_set_header Connection "";',
        "            proxy_set_header Host $http_host;",
        "            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
        "            proxy_set_header X-Forwarded-Proto $scheme;",
        "            # A stream comes as it is made.",
        "            proxy_buffering off;",
        "            proxy_next_upstream error timeout;",
        "            proxy_next_upstream_tries 2;",
        "            proxy_socket_keepalive on;",
    ]


def _rules(options: Options) -> list[str]:
    largest = options.max_body_mb * 1024 * 1024
    models = "^/(api/)?v1/"
    untouched = [f"ctl:ruleRemoveTargetByTag=OWASP_CRS;{name}" for name in ("ARGS", "ARGS_NAMES")]
    return [
        "SecRuleEngine On",
        "SecRequestBodyAccess On",
        f"SecRequestBodyLimit {largest}",
        f"SecRequestBodyNoFilesLimit {largest}",
        "SecRequestBodyLimitAction Reject",
        "SecRequestBodyJsonDepthLimit 128",
        "SecArgumentsLimit 200000",
        "# An answer is handed on as it comes.",
        "SecResponseBodyAccess Off",
        "SecPcreMatchLimit 100000",
        "SecPcreMatchLimitRecursion 100000",
        "SecTmpDir /tmp/",
        "SecDataDir /tmp/",
        "# Neither bodies nor headers: they have prompts and keys.",
        "SecAuditEngine RelevantOnly",
        'SecAuditLogRelevantStatus "^403"',
        "SecAuditLogParts AHZ",
        "SecAuditLogType Serial",
        "SecAuditLog /var/log/nginx/modsec_audit.log",
        f"Include {CORE_SETUP}",
        f'SecAction "id:{_RULE},phase:1,pass,nolog,setvar:tx.allowed_methods=GET HEAD POST PUT DELETE OPTIONS"',
        f'SecRule REQUEST_HEADERS:Content-Type "@rx ^application/json" "id:{_RULE + 1},phase:1,pass,nolog,t:lowercase,ctl:requestBodyProcessor=JSON"',
        f'SecRule REQBODY_ERROR "!@eq 0" "id:{_RULE + 2},phase:2,deny,status:403,log,msg:the-body-cannot-be-read"',
        "# Of what goes to a model the texts are not looked at, and what is no text has to look like it.",
        f'SecRule REQUEST_FILENAME "@rx {models}" "id:{_RULE + 3},phase:1,pass,nolog,{",".join(untouched)}"',
        f'SecRule REQUEST_FILENAME "@rx {models}" "id:{_RULE + 4},phase:1,deny,status:403,log,msg:the-query-is-none-of-ours,chain"',
        '    SecRule ARGS_GET|ARGS_GET_NAMES "!@rx ^[A-Za-z0-9_.:, \\[\\]-]{0,200}$" "t:none"',
        f'SecRule REQUEST_FILENAME "@rx {models}" "id:{_RULE + 5},phase:2,deny,status:403,log,msg:a-field-that-is-no-text-has-some,chain"',
        f'    SecRule {"|".join(f"ARGS:json.{name}" for name in NO_TEXTS)} "!@rx ^[A-Za-z0-9_.:/@~=+*,-]{{0,300}}$" "t:none"',
        "# Lookups of Log4j, of which the core rule set 3.3 knows nothing yet.",
        f'SecRule REQUEST_LINE|REQUEST_HEADERS "@rx (?i)[$][{{][^}}]{{0,80}}(jndi|lower|upper|env|::-)" "id:{_RULE + 6},phase:1,deny,log,msg:a-lookup"',
        f"Include {CORE_RULES}/*.conf",
    ]
