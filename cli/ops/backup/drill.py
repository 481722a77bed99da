"""Proves a backup by restoring it: its databases are checked and counted, its configuration is validated with its own secrets, and a gateway is booted from it,
in front of simulated vendors, which no address but a local socket reaches. Clients of each kind ask it for an answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml
from coollm_cli.ops.backup.archive import Manifest
from coollm_cli.ops.backup.catalog import Found, choose
from coollm_cli.ops.backup.copies import ask
from coollm_cli.ops.backup.create import settings_in_force
from coollm_cli.ops.backup.encryption import Identity, read_identity
from coollm_cli.ops.backup.layout import Layout, own_master_key
from coollm_cli.ops.backup.names import this_host
from coollm_cli.ops.backup.opening import check_databases, known_note, remember, unpack, workplace
from coollm_cli.ops.backup.records import Records
from coollm_cli.ops.backup.target import Target, find_target
from coollm_cli.ops.gateway_client import GatewayClient
from coollm_cli.ops.host import host_of
from coollm_cli.ops.lock import actor
from coollm_cli.ops.operation import Host
from coollm_cli.ops.server import server_command

from coollm.core.backup_status import read_backup_status, write_backup_status
from coollm.core.config.load import SIMULATOR_URL
from coollm.core.config.schema import Settings
from coollm.core.errors import CheckFailed, CoollmError, OperationFailed, Unreachable
from coollm.core.instances import ADMIN_SOCKET, NOWHERE, Instance
from coollm.core.paths import is_installed

START_SECONDS = 60.0
END_SECONDS = 30.0
TOLD_SECONDS = 10.0
MOST_MODELS = 5
USER = "coollm"
WITHOUT_SIMULATOR = ("vertex", "bedrock")
"""Their keys are more than words: in a drill another dialect stands in for them."""

KEPT_SECTIONS = ("version", "api_keys", "teams", "model_limits", "model_aliases", "policy")


def drill(config: Path, state: Path, target: str | None, name: str | None, identity: Path | None) -> dict[str, Any]:
    """What came of it: {"ok", "id", "age_seconds", "seconds", "checks": [{"name", "ok", "detail"}]}. Raises CoollmError where there is nothing to drill."""
    settings = settings_in_force(config, state)
    file = identity or (Path(settings.backup.drill_identity_file) if settings.backup.drill_identity_file else None)
    keys = read_identity(file)
    place = find_target(settings.backup, config, state, target)
    found = _choose(place, name)
    ours = host_of(config, state)
    ours.audit.write(actor(), "backup-drill", state="begins", backup=found.name.text)
    began = time.monotonic()
    checks: list[dict[str, Any]] = []
    fault = ""
    try:
        with workplace(state / "drill", found.name.text) as work:
            for what, detail in _Drill(config, state, place, found, keys, work).steps():
                checks.append({"name": what, "ok": True, "detail": detail})
    except (CheckFailed, Unreachable) as error:
        fault = error.message
        checks.append({"name": "failed", "ok": False, "detail": error.message})
    seconds = round(time.monotonic() - began, 1)
    _note(ours, state, found, fault, seconds)
    return {"ok": not fault, "id": found.name.text, "age_seconds": round(time.time() - found.name.created), "seconds": seconds, "checks": checks}


def _choose(target: Target, name: str | None) -> Found:
    """The newest of this host, unless one is named."""
    return choose(target, name, host=None if name else this_host())


def _note(ours: Host, state: Path, found: Found, fault: str, seconds: float) -> None:
    records, name, now = Records(ours.directory), found.name.text, time.time()
    known = records.get(name)
    remember(records, name, msgspec.structs.replace(known, drilled=now, drill_fault=fault, drill_seconds=seconds))
    status = read_backup_status(state)
    if fault:
        status = msgspec.structs.replace(status, drill_failed=now, drill_fault=fault)
    else:
        status = msgspec.structs.replace(status, drill=now, drilled=name, drill_seconds=seconds)
    try:
        write_backup_status(state, status)
    except OSError as error:
        raise OperationFailed(f"{state}: cannot be written: {error.strerror}", "make room on its disk") from error
    ours.audit.write(actor(), "backup-drill", state="failed" if fault else "done", backup=name, seconds=seconds, **({"reason": fault} if fault else {}))


class _Drill:
    """One drill, in the directory `work`."""

    def __init__(self, config: Path, state: Path, target: Target, found: Found, identity: Identity, work: Path) -> None:
        self.config, self.state, self.target, self.found, self.identity = config, state, target, found, identity
        self.tree, self.home = work / "tree", work / "host"
        self.work = work

    def steps(self) -> Iterator[tuple[str, str]]:
        """Each check with what it found. Raises CheckFailed at the first that fails."""
        note = known_note(self.target, self.found.name.text, Records(host_of(self.config, self.state).directory))
        manifest = unpack(self.target, note, self.identity, self.tree)
        yield "archive", f"{len(manifest.files)} files, each as the manifest says"
        check_databases(self.config, self.state, self.tree, manifest)
        yield "databases", f"sound; {manifest.rows.get('usage', 0)} requests, {manifest.rows.get('clients', 0)} clients, as the manifest says"
        layout = Layout(self.home, self.tree, manifest)
        loaded = layout.make()
        if loaded.settings is None:
            fault = str(loaded.faults[0]).replace(f"{self.home}/", "")
            raise CheckFailed(f"its configuration is not valid: {fault}")
        yield "configuration", f"generation {manifest.generation} is valid, with its own secrets"
        yield "gateway", self._boot(layout, loaded.settings, manifest)

    def _boot(self, layout: Layout, settings: Settings, manifest: Manifest) -> str:
        guest = None
        if manifest.ledger is not None:
            with own_master_key():
                guest = ask(layout.config, layout.state, "guest", self.tree)["guest"]
            shutil.move(self.tree / "ledger" / "ledger.sqlite", layout.state / "ledger.sqlite")
        layout.config.write_text(_simulated(layout.config.read_text("utf-8"), settings), "utf-8")
        visitors = [(client.client_id, client.key.reveal(), "configuration") for client in settings.api_keys if not _has_expired(client)][:1]
        if guest is not None:
            visitors.append((guest["id"], guest["key"], "ledger"))
        with self._running(layout) as client:
            if not visitors:
                return "it boots; there is no client whose key could be tried"
            served = [f"'{name}' of the {kind}" for name, key, kind in visitors if self._is_served(client, layout, name, key)]
        return f"it boots, and answers {' and '.join(served)}"

    @contextlib.contextmanager
    def _running(self, layout: Layout) -> Iterator[GatewayClient]:
        """A gateway of the backup, as the gateway's own user where there is one."""
        run = Path(tempfile.mkdtemp(prefix="coollm-drill-", dir="/tmp"))
        user = _user(self.config)
        if user is not None:
            _give(user, run, self.work)
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "HOME")}
        told = {"COOLLM_CONFIG": str(layout.config), "COOLLM_STATE_DIR": str(layout.state), "COOLLM_RUN_DIR": str(run), "COOLLM_LISTEN": NOWHERE}
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user is not None else {}
        words = self.work / "words.txt"
        try:
            with words.open("wb") as file:
                environment = {**kept, **told, "COOLLM_WORKERS": "1"}
                options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file, "cwd": run, "env": environment, **who}
                process: subprocess.Popen[bytes] = subprocess.Popen(server_command(), **options)  # noqa: S603  our own interpreter
            try:
                client = GatewayClient(instance=Instance(NOWHERE, run / NOWHERE / ADMIN_SOCKET, process.pid, str(layout.config), time.time(), ""))
                _wait(process, client, words)
                yield client
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(END_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        finally:
            shutil.rmtree(run, ignore_errors=True)

    def _is_served(self, client: GatewayClient, layout: Layout, name: str, key: str) -> bool:
        """Sends a request with a client's key; the usage log has to know it as that client's. Raises CheckFailed."""
        asking = GatewayClient(instance=client.instance, key=key)
        reply = asking.get("/v1/models")
        models = [row["id"] for row in reply.body.get("data", ())] if isinstance(reply.body, dict) else []
        if reply.status != 200 or not models:
            raise CheckFailed(f"the client '{name}' is refused by the gateway of the backup (status {reply.status})")
        for model in models[:MOST_MODELS]:
            answer = asking.post("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "drill"}], "max_tokens": 8})
            if answer.status == 200 and _told_of(layout, answer.headers.get("x-request-id", "")) == name:
                return True
        raise CheckFailed(f"the client '{name}' gets no answer from the gateway of the backup (status {answer.status})")


def _told_of(layout: Layout, request_id: str) -> str | None:
    """Whose request the usage log says it was."""
    ends = time.monotonic() + TOLD_SECONDS
    log = layout.state / "logs" / "usage.log"
    while time.monotonic() < ends:
        with contextlib.suppress(FileNotFoundError, ValueError):
            for line in log.read_text("utf-8").splitlines():
                told = json.loads(line)
                if told.get("request_id") == request_id:
                    return str(told.get("client"))
        time.sleep(0.1)
    return None


def _wait(process: subprocess.Popen[bytes], client: GatewayClient, words: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends and process.poll() is None:
        with contextlib.suppress(CoollmError):
            if client.get("/ready").status == 200:
                return
        time.sleep(0.05)
    said = " ".join(words.read_text("utf-8", "replace").split())[-300:]
    raise CheckFailed(f"a gateway does not boot from it: {said or 'it said nothing'}")


def _simulated(text: str, settings: Settings) -> str:
    """The configuration with simulated vendors, and without what would reach beyond its directory."""
    told = yaml.safe_load(text) or {}
    kept = {name: told[name] for name in KEPT_SECTIONS if told.get(name)}
    for client in kept.get("api_keys", ()):
        client.pop("allowed_addresses", None)
        client.pop("limits", None)
    providers = []
    for one in settings.llm_providers:
        providers.append(
            {
                "id": one.id,
                "type": "openai" if one.type in WITHOUT_SIMULATOR else one.type,
                "base_url": SIMULATOR_URL,
                "api_keys": ["sk-drill"],
                **({"model": one.model} if one.model else {}),
                **({"models": list(one.models)} if one.models else {}),
                **({"pricing": msgspec.to_builtins(one.pricing)} if one.pricing else {}),
            }
        )
    return yaml.safe_dump({**kept, "llm_providers": providers, "storage": {"runtime": {"type": "sqlite"}}}, sort_keys=False, allow_unicode=True)


def _has_expired(client: Any) -> bool:
    return client.expires_at is not None and client.expires_at.timestamp() <= time.time()


def _user(config: Path) -> pwd.struct_passwd | None:
    if os.getuid() != 0 or not is_installed(config):
        return None
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        return None


def _give(user: pwd.struct_passwd, *places: Path) -> None:
    for place in places:
        for folder, _, names in os.walk(place):
            os.chown(folder, user.pw_uid, user.pw_gid)
            for name in names:
                os.chown(Path(folder) / name, user.pw_uid, user.pw_gid, follow_symlinks=False)
