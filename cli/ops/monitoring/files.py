"""The files that `coollm monitoring render` writes, from the tables of alerts and panels.

Sources: https://prometheus.io/docs/prometheus/latest/configuration/ (recording_rules, alerting_rules, configuration), https://prometheus.io/docs/alerting/latest/
configuration/, https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/, https://vector.dev/docs/reference/configuration/,
https://www.elastic.co/guide/en/beats/filebeat/current/filebeat-input-filestream.html, https://www.elastic.co/guide/en/elasticsearch/reference/current/
mapping-field-meta.html, https://grafana.com/docs/loki/latest/send-data/promtail/configuration/.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml
from coollm_cli.ops.monitoring.alerts import ALERTS, CRITICAL, HIGH, JOB, LOW, MEDIUM, RECORDINGS
from coollm_cli.ops.monitoring.log_fields import FIELDS
from coollm_cli.ops.monitoring.panels import BOARDS, Board, Panel

RULES, PROMETHEUS, ALERTMANAGER = "coollm-rules.yml", "prometheus.yml", "alertmanager.yml"
TLS = "https://"
REPEAT = {CRITICAL: "1h", HIGH: "4h", MEDIUM: "12h", LOW: "3d"}
WAIT = {CRITICAL: "10s", HIGH: "30s", MEDIUM: "2m", LOW: "10m"}
SCHEMA_VERSION = 42
"""Of defaultDashboard in the npm package @grafana/schema 13."""

COLUMNS, WIDTH, HEIGHT = 24, 8, 8


def rendered(targets: Sequence[str], webhook: str, log_directory: str, ca_file: str | None = None) -> dict[str, str]:
    """Every file by its name. `targets` are HOST:PORT, after https:// where TLS is spoken; `ca_file` is who signs their certificates."""
    files = {
        RULES: _yaml(rules(), "Recording and alerting rules of COO-LLM: rule_files of prometheus.yml names this file."),
        PROMETHEUS: _yaml(prometheus(targets, ca_file), "Scrapes the gateway: one address of each host, which answers for all workers of it."),
        ALERTMANAGER: _yaml(alertmanager(webhook), "Routes by severity. One notification for a severity and host; alerts are silenced by name."),
        "vector.yaml": _yaml(vector(log_directory), "Ships the JSON logs: every line has its fields already."),
        "promtail.yaml": _yaml(promtail(log_directory), "Ships the JSON logs to Loki, with labels of few values alone: | json finds the rest."),
        "log-fields.json": json.dumps(mapping(), indent=2) + "\n",
        "filebeat.yml": _yaml(filebeat(log_directory), "Ships the JSON logs: every line has its fields already."),
    }
    return files | {f"grafana-{board.name}.json": json.dumps(dashboard(board), indent=2) + "\n" for board in BOARDS}


def rules() -> dict[str, Any]:
    """Recordings, then alerts, each with its runbook."""
    recordings = [{"record": one.name, "expr": one.expression} for one in RECORDINGS]
    alerts = [
        {
            "alert": one.name,
            "expr": one.expression,
            "for": one.lasting,
            "labels": {"severity": one.severity},
            "annotations": {"summary": one.summary, "description": one.means, "runbook": f"coollm explain {one.name}: {one.remedy}"},
        }
        for one in ALERTS
    ]
    return {"groups": [{"name": "coollm-figures", "interval": "15s", "rules": recordings}, {"name": "coollm-alerts", "interval": "15s", "rules": alerts}]}


def prometheus(targets: Sequence[str], ca_file: str | None = None) -> dict[str, Any]:
    """What Prometheus asks, and whom it tells."""
    plain = [target.removeprefix("http://") for target in targets if not target.startswith(TLS)]
    with_tls = [target.removeprefix(TLS) for target in targets if target.startswith(TLS)]
    groups: list[dict[str, Any]] = [*([{"targets": plain}] if plain else []), *([{"targets": with_tls, "labels": {"__scheme__": "https"}}] if with_tls else [])]
    scrape: dict[str, Any] = {"job_name": JOB, "metrics_path": "/metrics", "static_configs": groups}
    if ca_file is not None:
        scrape["tls_config"] = {"ca_file": ca_file}
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": [RULES],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": ["127.0.0.1:9093"]}]}]},
        "scrape_configs": [scrape],
    }


def alertmanager(webhook: str) -> dict[str, Any]:
    """A route for each severity. A gateway that is down says nothing more of what else is wrong with it."""
    routes = [
        {
            "matchers": [f'severity="{severity}"'],
            "receiver": severity,
            "group_wait": WAIT[severity],
            "repeat_interval": REPEAT[severity],
        }
        for severity in REPEAT
    ]
    receivers = [{"name": severity, "webhook_configs": [{"url": webhook, "send_resolved": True}]} for severity in REPEAT]
    return {
        "route": {"receiver": MEDIUM, "group_by": ["severity", "instance"], "group_interval": "5m", "routes": routes},
        "inhibit_rules": [{"source_matchers": ['alertname="CoollmDown"'], "target_matchers": ['severity=~"medium|low"'], "equal": ["instance"]}],
        "receivers": receivers,
    }


def vector(log_directory: str) -> dict[str, Any]:
    """A source, a parser and a sink on standard output, which is to be exchanged."""
    return {
        "sources": {"coollm": {"type": "file", "include": [f"{log_directory}/app.log", f"{log_directory}/audit.log"], "read_from": "end"}},
        "transforms": {"parsed": {"type": "remap", "inputs": ["coollm"], "source": '. = merge!(., parse_json!(string!(.message)))\n.service = "coollm"\n'}},
        "sinks": {"out": {"type": "console", "inputs": ["parsed"], "encoding": {"codec": "json"}}},
    }


def filebeat(log_directory: str) -> dict[str, Any]:
    """The same for the ELK stack."""
    return {
        "filebeat.inputs": [
            {
                "type": "filestream",
                "id": "coollm",
                "paths": [f"{log_directory}/app.log", f"{log_directory}/audit.log"],
                "parsers": [{"ndjson": {"target": "", "add_error_key": True, "overwrite_keys": True}}],
                "fields": {"service": "coollm"},
            }
        ],
        "output.console": {"pretty": False},
    }


def promtail(log_directory: str) -> dict[str, Any]:
    """The same for Loki."""
    shown = {"time": "time", "level": "level", "logger": "logger"}
    stages = [{"json": {"expressions": shown}}, {"timestamp": {"source": "time", "format": "RFC3339Nano"}}, {"labels": {"level": None, "logger": None}}]
    labels = {"job": "coollm", "__path__": f"{log_directory}/*.log"}
    return {
        "server": {"disable": True},
        "positions": {"filename": "/var/lib/promtail/positions.yaml"},
        "clients": [{"url": "http://loki:3100/loki/api/v1/push"}],
        "scrape_configs": [{"job_name": "coollm", "static_configs": [{"targets": ["localhost"], "labels": labels}], "pipeline_stages": stages}],
    }


def mapping() -> dict[str, Any]:
    """The fields of app.log as an index template of Elasticsearch has them, each with what it is."""
    return {
        "index_patterns": ["coollm-*"],
        "template": {"mappings": {"properties": {one.name: {"type": one.kind, "meta": {"about": one.means}} for one in FIELDS}}},
    }


def dashboard(board: Board) -> dict[str, Any]:
    """One dashboard; its data source is asked for at import."""
    panels = [_panel(number, one) for number, one in enumerate(board.panels)]
    return {
        "__inputs": [{"name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource", "pluginId": "prometheus", "pluginName": "Prometheus"}],
        "uid": f"coollm-{board.name}",
        "title": board.title,
        "tags": ["coollm"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "panels": panels,
        "templating": {"list": []},
        "annotations": {"list": []},
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
    row, column = divmod(number, COLUMNS // WIDTH)
    return {
        "id": number + 1,
        "title": panel.title,
        "description": panel.description,
        "type": panel.kind,
        "datasource": source,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": column * WIDTH, "y": row * HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": source, "expr": query, "legendFormat": legend} for place, (query, legend) in enumerate(panel.queries)
        ],
    }


def _yaml(value: dict[str, Any], comment: str) -> str:
    made = "# Written by `coollm monitoring render`: changes here are lost when it is given again."
    return f"# {comment}\n{made}\n" + yaml.safe_dump(value, sort_keys=False, width=160, allow_unicode=True)
