"""Every alert: when it fires, how bad that is, what it means and what to do. Rules, routes and `coollm explain` are made from these rows.

Severities are the guide's: critical is a service that is down or data that is lost; high is many errors or slowness; medium is a fault of configuration or a
part that fails; low is worth knowing.
"""

from __future__ import annotations

from typing import NamedTuple

CRITICAL, HIGH, MEDIUM, LOW = "critical", "high", "medium", "low"
SEVERITIES = (CRITICAL, HIGH, MEDIUM, LOW)

JOB = "coollm"
DAY = 86400

AVAILABILITY = 0.999
SLOW_SECONDS = 5
ERROR_RATE = 0.05
BUSY = 0.8
KEY_AGE_DAYS = 90


class Alert(NamedTuple):
    """`expression` is PromQL, which gives a row for each thing that is wrong; `lasting` is how long it has to be, as Prometheus writes durations."""

    name: str
    severity: str
    expression: str
    lasting: str
    summary: str
    means: str
    remedy: str


class Recording(NamedTuple):
    """A figure that alerts and dashboards share."""

    name: str
    expression: str


RECORDINGS = (
    Recording("coollm:requests:rate5m", "sum(rate(coo_llm_requests_total[5m]))"),
    Recording(
        "coollm:errors:ratio5m",
        '(sum(rate(coo_llm_requests_total{status=~"5.."}[5m])) or vector(0)) / (sum(rate(coo_llm_requests_total[5m])) > 0)',
    ),
    Recording("coollm:latency:p95_5m", "histogram_quantile(0.95, sum by (le) (rate(coo_llm_latency_seconds_bucket[5m])))"),
    Recording("coollm:latency:p50_5m", "histogram_quantile(0.5, sum by (le) (rate(coo_llm_latency_seconds_bucket[5m])))"),
    Recording("coollm:first_token:p95_5m", "histogram_quantile(0.95, sum by (le) (rate(coo_llm_time_to_first_token_seconds_bucket[5m])))"),
    Recording("coollm:overhead:p99_5m", "histogram_quantile(0.99, sum by (le) (rate(coo_llm_overhead_seconds_bucket[5m])))"),
    Recording("coollm:cost:rate1h", "sum(rate(coo_llm_cost_total[1h])) * 3600"),
    Recording("coollm:availability:ratio1h", f'avg(avg_over_time(up{{job="{JOB}"}}[1h]))'),
)

ALERTS = (
    Alert(
        "CoollmDown",
        CRITICAL,
        f'up{{job="{JOB}"}} == 0',
        "1m",
        "{{ $labels.instance }} does not answer",
        "An address of the gateway does not answer Prometheus: it is down, or cut off from the network.",
        "coollm status on that host; coollm start; journalctl -u 'coollm@*'",
    ),
    Alert(
        "CoollmAvailability",
        CRITICAL,
        f"coollm:availability:ratio1h < {AVAILABILITY}",
        "5m",
        "available {{ $value | humanizePercentage }} of the last hour",
        "The gateway was not reachable for more than a thousandth of the last hour.",
        "coollm status; look for restarts in journalctl -u 'coollm@*'",
    ),
    Alert(
        "CoollmStoreDown",
        CRITICAL,
        "min by (instance) (coo_llm_store_up) == 0",
        "1m",
        "the store of limits of {{ $labels.instance }} does not answer",
        "Requests are refused, or admitted without limits, as storage.runtime.on_failure says.",
        "coollm health names the reason; see to Redis, or to the disk of the state",
    ),
    Alert(
        "CoollmErrorRate",
        HIGH,
        f"coollm:errors:ratio5m > {ERROR_RATE}",
        "5m",
        "{{ $value | humanizePercentage }} of requests fail",
        "More than one in twenty requests that reached a vendor ended with an error of the vendor's or the gateway's.",
        "coollm providers shows which keys cool down and why; coollm logs --level error; coollm route explain --id REQUEST_ID",
    ),
    Alert(
        "CoollmSlow",
        HIGH,
        f"coollm:latency:p95_5m > {SLOW_SECONDS}",
        "10m",
        "one in twenty answers takes longer than {{ $value | humanizeDuration }}",
        "The slowest twentieth of all answers takes more than five seconds: a vendor is slow, or answers are long.",
        "coollm top; coollm providers; policy.algorithm: latency, or policy.hedge",
    ),
    Alert(
        "CoollmVendorErrors",
        HIGH,
        "sum by (provider) (rate(coo_llm_errors_total[5m])) / (sum by (provider) (rate(coo_llm_errors_total[5m])) + "
        '(sum by (provider) (rate(coo_llm_requests_total{status=~"2.."}[5m])) or 0 * sum by (provider) (rate(coo_llm_errors_total[5m])))) > 0.5',
        "5m",
        "{{ $labels.provider }} fails more often than it answers",
        "Half of the attempts at a vendor fail; requests go to others where there are any.",
        "coollm providers test; the vendor's own status page; policy.fallback.providers",
    ),
    Alert(
        "CoollmKeyDown",
        MEDIUM,
        "min by (provider, key) (coo_llm_key_health) == 0",
        "15m",
        "the key {{ $labels.key }} of {{ $labels.provider }} has not been usable",
        "A vendor key cools down again and again: it was revoked, its credit is spent, or its limits are too low.",
        "coollm providers says why; coollm keys test; coollm keys rotate PROVIDER KEY_ID",
    ),
    Alert(
        "CoollmNoKey",
        CRITICAL,
        "min by (provider) (max by (instance, provider) (coo_llm_key_health)) == 0",
        "2m",
        "no key of {{ $labels.provider }} is usable",
        "On a host every key of a vendor cools down: what only this vendor serves is refused there.",
        "coollm providers says why; coollm keys add PROVIDER",
    ),
    Alert(
        "CoollmBudgetSpent",
        HIGH,
        "max by (scope, id) (coo_llm_budget_used_ratio) >= 1",
        "0m",
        "the budget of {{ $labels.scope }} {{ $labels.id }} is spent",
        "Requests under this budget are refused until its period ends.",
        "coollm budget list; coollm budget set SCOPE ID AMOUNT, if that is wanted",
    ),
    Alert(
        "CoollmBudgetNearlySpent",
        MEDIUM,
        "max by (scope, id) (coo_llm_budget_used_ratio) >= 0.95 < 1",
        "0m",
        "{{ $value | humanizePercentage }} of the budget of {{ $labels.scope }} {{ $labels.id }} are spent",
        "A twentieth of a budget is left.",
        "coollm usage report --by client; tell its owner",
    ),
    Alert(
        "CoollmBudgetMostlySpent",
        LOW,
        "max by (scope, id) (coo_llm_budget_used_ratio) >= 0.8 < 0.95",
        "0m",
        "{{ $value | humanizePercentage }} of the budget of {{ $labels.scope }} {{ $labels.id }} are spent",
        "A fifth of a budget is left.",
        "coollm usage report --by client",
    ),
    Alert(
        "CoollmBusy",
        HIGH,
        f"rate(coo_llm_worker_cpu_seconds_total[5m]) / on (instance) coo_llm_workers > {BUSY}",
        "10m",
        "workers of {{ $labels.instance }} use {{ $value | humanizePercentage }} of their processors",
        "Each worker has one processor to itself, and uses most of it: answers begin to wait for each other.",
        "coollm scale N, or server.workers and coollm restart --rolling",
    ),
    Alert(
        "CoollmMemory",
        HIGH,
        f"coo_llm_worker_memory_bytes / on (instance) coo_llm_host_memory_bytes > {BUSY}",
        "10m",
        "workers use {{ $value | humanizePercentage }} of the memory of {{ $labels.instance }}",
        "The workers of a host together use most of its memory.",
        "coollm status shows each instance; coollm scale, policy.cache.max_size_mb; a worker that grows: coollm restart --rolling",
    ),
    Alert(
        "CoollmCertificateExpiry",
        HIGH,
        f"min by (instance) (coo_llm_certificate_expiry_timestamp_seconds > 0) - time() < 14 * {DAY}",
        "1h",
        "the certificate of {{ $labels.instance }} ends in {{ $value | humanizeDuration }}",
        "Clients will refuse to connect when the certificate has expired.",
        "coollm tls renew",
    ),
    Alert(
        "CoollmKeyAge",
        LOW,
        f"max by (provider, key) (coo_llm_key_age_seconds) > {KEY_AGE_DAYS} * {DAY}",
        "1h",
        "the key {{ $labels.key }} of {{ $labels.provider }} is {{ $value | humanizeDuration }} old",
        "A vendor key was not rotated for three months.",
        "coollm keys rotate PROVIDER KEY_ID",
    ),
    Alert(
        "CoollmBackupAge",
        HIGH,
        f"time() - max by (instance) (coo_llm_backup_last_success_timestamp_seconds) > 2 * {DAY}",
        "1h",
        "the last backup of {{ $labels.instance }} is {{ $value | humanizeDuration }} old",
        "What is lost with this host is lost since then. A backup that was never made counts as made in 1970.",
        "coollm backup create says why it fails; journalctl -u coollm-backup; coollm backup schedule",
    ),
    Alert(
        "CoollmDrillAge",
        MEDIUM,
        f"time() - max by (instance) (coo_llm_backup_last_drill_timestamp_seconds) > 15 * {DAY}",
        "1h",
        "the last restore of {{ $labels.instance }} was proven {{ $value | humanizeDuration }} ago",
        "Nobody knows whether the backups can be restored.",
        "coollm backup drill --identity FILE; journalctl -u coollm-drill",
    ),
    Alert(
        "CoollmConfigDrift",
        LOW,
        "max by (instance) (coo_llm_config_drift) == 1",
        "1h",
        "the configuration's file on {{ $labels.instance }} is not what is in force",
        "Somebody has changed the file, and not applied it: a restart of the host would not change what is served, and the next apply would.",
        "coollm config diff, then coollm config apply FILE or coollm config rollback",
    ),
    Alert(
        "CoollmMixedGenerations",
        MEDIUM,
        "max(coo_llm_config_generation) != min(coo_llm_config_generation)",
        "5m",
        "instances serve different configurations",
        "A worker could not take the configuration that the others serve.",
        "coollm status says which, and why",
    ),
    Alert(
        "CoollmClientsRefused",
        LOW,
        'sum(rate(coo_llm_rate_limits_total{scope="client"}[10m])) > 1',
        "15m",
        "{{ $value | humanize }} requests a second are refused by limits",
        "Clients ask for more than their limits allow.",
        "coollm usage report --by client; coollm clients limit ID",
    ),
    Alert(
        "CoollmAdminRefused",
        MEDIUM,
        "sum(increase(coo_llm_admin_rate_limits_total[15m])) > 20",
        "0m",
        "{{ $value | humanize }} requests to the admin API were refused",
        "Somebody tries keys of administrators, or a script runs wild.",
        "coollm audit search --action denied says from where; coollm firewall apply",
    ),
    Alert(
        "CoollmAuditFault",
        CRITICAL,
        "max by (instance) (coo_llm_audit_faults) > 0",
        "0m",
        "the audit log of {{ $labels.instance }} is not as it was written",
        "Lines of the audit log were changed, removed, inserted or put elsewhere, or its end is gone.",
        "coollm audit verify names the lines; find out who had access; coollm backup restore --only audit brings back an older one beside it",
    ),
    Alert(
        "CoollmAuditAge",
        LOW,
        f"time() - max by (instance) (coo_llm_audit_verified_timestamp_seconds) > 8 * {DAY}",
        "1h",
        "the audit log of {{ $labels.instance }} was verified {{ $value | humanizeDuration }} ago",
        "Nobody knows whether the audit log is as it was written. One that was never verified counts as verified in 1970.",
        "coollm audit verify; coollm maintenance weekly, whose timer does it: systemctl list-timers 'coollm-*'",
    ),
    Alert(
        "CoollmAnomaly",
        MEDIUM,
        "max by (client, kind) (coo_llm_anomaly_ratio) > 0",
        "0m",
        "{{ $labels.client }}: {{ $value | humanize }} times the usual {{ $labels.kind }} of an hour",
        "A client asks, costs or fails many times more than its hours of the last fortnight do: a loop, a leaked key, or a launch that nobody told of.",
        "coollm usage report --by client --trend; coollm logs; coollm clients limit ID, or coollm clients revoke ID",
    ),
)

BY_NAME = {alert.name: alert for alert in ALERTS}
