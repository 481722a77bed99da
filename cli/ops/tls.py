"""The gateway's certificate: what is in its file, what the gateway really serves, and putting another one in its place while it runs."""

from __future__ import annotations

import os
import socket
import ssl
import time
from pathlib import Path
from typing import Any

from coollm_cli.ops import host
from coollm_cli.ops.journal import Entry
from coollm_cli.ops.operation import Plan, Step
from coollm_cli.ops.secrets import need_owner
from coollm_cli.ops.times import day

from coollm.core.certificates import WARN_DAYS, Certificate, check_pair, read_certificate, read_der, read_file, self_signed
from coollm.core.config.generations import Generations
from coollm.core.config.load import load
from coollm.core.config.schema import Settings, Tls
from coollm.core.errors import ConfigurationError, OperationFailed, UsageError
from coollm.core.files import replace_file
from coollm.core.paths import admin_directory, is_installed, make_private

DAY_SECONDS = 86400
SERVED_SECONDS = 10.0
LOOK_SECONDS = 0.2
EVERY_WORKER_SECONDS = 1.5
"""Each worker looks for another certificate once a second, and any of them may answer: when it is served for so long, all of them have it."""

CONNECT_SECONDS = 5.0
CHAIN, KEY = "fullchain.pem", "privkey.pem"
"""As certbot names them (https://eff-certbot.readthedocs.io/en/stable/using.html#where-are-my-certificates)."""

LINEAGE = "RENEWED_LINEAGE"
"""Where certbot tells its deploy hooks that the renewed files are."""


def tls_of(config: Path, state: Path) -> tuple[Settings, Tls]:
    """The settings in force, and the certificate's files in them. Raises OperationFailed where the gateway speaks no TLS."""
    effective = Generations(config, state).effective()
    loaded = load(config, content=effective.file if effective else None, state=state)
    if loaded.settings is None:
        raise ConfigurationError(loaded.faults)
    if loaded.settings.server.tls is None:
        raise OperationFailed(
            "the gateway speaks no TLS itself", "add server.tls: {cert_file: …, key_file: …}; coollm tls renew --self-signed makes a first pair"
        )
    return loaded.settings, loaded.settings.server.tls


def status(config: Path, state: Path) -> tuple[dict[str, Any], list[str]]:
    """What there is, and what is wrong with it."""
    settings, tls = tls_of(config, state)
    found = read_certificate(read_file(Path(tls.cert_file)), tls.cert_file)
    days = (found.ends - time.time()) / DAY_SECONDS
    faults = []
    if days < 0:
        faults.append(f"it ended {-days:.0f} days ago")
    elif days < WARN_DAYS:
        faults.append(f"it ends in {days:.0f} days")
    if os.access(tls.key_file, os.R_OK):
        try:
            check_pair(read_file(Path(tls.cert_file)), read_file(Path(tls.key_file)), tls.cert_file)
        except OperationFailed as error:
            faults.append(error.message)
    served = served_now(settings)
    if served is None:
        faults.append("nothing serves it now")
    elif served.fingerprint != found.fingerprint:
        faults.append(f"another one is served, which ends {day(served.ends)}")
    told = {
        "file": tls.cert_file,
        "subject": found.subject,
        "issuer": found.issuer,
        "self_signed": found.is_self_signed,
        "names": list(found.names),
        "begins": found.begins,
        "ends": found.ends,
        "days": round(days, 1),
        "fingerprint": found.fingerprint,
        "served_fingerprint": served.fingerprint if served else None,
        "min_version": tls.min_version,
        "client_certificates": tls.client_certificates if tls.client_ca_file else "none",
        "faults": faults,
    }
    return told, faults


def served_now(settings: Settings) -> Certificate | None:
    """What a client of the gateway is shown; None if nothing answers with TLS."""
    listen = settings.server.listen
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what is served is looked at, whatever it is
    try:
        with socket.create_connection((listen.reachable_host, listen.port), CONNECT_SECONDS) as plain, context.wrap_socket(plain) as wrapped:
            der = wrapped.getpeercert(binary_form=True)
        return read_der(der) if der else None
    except (OSError, ValueError):
        return None


def renew_plan(config: Path, state: Path, source: Path | None, names: tuple[str, ...] | None) -> Plan:
    """Puts another pair in the place of the files: from a directory as certbot leaves it, or signed by itself for `names`."""
    need_owner(config)
    _, tls = tls_of(config, state)
    chain_file = Path(tls.cert_file)
    kept = admin_directory(config, state) / "tls"
    if names is not None:
        chain, key = self_signed(names)
    else:
        directory = source or (Path(os.environ[LINEAGE]) if os.environ.get(LINEAGE) else None)
        if directory is None:
            raise UsageError(
                "where the new pair is was not said", f"--from DIR with {CHAIN} and {KEY}, or --self-signed; certbot's deploy hooks have ${LINEAGE}"
            )
        chain, key = read_file(directory / CHAIN), read_file(directory / KEY)
        check_pair(chain, key, str(directory))
    new = read_certificate(chain, str(source or "the new one"))
    if new.ends < time.time():
        raise OperationFailed(f"the new certificate ended {day(new.ends)}", "renew it at whoever signs it")
    notes = [f"new: {new.subject}, for {', '.join(new.names) or 'no host'}, until {day(new.ends)}"]
    if chain_file.exists():
        old = read_certificate(read_file(chain_file), tls.cert_file)
        notes.insert(0, f"now: {old.subject}, until {day(old.ends)}")
        if old.fingerprint == new.fingerprint:
            return Plan("tls", {}, (), nothing=f"{tls.cert_file} is this certificate already")
        missing = [name for name in old.names if name not in new.names]
        if missing:
            notes.append(f"the new one is not for {', '.join(missing)}: clients that ask for these will refuse it")
    # The journal names the copies and holds no key.
    make_private(kept.parent)
    make_private(kept)
    stamp = new.fingerprint[:16]
    replace_file(kept / f"{stamp}.{CHAIN}", chain)
    replace_file(kept / f"{stamp}.{KEY}", key)
    parameters = {"config": str(config), "state": str(state), "chain": tls.cert_file, "key": tls.key_file, "kept": str(kept), "stamp": stamp}
    return Plan("tls", parameters, steps(parameters), notes)


def steps(parameters: dict[str, Any]) -> list[Step]:
    """Steps of `tls renew`."""
    config, kept = Path(parameters["config"]), Path(parameters["kept"])
    files = {CHAIN: Path(parameters["chain"]), KEY: Path(parameters["key"])}

    def keep(_: Entry) -> None:
        for name, path in files.items():
            if path.exists():
                replace_file(kept / f"before.{name}", path.read_bytes())

    def put(prefix: str) -> None:
        for name, path in files.items():
            copy = kept / f"{prefix}.{name}"
            if copy.exists():
                _write(path, copy.read_bytes(), config, is_key=name == KEY)

    def served(entry: Entry) -> None:
        _wait_until_served(entry, config, Path(parameters["state"]))
        for name in files:
            (kept / f"{parameters['stamp']}.{name}").unlink(missing_ok=True)
            (kept / f"before.{name}").unlink(missing_ok=True)

    return [
        Step("keep", "keep a copy of the pair that is there", keep),
        Step("put", f"write {files[CHAIN]} and {files[KEY]}", lambda _: put(parameters["stamp"]), lambda _: put("before")),
        Step("served", "wait until the gateway serves it", served),
    ]


def _wait_until_served(entry: Entry, config: Path, state: Path) -> None:
    """Raises OperationFailed if a gateway that runs does not serve the new certificate in time."""
    settings, tls = tls_of(config, state)
    new = read_certificate(read_file(Path(tls.cert_file)), tls.cert_file)
    ends = time.monotonic() + SERVED_SECONDS
    found, since = served_now(settings), time.monotonic()
    while host.live_workers(config) and time.monotonic() - since < EVERY_WORKER_SECONDS:
        if found is None or found.fingerprint != new.fingerprint:
            since = time.monotonic()
        if time.monotonic() >= ends:
            raise OperationFailed(f"the gateway does not serve the new certificate within {SERVED_SECONDS:.0f} s", "coollm logs --level error says why")
        time.sleep(LOOK_SECONDS)
        found = served_now(settings)
    entry.kept["told"] = {"file": tls.cert_file, "ends": new.ends, "fingerprint": new.fingerprint, "served": found is not None}
    entry.kept["lines"] = [f"{tls.cert_file}: until {day(new.ends)}" + ("" if found else "; nothing serves it now")]


def _write(path: Path, content: bytes, config: Path, *, is_key: bool) -> None:
    """With the owner and the mode of what was there; a first key is for the gateway's user alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o640 if is_key else 0o644
        replace_file(path, content, mode=mode, like=path if path.exists() else config if is_installed(config) else None)
    except OSError as error:
        raise OperationFailed(f"{path}: cannot be written: {error.strerror}") from error
