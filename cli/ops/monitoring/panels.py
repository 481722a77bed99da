"""What the dashboards show."""

from __future__ import annotations

from typing import NamedTuple

GRAPH, FIGURE = "timeseries", "stat"


class Panel(NamedTuple):
    """`queries` are PromQL with the name of each line; `unit` is one of Grafana's."""

    title: str
    description: str
    kind: str
    unit: str
    queries: tuple[tuple[str, str], ...]


class Board(NamedTuple):
    """A dashboard."""

    name: str
    title: str
    panels: tuple[Panel, ...]


OPERATIONS = Board(
    "operations",
    "COO-LLM: operations",
    (
        Panel("Requests", "Requests that reached a vendor, each second.", GRAPH, "reqps", (("coollm:requests:rate5m", "all"),)),
        Panel("By outcome", "Requests by the status of their answer.", GRAPH, "reqps", (("sum by (status) (rate(coo_llm_requests_total[5m]))", "{{status}}"),)),
        Panel("Errors", "The share of requests that end with a 5xx.", GRAPH, "percentunit", (("coollm:errors:ratio5m", "errors"),)),
        Panel("Latency", "Whole answers.", GRAPH, "s", (("coollm:latency:p50_5m", "p50"), ("coollm:latency:p95_5m", "p95"))),
        Panel("Time to first token", "Streams, to their first content.", GRAPH, "s", (("coollm:first_token:p95_5m", "p95"),)),
        Panel("What the gateway adds", "Time in the gateway itself.", GRAPH, "s", (("coollm:overhead:p99_5m", "p99"),)),
        Panel("By vendor", "Requests of each vendor.", GRAPH, "reqps", (("sum by (provider) (rate(coo_llm_requests_total[5m]))", "{{provider}}"),)),
        Panel("Streams", "Streams now.", GRAPH, "short", (("sum(coo_llm_active_streams)", "streams"),)),
        Panel("Keys", "1 is a key that is usable.", GRAPH, "bool_on_off", (("min by (provider, key) (coo_llm_key_health)", "{{provider}}/{{key}}"),)),
        Panel(
            "Processors",
            "Of each worker.",
            GRAPH,
            "percentunit",
            (("rate(coo_llm_worker_cpu_seconds_total[5m]) / on (instance) coo_llm_workers", "{{instance}}"),),
        ),
        Panel("Memory", "All workers of a host.", GRAPH, "bytes", (("coo_llm_worker_memory_bytes", "{{instance}}"),)),
        Panel("Availability", "Of the last hour.", FIGURE, "percentunit", (("coollm:availability:ratio1h", "available"),)),
        Panel("Last backup", "How old it is.", FIGURE, "s", (("time() - coo_llm_backup_last_success_timestamp_seconds", "{{instance}}"),)),
        Panel("Last proven restore", "How long ago.", FIGURE, "s", (("time() - coo_llm_backup_last_drill_timestamp_seconds", "{{instance}}"),)),
        Panel("Audit log", "What is wrong with it, as it was last verified.", FIGURE, "short", (("max by (instance) (coo_llm_audit_faults)", "{{instance}}"),)),
        Panel("Configuration", "The generation that is served.", FIGURE, "short", (("max(coo_llm_config_generation)", "generation"),)),
    ),
)

COST = Board(
    "cost",
    "COO-LLM: cost and clients",
    (
        Panel("Cost", "US dollars in an hour, at the rate of the last one.", GRAPH, "currencyUSD", (("coollm:cost:rate1h", "all"),)),
        Panel("By client", "US dollars in an hour.", GRAPH, "currencyUSD", (("sum by (client) (rate(coo_llm_client_cost_total[1h])) * 3600", "{{client}}"),)),
        Panel("By model", "US dollars in an hour.", GRAPH, "currencyUSD", (("sum by (model) (rate(coo_llm_cost_total[1h])) * 3600", "{{model}}"),)),
        Panel("Requests by client", "Each second.", GRAPH, "reqps", (("sum by (client) (rate(coo_llm_client_requests_total[5m]))", "{{client}}"),)),
        Panel(
            "Errors by client",
            "Failed or refused, each second.",
            GRAPH,
            "reqps",
            (("sum by (client) (rate(coo_llm_client_errors_total[5m]))", "{{client}}"),),
        ),
        Panel("Tokens by kind", "Each second.", GRAPH, "short", (("sum by (kind) (rate(coo_llm_tokens_total[5m]))", "{{kind}}"),)),
        Panel("Budgets", "Spent or reserved.", GRAPH, "percentunit", (("max by (scope, id) (coo_llm_budget_used_ratio)", "{{scope}} {{id}}"),)),
        Panel("Out of the ordinary", "Times the usual hour.", GRAPH, "short", (("max by (client, kind) (coo_llm_anomaly_ratio)", "{{client}} {{kind}}"),)),
        Panel("Refused by limits", "Requests each second.", GRAPH, "reqps", (("sum by (scope) (rate(coo_llm_rate_limits_total[5m]))", "{{scope}}"),)),
    ),
)

BOARDS = (OPERATIONS, COST)
