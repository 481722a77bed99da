"""What codes mean and what to do: exit codes, findings of `doctor`, and errors that clients get. Their names do not change."""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """`means` in a sentence or two, `remedy` as something to do."""

    code: str
    means: str
    remedy: str


EXIT_CODES = (
    Code("0", "done, or nothing to do", ""),
    Code("1", "the operation failed; what was changed is said, and how to go on", "read the hint; coollm status shows how things stand"),
    Code("2", "usage error", "the command's --help has an example"),
    Code("3", "the configuration is invalid", "coollm config validate tells every fault with its line"),
    Code("4", "a check found a fault", "coollm health and coollm doctor name it, each finding with its remedy"),
    Code("5", "a gateway, store, host or vendor cannot be reached", "coollm status; journalctl -u 'coollm@*'"),
    Code("6", "another administrator holds the lock", "wait until the command that is named is done; a lock whose owner is dead is taken over"),
    Code(
        "7", "the change was undone because the gateway was not healthy after it", "the error says which instance and why; journalctl -u coollm@N has the rest"
    ),
    Code("130", "interrupted; nothing left half done", "give the command again"),
)

FINDINGS = (
    Code(
        "descriptors",
        "A process may open too few files: each stream needs two.",
        "LimitNOFILE=65536 in the unit, then coollm restart --rolling; for a shell: ulimit -n 65536",
    ),
    Code("backlog", "The kernel keeps few connections that wait to be accepted.", "sysctl -w net.core.somaxconn=4096, and the same in /etc/sysctl.d"),
    Code("local-ports", "Few local ports are left for connections to vendors.", "sysctl -w net.ipv4.ip_local_port_range='10240 65535'"),
    Code(
        "clock",
        "The clock is not synchronised: budgets begin at the wrong time, and vendors refuse signed requests.",
        "enable an NTP service: timedatectl set-ntp true",
    ),
    Code(
        "disk-space",
        "A disk that the gateway writes to is nearly full. Without room for the usage log no request is admitted.",
        "make room, or move the directory",
    ),
    Code("inodes", "A disk that the gateway writes to has hardly a free inode.", "remove small files"),
    Code("permissions", "A file with secrets can be read by others.", "chmod as the finding says"),
    Code("certificate", "The gateway's certificate has expired, or will soon.", "coollm tls renew puts another in its place while the gateway runs"),
    Code("secrets-in-clear", "Keys or passwords stand in the configuration in clear.", "coollm secrets import moves them to the secret store"),
    Code("master-key", "The key under which the secrets are kept is gone: the next start fails.", "put back the copy that was kept of it"),
    Code("vendor-key", "A vendor refuses one of its keys: it was revoked, or its credit is spent.", "coollm keys rotate PROVIDER KEY_ID, or pay the vendor"),
    Code("key-age", "A vendor key is older than its provider's max_key_age_days.", "coollm keys rotate PROVIDER KEY_ID"),
    Code("key-unfinished", "A vendor key is being added or retired, and nobody goes on with it.", "coollm keys rotate --resume, or --abort"),
    Code("key-retired", "A retired vendor key is still in the configuration.", "take it out there, coollm config apply, and revoke it at the vendor's"),
    Code("store-latency", "The store of limits answers slowly: every request waits for it.", "put Redis on this host or its network; look at its load"),
    Code("port", "Another program listens on the gateway's address.", "ss -ltnp shows which; stop it, or change server.listen"),
    Code("unit-drift", "A unit is not as the release ships it.", "sudo coollm install puts it right; own settings belong in drop-ins of another name"),
    Code("mixed-releases", "Instances run different releases.", "coollm upgrade VERSION finishes an upgrade; coollm rollback goes back"),
    Code("socket", "The public address is closed: no client can connect.", "coollm start opens it"),
    Code("drained", "An instance takes no new connections, and stays so.", "coollm undrain N opens it again"),
    Code("timers", "A regular job is not run by its timer.", "sudo coollm install switches the timers on that belong to it"),
    Code(
        "store",
        "The store of limits does not answer.",
        "see to Redis, or to the disk and the owner of the state; one that was exchanged is trusted after a minute; meanwhile on_failure decides",
    ),
    Code(
        "providers",
        "Vendor keys are not usable at the moment.",
        "coollm providers shows why each cools down; coollm keys test; coollm keys rotate PROVIDER KEY_ID",
    ),
    Code(
        "ledger",
        "Requests do not reach the ledger: the usage log keeps them.",
        "see to the ledger's database, its disk and its owner; coollm usage verify afterwards",
    ),
    Code("audit-log", "The audit log cannot be written: administrators can change nothing.", "make room on its disk; chown coollm: /var/log/coo-llm/audit.log"),
    Code(
        "audit-fault",
        "The audit log is not as it was written.",
        "coollm audit verify names the lines; find out who had access, and put back the log of a backup",
    ),
    Code("instance", "An instance does not serve.", "coollm status; journalctl -u coollm@N"),
    Code(
        "reservations",
        "Reservations of workers that died long ago were not settled.",
        "see whether the store answers; a running gateway settles them within half a minute",
    ),
    Code("timeouts", "Two time-outs contradict each other.", "change the one that the finding names"),
    Code("config-drift", "The configuration's file is not what is in force.", "coollm config diff shows it, coollm config apply puts it in force"),
    Code("unfinished", "A change was begun and not ended.", "give the same command again, and it is finished; any other takes it back"),
    Code("unconfirmed", "A configuration waits to be confirmed, and will revert.", "coollm config confirm keeps it"),
    Code(
        "config",
        "The configuration is not valid: the gateway goes on with the one in force.",
        "coollm config validate names each fault; coollm config rollback N, of the generation in force, puts the file back",
    ),
    Code("backup", "No backup was made lately: what is lost with this host is lost.", "coollm backup create; coollm backup schedule lets a timer do it"),
    Code("drill", "Nobody knows whether the backups can be restored.", "coollm backup drill; the fault that it names, and another backup"),
    Code("log-rotation", "The logs are not rotated.", "apt-get install logrotate; sudo coollm install writes its file"),
    Code("overcommit", "Redis on this host may fail to save itself.", "sysctl -w vm.overcommit_memory=1, and the same in /etc/sysctl.d"),
)

ERRORS = (
    Code(
        "gateway_stopping",
        "The gateway was restarted, and the request had outlived server.drain_seconds.",
        "send it again; raise server.drain_seconds if streams last longer",
    ),
    Code("stream_interrupted", "The vendor broke off a stream.", "send the request again; coollm logs --id REQUEST_ID has the cause"),
    Code("budget_exceeded", "A budget has no room for what the request may cost.", "coollm budget list; coollm budget set raises it"),
    Code("rate_limit_exceeded", "A limit of the client or its team has no room.", "wait as Retry-After says; coollm clients limit raises it"),
    Code("provider_limit_reached", "Every vendor key for the model is at its limit.", "add keys, or raise llm_providers[].limits"),
    Code("no_usable_key", "No vendor key for the model is usable at the moment.", "coollm providers shows why each cools down"),
    Code("provider_failed", "Every vendor that could serve the request refused or failed.", "coollm logs --id REQUEST_ID has each attempt"),
    Code("provider_timeout", "The vendor did not answer in time.", "policy.timeouts; coollm providers test"),
    Code("store_unavailable", "The store of limits does not answer.", "coollm health; storage.runtime.on_failure decides what happens then"),
    Code("usage_log_full", "The usage log cannot be written, so that no request is admitted.", "make room on its disk"),
    Code("invalid_api_key", "The client's key is not known.", "api_keys in the configuration"),
    Code(
        "expired_api_key",
        "The client's key is past its expires_at.",
        "coollm clients update ID --expires TIME; of a client of the configuration, api_keys[].expires_at",
    ),
    Code("model_not_found", "No provider that the client may use serves the model.", "coollm models lists them"),
    Code(
        "not_allowed",
        "The client may not use what it asked for.",
        "coollm clients update ID --model PATTERN; of a client of the configuration, api_keys[].allowed_models",
    ),
    Code("body_too_large", "The request is larger than server.max_body_mb.", "raise it, or send less"),
    Code("missing_api_key", "The request has no key.", "send Authorization: Bearer KEY, or x-api-key; coollm clients create makes one"),
    Code("revoked_api_key", "The client was revoked.", "coollm clients list; coollm clients create makes another"),
    Code(
        "address_not_allowed",
        "The key, or the metrics, may not be used from this address.",
        "coollm clients update ID --from NETWORK; behind a proxy server.trusted_proxies; of metrics logging.prometheus.allowed_addresses",
    ),
    Code(
        "model_not_allowed",
        "The client may not use this model.",
        "coollm clients update ID --model PATTERN; of a client of the configuration, api_keys[].allowed_models",
    ),
    Code(
        "provider_not_allowed",
        "The client may not use this provider.",
        "coollm clients update ID --provider ID; of a client of the configuration, api_keys[].allowed_providers",
    ),
    Code(
        "route_not_allowed", "The key may not be used for this address of the API.", "use the key of an administrator for /admin, and that of a client for /v1"
    ),
    Code("concurrency_limit_exceeded", "Too many requests of the client at the same time.", "coollm clients limit ID --concurrent N, or wait for some to end"),
    Code(
        "request_too_large",
        "The request asks for more tokens than a limit can ever have room for.",
        "lower max_tokens; raise tokens_per_min, or limits.max_tokens of the provider",
    ),
    Code(
        "price_unknown",
        "There is a budget, and the model has no price.",
        "give the provider `pricing`, then coollm config apply; coollm models --prices shows what is known",
    ),
    Code("provider_rate_limited", "The vendor refuses more for now, on every key.", "wait as Retry-After says; coollm keys add PROVIDER; coollm providers"),
    Code(
        "unsupported_parameter",
        "No vendor that serves the model can be told the parameter that `param` names.",
        "leave it out, choose another model, or set policy.drop_unsupported and coollm config apply",
    ),
    Code("missing_required_parameter", "The request lacks the parameter that `param` names.", "send it"),
    Code("previous_response_not_found", "The key that keeps the earlier response is gone, or does not serve this model.", "begin a new conversation"),
    Code("client_closed_request", "The client left before the answer was there.", "nothing, if it wanted to; else raise the client's own time-out"),
    Code("unknown_url", "There is no such address.", "GET /openapi.json has all of them"),
    Code("method_not_allowed", "The address does not take this method.", "the Allow header of the answer has those that it takes"),
    Code("audit_unavailable", "The audit log cannot be written, so nothing is changed.", "make room on its disk; coollm doctor"),
    Code("ledger_unavailable", "The ledger's database does not answer.", "coollm health; see to the database of storage.ledger.url"),
    Code("directory_unavailable", "No directory server answers.", "coollm admins test; on the host itself every command works"),
    Code("admin_rate_limit", "Too many requests to the admin API from one address.", "wait as Retry-After says; server.admin_requests_per_minute"),
    Code("locked_out", "Too many failed attempts from one address.", "wait as Retry-After says; coollm audit search --action denied says from where"),
    Code("role_required", "The administrator's role is not enough.", "coollm admins role ID admin"),
    Code("no_role", "The directory knows the person, but none of the groups has a role.", "auth.roles in the configuration; coollm admins test"),
    Code("wrong_code", "The code of the authenticator is wrong, or was used before.", "wait for the next one; coollm admins reset NAME where it is lost"),
    Code(
        "second_factor_required", "This name has a second factor: the password alone is not enough.", "coollm login asks for its code; coollm admins reset NAME"
    ),
    Code(
        "second_factor_unreadable",
        "The second factor was set up with another secret for keys than this host has.",
        "coollm fleet secrets gives all hosts the same; coollm admins reset NAME",
    ),
    Code("request_not_found", "Neither the ledger nor this host's log has the request.", "coollm explain ID on the host that served it"),
    Code("generation_not_found", "There is no such generation of the configuration.", "coollm config history"),
    Code("nothing_to_confirm", "No generation of the configuration waits to be confirmed.", "coollm config history"),
    Code("order_not_written", "What was ordered could not be kept for the host.", "make room on the disk of the state directory; coollm doctor"),
    Code("wrong_password", "The name or the password is wrong.", "coollm admins test, where a directory is asked; server.webui.admin_password"),
    Code("invalid_session", "The session is not known: it has ended, or the gateway was given other keys.", "coollm login"),
    Code("expired_session", "The session has ended.", "coollm login"),
    Code("client_exists", "A client of this name is there already.", "coollm clients list; coollm clients rotate ID gives it another key"),
    Code("client_not_found", "There is no such client.", "coollm clients list"),
    Code("client_of_configuration", "The client belongs to the configuration.", "change api_keys there, then coollm config apply"),
    Code("admin_exists", "An administrator of this name is there already.", "coollm admins list"),
    Code("admin_not_found", "There is no such administrator.", "coollm admins list"),
    Code("provider_not_found", "There is no such provider.", "coollm providers lists them"),
    Code("configuration_invalid", "The configuration is not valid.", "coollm config validate tells every fault with its line"),
    Code("configuration_refused", "A worker cannot serve the configuration, and the one before is in force.", "coollm status says why"),
    Code("configuration_unreadable", "The configuration in force cannot be read.", "coollm doctor; coollm config history"),
    Code("disk_full", "The disk of the gateway is full.", "make room; coollm doctor names the directory"),
    Code("insufficient_storage", "The disk of the gateway is full.", "make room; coollm doctor names the directory"),
    Code("unavailable", "What was asked for cannot be had now.", "the message says what; coollm health"),
    Code("internal_error", "A fault of the gateway.", "coollm logs --id REQUEST_ID; please report it"),
)

ALL = {code.code: code for code in (*EXIT_CODES, *FINDINGS, *ERRORS)}
