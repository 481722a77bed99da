"""Faults of every kind, seeded on an installed host one after the other: `doctor` or `explain` names the cause of each, with what mends it, and that does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.host.conftest import BOOTSTRAP, CONFIG, Installed, put_hook
from tests.host.hosts import TestHost
from tests.host.machines import RELEASES, WHEELHOUSE

pytestmark = pytest.mark.timeout(1800)

# A host of the tests has no NTP, and shares kernel settings with this machine.
OF_THE_MACHINE = {"clock", "backlog", "local-ports", "log-rotation", "overcommit"}

APPLY = "coollm config apply --yes"
KILLED = f"PYTHONPATH={RELEASES}/kill KILL_AT=4"
REDIS = "mkdir -p /srv/redis; systemd-run --unit=redis-own redis-server --port 6390 --appendonly yes --dir /srv/redis"
# One that is trusted at once, as on a host that never had another.
ANOTHER_STORE = "coollm stop --yes && rm -f /var/lib/coollm/store.identity && coollm start --yes"
SMALL = "mount -t tmpfs -o size=600m,nr_inodes=300,uid=coollm,gid=coollm,mode=750 tmpfs /var/log/coo-llm"


class Fault(NamedTuple):
    """`told` is a part of what the finding, or `explain CODE`, says is to be done, and `mend` that command with its arguments. `clean` puts back what else the
    fault needed.
    """

    name: str
    code: str
    seed: str
    told: str
    mend: str
    clean: str = ""


def config(**sections: str) -> str:
    """The configuration of these tests with other sections."""
    text = CONFIG
    for name, value in sections.items():
        text = re.sub(rf"(?m)^{name}:.*\n(?:[ -].*\n)*", "", text) + f"{name}: {value}\n"
    return text


FAULTS = (
    Fault("keys stand in clear", "secrets-in-clear", "true", "coollm secrets import", "coollm secrets import --yes"),
    Fault("no backup", "backup", "true", "coollm backup create", "coollm backup create --yes"),
    Fault("no drill", "drill", "true", "coollm backup drill", "coollm backup drill"),
    Fault(
        "a backup that is damaged",
        "drill",
        "f=$(ls -t /var/backups/coollm/*.age | head -1); head -c 64 /dev/zero | dd of=$f bs=1 seek=4000 conv=notrunc; coollm backup drill; true",
        "another backup",
        "sleep 1; coollm backup create --yes && coollm backup drill",
    ),
    Fault("a unit was edited", "unit-drift", "echo '# x' >>/etc/systemd/system/coollm.slice", "sudo coollm install", "coollm install --yes"),
    Fault("the environment is for all to read", "permissions", "chmod 644 /etc/coollm/environment", "chmod 0600", "chmod 0600 /etc/coollm/environment"),
    Fault("the state is for all to read", "permissions", "chmod 755 /var/lib/coollm", "chmod 0700", "chmod 0700 /var/lib/coollm"),
    Fault("the master key is for all to read", "permissions", "chmod 644 /etc/coollm/master.key", "chmod 0600", "chmod 0600 /etc/coollm/master.key"),
    Fault("the master key is gone", "master-key", "mv /etc/coollm/master.key /srv/kept", "put back the copy", "mv /srv/kept /etc/coollm/master.key"),
    Fault("the file was edited", "config-drift", "echo '# x' >>/etc/coollm/config.yaml", "coollm config apply", f"{APPLY} /etc/coollm/config.yaml"),
    Fault(
        "an unknown key",
        "config",
        "echo 'nonsense: 1' >>/etc/coollm/config.yaml",
        "coollm config rollback N",
        "coollm config rollback $(coollm status --json | jq '.instances[0].generation') --yes",
    ),
    Fault(
        "a secret that is not there",
        "config",
        """echo 'logging: {level: "${secret:nowhere}"}' >>/etc/coollm/config.yaml""",
        "secrets set nowhere",
        f"echo info | coollm secrets set nowhere --yes && {APPLY} /etc/coollm/config.yaml",
        f"{APPLY} /srv/before.yaml",
    ),
    Fault("an instance is down", "instance", "systemctl stop coollm-admin@2.socket; systemctl stop coollm@2", "coollm status", "coollm start --yes"),
    Fault("the address is closed", "socket", "systemctl stop coollm.socket", "coollm start", "coollm start --yes"),
    Fault("an instance stays drained", "drained", "coollm drain 2 --yes", "coollm undrain", "coollm undrain 2 --yes"),
    Fault("a timer is off", "timers", "systemctl disable --now coollm-maintenance-daily.timer", "sudo coollm install", "coollm install --yes"),
    Fault(
        "few descriptors",
        "descriptors",
        "d=/etc/systemd/system/coollm@.service.d; printf '[Service]\\nLimitNOFILE=1024\\n' >$d/60-own.conf; systemctl daemon-reload; coollm restart --yes",
        "LimitNOFILE=65536",
        "sed -i s/1024/65536/ /etc/systemd/system/coollm@.service.d/60-own.conf; systemctl daemon-reload; coollm restart --yes",
        "rm /etc/systemd/system/coollm@.service.d/60-own.conf; systemctl daemon-reload",
    ),
    Fault(
        "systemd kills too early",
        "timeouts",
        "d=/etc/systemd/system/coollm@.service.d; printf '[Service]\\nTimeoutStopSec=15\\n' >$d/60-own.conf; systemctl daemon-reload",
        "change the one that the finding names",
        "rm /etc/systemd/system/coollm@.service.d/60-own.conf; systemctl daemon-reload",
    ),
    Fault(
        "time-outs that contradict each other",
        "timeouts",
        f"{APPLY} /srv/timeouts.yaml",
        "change the one that the finding names",
        f"{APPLY} /srv/before.yaml",
    ),
    Fault(
        "a certificate that ends",
        "certificate",
        f"{APPLY} /srv/tls.yaml && coollm restart --yes",
        "coollm tls renew",
        "coollm tls renew --self-signed --name localhost --yes",
    ),
    Fault(
        "a certificate that is gone",
        "certificate",
        "rm /srv/tls/cert.pem",
        "coollm tls renew",
        "coollm tls renew --self-signed --name localhost --yes",
        f"{APPLY} /srv/before.yaml && coollm restart --yes",
    ),
    Fault(
        "a vendor key that was revoked",
        "vendor-key",
        f"{APPLY} /srv/revoked.yaml; for i in 1 2 3 4 5 6 7 8; do coollm chat --model openai:gpt-sim hello; done; true",
        "coollm keys rotate PROVIDER KEY_ID",
        "id=$(coollm keys list --json | jq -r '.keys[] | select(.cause == \"key_rejected\") | .key' | head -1); "
        "echo sk-new-one | coollm keys rotate openai $id --soak 0 --quiet-for 1s --model gpt-sim --yes",
    ),
    Fault("a retired key is still configured", "key-retired", "true", "take it out there, coollm config apply", f"{APPLY} /srv/without.yaml"),
    Fault(
        "a rotation was broken off",
        "key-unfinished",
        f"id=$(coollm keys list --json | jq -r '.keys[0].key'); echo sk-another | {KILLED} coollm keys rotate openai $id --soak 1m --model gpt-sim --yes; true",
        "coollm keys rotate --resume, or --abort",
        "coollm keys rotate --abort --yes",
    ),
    Fault(
        "a change was killed",
        "unfinished",
        f"{KILLED} coollm scale 3 --yes; true",
        "give the same command again",
        "coollm scale 3 --yes",
        "coollm scale 2 --yes",
    ),
    Fault(
        "a configuration that nobody confirmed",
        "unconfirmed",
        f"{APPLY} /srv/more.yaml --confirm-within 10m",
        "coollm config confirm",
        "coollm config confirm --yes",
        f"{APPLY} /srv/before.yaml",
    ),
    Fault(
        "another program has the port",
        "port",
        "coollm stop --yes; setsid python3 -m http.server 2906 >/dev/null 2>&1 </dev/null & sleep 1",
        "ss -ltnp shows which; stop it",
        "kill $(ss -ltnpH 'sport = :2906' | grep -o 'pid=[0-9]*' | head -1 | cut -d= -f2); sleep 1; coollm start --yes",
    ),
    Fault("a disk that is full", "disk-space", f"{SMALL}; fallocate -l 590m /var/log/coo-llm/dump", "make room", "rm /var/log/coo-llm/dump"),
    Fault(
        "no inode is left",
        "inodes",
        "for i in $(seq 1 297); do : >/var/log/coo-llm/small-$i; done 2>/dev/null; true",
        "remove small files",
        "rm /var/log/coo-llm/small-*",
        "umount -l /var/log/coo-llm; sleep 2",
    ),
    Fault(
        "Redis is gone",
        "store",
        f"{REDIS}; sleep 1; {APPLY} /srv/redis.yaml && {ANOTHER_STORE} && coollm health && systemctl stop redis-own; sleep 1",
        "see to Redis",
        f"{REDIS}; sleep 3",
        f"{APPLY} /srv/before.yaml && {ANOTHER_STORE} && systemctl stop redis-own",
    ),
    Fault(
        "the audit log cannot be written",
        "audit-log",
        "cd /var/log/coo-llm; mv audit.log kept; mkdir audit.log; chown coollm: audit.log; coollm login nobody </dev/null; sleep 3; true",
        "audit.log",
        "cd /var/log/coo-llm; rm -rf audit.log; mv kept audit.log; chown coollm: /var/log/coo-llm/audit.log; sleep 3",
    ),
    Fault(
        "a line of the audit log was removed",
        "audit-fault",
        "cp -p /var/log/coo-llm/audit.log /srv/kept; sed -i 3d /var/log/coo-llm/audit.log; coollm audit verify; true",
        "put back the log of a backup",
        "cp -p /srv/kept /var/log/coo-llm/audit.log; coollm audit verify",
    ),
)

# What takes long to seed or to mend, or has a relative that does not: these in `scripts/soak` alone.
LONG = {
    "the state is for all to read",
    "a secret that is not there",
    "a timer is off",
    "few descriptors",
    "time-outs that contradict each other",
    "a certificate that ends",
    "a certificate that is gone",
    "a vendor key that was revoked",
    "a retired key is still configured",
    "a rotation was broken off",
    "a configuration that nobody confirmed",
    "another program has the port",
    "Redis is gone",
}
SHORT = tuple(fault for fault in FAULTS if fault.name not in LONG)


class Refused(NamedTuple):
    """A request that a client does not get answered: `explain ID` names the cause, and has what mends it."""

    code: str
    make: str
    told: str
    mend: str


REFUSED = (
    Refused("budget_exceeded", "coollm budget set client one --usd 0.000001 --yes", "coollm budget set", "coollm budget set client one --usd 100 --yes"),
    Refused(
        "rate_limit_exceeded", "coollm clients limit two --req-per-min 1 --yes", "coollm clients limit", "coollm clients limit two --req-per-min 1000 --yes"
    ),
    Refused(
        "model_not_allowed",
        "coollm clients update three --model other --yes",
        "coollm clients update ID --model",
        "coollm clients update three --model 'gpt-sim*' --yes",
    ),
    Refused(
        "expired_api_key",
        "coollm clients update four --expires 2026-01-01 --yes",
        "coollm clients update ID --expires",
        "coollm clients update four --expires none --yes",
    ),
)


@pytest.fixture(scope="module")
def patient(new_host: Callable[[], TestHost]) -> Installed:
    """A host of its own, with the files that the faults need."""
    host = new_host()
    host.run(BOOTSTRAP)
    host.run("mkdir -p /etc/coollm /srv/tls; /srv/bootstrap/bin/coollm backup keygen /srv/drill.key >/dev/null; chmod 600 /srv/drill.key")
    public = re.search(r"age1[a-z0-9]+", host.run("cat /srv/drill.key").stdout)
    assert public is not None
    backup = f"{{recipients: [{public[0]}], drill_identity_file: /srv/drill.key}}"
    host.write("/etc/coollm/config.yaml", config(backup=backup))
    host.run(f"/srv/bootstrap/bin/coollm install --wheelhouse {WHEELHOUSE} --yes")
    host.run("cd /srv/tls; openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=x 2>/dev/null; chmod 640 key.pem")
    return Installed(host)


def write_files(patient: Installed) -> None:
    """What the faults apply, made of the configuration in force, whose keys are in the secret store by then."""
    before = patient.host.run("cat /etc/coollm/config.yaml").stdout
    server = re.search(r"(?m)^server:\n", before)
    assert server is not None
    keys = re.search(r"(?m)^    api_keys: .*\n(?:      - .*\n)*", before)
    assert keys is not None
    more = {
        "timeouts": before + "policy:\n  timeouts: {first_byte: 20m}\n",
        "tls": before.replace("server:\n", "server:\n  tls: {cert_file: /srv/tls/cert.pem, key_file: /srv/tls/key.pem}\n", 1),
        "revoked": before.replace(keys[0], '    api_keys: ["sk-one", "sk-gone~status=401"]\n'),
        "before": before,
        "without": before.replace(keys[0], '    api_keys: ["sk-one"]\n'),
        "more": before + "model_aliases: {fast: 'openai:gpt-sim'}\n",
        "redis": before + "storage: {runtime: {type: redis, addr: '127.0.0.1:6390'}}\n",
    }
    for name, text in more.items():
        patient.host.write(f"/srv/{name}.yaml", text)


def findings(patient: Installed) -> dict[str, dict[str, Any]]:
    found = patient.json("doctor", check=False)["findings"]
    return {one["code"]: one for one in found if one["code"] not in OF_THE_MACHINE}


@pytest.mark.parametrize("faults", [pytest.param(SHORT, id="short"), pytest.param(FAULTS, id="all", marks=pytest.mark.soak)])
def test_every_fault_is_named_and_mended_as_it_says(patient: Installed, releases: Any, faults: tuple[Fault, ...]) -> None:
    put_hook(releases)
    host, missed = patient.host, []
    expected = {"secrets-in-clear", "backup"}
    assert set(findings(patient)) == expected
    for number, fault in enumerate(faults):
        seeded = host.run(fault.seed, check=False, timeout=300)
        found = findings(patient)
        named = found.get(fault.code)
        if named is None:
            missed.append(f"{fault.name}: not found, of {sorted(found)}; {seeded.stdout[-300:]} {seeded.stderr[-500:]}")
        else:
            said = (
                f"{named['what']} {named['remedy']} {patient.coollm('explain', fault.code).stdout} {patient.coollm('config', 'validate', check=False).stderr}"
            )
            if fault.told not in said:
                missed.append(f"{fault.name}: {fault.told!r} is not told in {said!r}")
        mended = host.run(fault.mend, check=False, timeout=300)
        left = findings(patient)
        if fault.code in left and left[fault.code]["what"] == (named or {}).get("what"):
            missed.append(f"{fault.name}: it is still there after `{fault.mend}`: {mended.stdout[-300:]} {mended.stderr[-500:]}")
        cleaned = host.run(fault.clean or "true", check=False, timeout=300)
        if cleaned.returncode != 0:
            missed.append(f"{fault.name}: `{fault.clean}` failed: {cleaned.stdout[-300:]} {cleaned.stderr[-500:]}")
        if number == 0:
            write_files(patient)
    assert not missed, "\n".join(missed)
    assert len(FAULTS) + len(REFUSED) >= 30
    assert {fault.name for fault in FAULTS} > LONG
    assert set(findings(patient)) <= {"secrets-in-clear"}, "the host is well again"


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.code)
def test_a_refused_request_explains_itself(patient: Installed, case: Refused) -> None:
    names = {"budget_exceeded": "one", "rate_limit_exceeded": "two", "model_not_allowed": "three", "expired_api_key": "four"}
    key = patient.json("clients", "create", names[case.code], "--yes")["key"]
    body = json.dumps({"model": "gpt-sim", "messages": [{"role": "user", "content": "hello"}]})
    curl = (
        f"curl -s -D - -o /dev/null -H 'authorization: Bearer {key}' -H 'content-type: application/json' -d '{body}' http://127.0.0.1:2906/v1/chat/completions"
    )
    patient.host.run(f"{case.make}; sleep 2; {curl}")
    refused = patient.host.run(curl).stdout.lower()
    assert " 200 " not in refused.splitlines()[0], refused
    request_id = re.search(r"x-request-id: (\S+)", refused)
    assert request_id is not None
    patient.host.run("sleep 1")
    told = patient.coollm("explain", request_id[1]).stdout
    assert f"error {case.code}:" in told
    assert case.told in told
    patient.host.run(f"{case.mend}; sleep 2")
    assert " 200 " in patient.host.run(curl).stdout.splitlines()[0]
