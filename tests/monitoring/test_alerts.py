"""Every alert fires where it has to, and is silent where it has not: promtool's own unit tests of the rules, made from one table."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from coollm_cli.ops.monitoring.alerts import ALERTS, BY_NAME, SEVERITIES
from coollm_cli.ops.monitoring.files import ALERTMANAGER, PROMETHEUS, RULES, rendered

from tests.conftest import clean_environment, coollm

DAY = 86400
LONG = 1440
Series = dict[str, str]


def both(name: str, labels: str, bad: str, good: str) -> tuple[Series, Series]:
    return {f"{name}{labels}": bad}, {f"{name}{labels}": good}


def requests(bad: str) -> Series:
    return {'coo_llm_requests_total{status="200",provider="a"}': "0+100x200", 'coo_llm_requests_total{status="502",provider="a"}': bad}


def latency(slow: str) -> Series:
    return {
        'coo_llm_latency_seconds_bucket{le="1"}': "0+90x200",
        'coo_llm_latency_seconds_bucket{le="10"}': slow,
        'coo_llm_latency_seconds_bucket{le="+Inf"}': "0+100x200",
    }


def hosts(name: str, bad: str, good: str) -> tuple[Series, Series]:
    """One host is badly off among others that are well: they do not hide it."""
    others = {f'{name}{{instance="b"}}': good, f'{name}{{instance="c"}}': good}
    return others | {f'{name}{{instance="a"}}': bad}, others | {f'{name}{{instance="a"}}': good}


def memory(used: str) -> Series:
    """Two hosts: what both use together is more than either of them has."""
    series = {'coo_llm_worker_memory_bytes{instance="b"}': "700x200", 'coo_llm_host_memory_bytes{instance="b"}': "1000x200"}
    return series | {'coo_llm_worker_memory_bytes{instance="a"}': used, 'coo_llm_host_memory_bytes{instance="a"}': "1000x200"}


def generations(second: str) -> Series:
    return {'coo_llm_config_generation{instance="a"}': "7x200", 'coo_llm_config_generation{instance="b"}': second}


def budget(share: str) -> tuple[Series, Series]:
    return both("coo_llm_budget_used_ratio", '{scope="client",id="app"}', share, "0.5x200")


# When it is looked at, in minutes; what fires, and what does not.
CASES: dict[str, tuple[int, Series, Series]] = {
    "CoollmDown": (10, *both("up", '{job="coollm",instance="a"}', "1x3 0x200", "1x200")),
    "CoollmAvailability": (90, *both("up", '{job="coollm",instance="a"}', "1x60 0x10 1x200", "1x300")),
    "CoollmStoreDown": (10, *hosts("coo_llm_store_up", "0x200", "1x200")),
    "CoollmErrorRate": (30, requests("0+6x200"), requests("0+5x200")),
    "CoollmSlow": (30, latency("0+100x200"), latency("0+97x200") | {'coo_llm_latency_seconds_bucket{le="1"}': "0+96x200"}),
    "CoollmVendorErrors": (
        30,
        {'coo_llm_requests_total{status="502",provider="a"}': "0+100x200", 'coo_llm_errors_total{provider="a",type="status"}': "0+100x200"},
        requests("0x200") | {'coo_llm_errors_total{provider="a",type="status"}': "0+20x200"},
    ),
    "CoollmKeyDown": (30, *both("coo_llm_key_health", '{provider="a",key="k"}', "0x200", "1x20 0x5 1x200")),
    "CoollmNoKey": (
        30,
        {
            'coo_llm_key_health{instance="x",provider="a",key="k"}': "0x200",
            'coo_llm_key_health{instance="x",provider="a",key="l"}': "0x200",
            'coo_llm_key_health{instance="y",provider="a",key="k"}': "1x200",
        },
        {'coo_llm_key_health{provider="a",key="k"}': "0x200", 'coo_llm_key_health{provider="a",key="l"}': "1x200"},
    ),
    "CoollmBudgetSpent": (5, *budget("1x200")),
    "CoollmBudgetNearlySpent": (5, *budget("0.96x200")),
    "CoollmBudgetMostlySpent": (5, *budget("0.85x200")),
    "CoollmAuditFault": (5, *hosts("coo_llm_audit_faults", "2x200", "0x200")),
    "CoollmAuditAge": (120, *hosts("coo_llm_audit_verified_timestamp_seconds", f"{-9 * DAY}x200", f"{-7 * DAY}x200")),
    "CoollmAnomaly": (5, *both("coo_llm_anomaly_ratio", '{client="app",kind="cost"}', "7x200", "0x200")),
    "CoollmBusy": (
        30,
        {'coo_llm_worker_cpu_seconds_total{job="coollm"}': "0+100x200", 'coo_llm_workers{job="coollm"}': "2x200"},
        {'coo_llm_worker_cpu_seconds_total{job="coollm"}': "0+90x200", 'coo_llm_workers{job="coollm"}': "2x200"},
    ),
    "CoollmMemory": (
        30,
        memory("900x200"),
        memory("700x200"),
    ),
    "CoollmCertificateExpiry": (120, *hosts("coo_llm_certificate_expiry_timestamp_seconds", f"{13 * DAY}x200", f"{90 * DAY}x200")),
    "CoollmKeyAge": (120, *both("coo_llm_key_age_seconds", '{provider="a",key="k"}', f"{91 * DAY}x200", f"{80 * DAY}x200")),
    "CoollmBackupAge": (3 * 1440, *hosts("coo_llm_backup_last_success_timestamp_seconds", "0x200", f"{2 * DAY}x200")),
    "CoollmDrillAge": (17 * 1440, *hosts("coo_llm_backup_last_drill_timestamp_seconds", "0x500", f"{10 * DAY}x500")),
    "CoollmConfigDrift": (120, *hosts("coo_llm_config_drift", "1x200", "0x200")),
    "CoollmMixedGenerations": (30, generations("8x200"), generations("7x200")),
    "CoollmClientsRefused": (60, *both("coo_llm_rate_limits_total", '{scope="client"}', "0+120x200", "0+10x200")),
    "CoollmAdminRefused": (60, *both("coo_llm_admin_rate_limits_total", "", "0+5x200", "0+1x200")),
}


def test_every_alert_has_its_cases_a_severity_and_a_runbook() -> None:
    assert set(CASES) == set(BY_NAME)
    assert {alert.severity for alert in ALERTS} == set(SEVERITIES)
    for alert in ALERTS:
        assert alert.remedy, alert.name
        assert "coollm" in alert.remedy, "something to do"


def promtool(tmp_path: Path, tests: list[dict[str, Any]], step: str) -> subprocess.CompletedProcess[str]:
    for name, text in rendered(["127.0.0.1:2906"], "http://127.0.0.1:9/", "/var/log/coo-llm").items():
        (tmp_path / name).write_text(text)
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": [RULES], "evaluation_interval": step, "tests": tests}, width=10_000))
    return subprocess.run(["promtool", "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)


def case(name: str, minutes: int, series: Series, fires: int, step: str) -> dict[str, Any]:
    query = f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)'
    return {
        "interval": step,
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [{"expr": query, "eval_time": f"{minutes}m", "exp_samples": [{"labels": "{}", "value": fires}]}],
    }


@pytest.mark.parametrize(
    ("step", "names"), [("1m", [name for name in CASES if CASES[name][0] < LONG]), ("1h", [name for name in CASES if CASES[name][0] >= LONG])]
)
def test_alerts(step: str, names: list[str], tmp_path: Path) -> None:
    right = [case(name, CASES[name][0], series, fires, step) for name in names for series, fires in zip(CASES[name][1:], (1, 0), strict=True)]
    done = promtool(tmp_path, right, step)
    assert done.returncode == 0, done.stdout + done.stderr
    # The tests themselves can fail: each of them, where the opposite is asked for.
    wrong = [case(name, CASES[name][0], series, fires, step) for name in names for series, fires in zip(CASES[name][1:], (0, 1), strict=True)]
    done = promtool(tmp_path, wrong, step)
    told = done.stdout + done.stderr
    assert done.returncode != 0
    for name in names:
        assert told.count(f'alertname=\\"{name}\\"') + told.count(f'alertname="{name}"') >= 2, name


def test_the_command_writes_what_the_tools_take_and_explains_alerts(tmp_path: Path) -> None:
    environment = clean_environment(HOME=str(tmp_path))
    dry = coollm("monitoring", "render", "out", "--dry-run", cwd=tmp_path, environment=environment)
    assert dry.returncode == 0, dry.stderr
    assert not (tmp_path / "out").exists()
    done = coollm("monitoring", "render", "out", "--target", "gw1:2906", "--target", "gw2:2906", cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((tmp_path / "out" / PROMETHEUS).read_text())["scrape_configs"][0]["static_configs"][0]["targets"] == ["gw1:2906", "gw2:2906"]
    again = coollm("monitoring", "render", "out", "--target", "gw1:2906", "--target", "gw2:2906", "--quiet", cwd=tmp_path, environment=environment)
    assert (again.returncode, again.stdout) == (0, "")
    checked = coollm("monitoring", "check", "out", cwd=tmp_path, environment=environment)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    routes = yaml.safe_load((tmp_path / "out" / ALERTMANAGER).read_text())["route"]["routes"]
    assert [route["receiver"] for route in routes] == list(SEVERITIES)
    rules = (tmp_path / "out" / RULES).read_text()
    (tmp_path / "out" / RULES).write_text(rules.replace("histogram_quantile", "histogram_quantum"))
    broken = coollm("monitoring", "check", "out", cwd=tmp_path, environment=environment)
    assert broken.returncode == 4
    assert "histogram_quantum" in broken.stdout
    unreachable = coollm("monitoring", "check", "out", "--prometheus", "http://127.0.0.1:9", cwd=tmp_path, environment=environment)
    assert unreachable.returncode == 5
    told = coollm("explain", "CoollmDown", cwd=tmp_path, environment=environment)
    assert BY_NAME["CoollmDown"].remedy in told.stdout
    assert "CoollmDown" in coollm("explain", "CoollmDwn", cwd=tmp_path, environment=environment).stderr
