"""The configuration, for the administrator: read so that it can be given back as it is, checked, and applied in every worker without a restart."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import yaml
from flask import Response, current_app, g, request

from coollm.api.answers import json_response
from coollm.api.body import parse_body, read_body
from coollm.api.fields import whole
from coollm.api.routes import Access, Route
from coollm.changeover import CHANGEOVER
from coollm.core.config.difference import differences
from coollm.core.config.explain import Explained, explain_all, plain
from coollm.core.config.faults import Fault
from coollm.core.config.generations import SHORTEST_CONFIRM_SECONDS, Generations
from coollm.core.config.load import Loaded, load
from coollm.core.config.placeholders import with_secrets, with_section, without_secrets
from coollm.core.config.values import Duration
from coollm.core.errors import GatewayFault, InvalidRequest
from coollm.core.paths import find_config
from coollm.core.types import Json
from coollm.ledger.threads import in_thread
from coollm.services import Services


def read(services: Services) -> Response:
    """The configuration in force: YAML, or JSON where that is asked for. Secrets that stand in it in clear are placeholders, which this gateway takes back."""
    text = in_thread(lambda: without_secrets(_config(), _in_force(services), services.state))
    if request.accept_mimetypes.best_match(["application/yaml", "application/json"]) == "application/json":
        return json_response(yaml.safe_load(text) or {})
    return Response(text, mimetype="application/yaml")


def apply(services: Services) -> Response:
    """Validates a configuration, YAML or JSON, and puts it in force in every worker. `?confirm_within=5m` lets it revert unless the host confirms it."""
    return _apply(services, _text_of(services), "the admin API")


def validate(services: Services) -> Response:
    """Every fault of a configuration, each with line and column: {"valid", "errors", "warnings"}, and as "changes" the lines in which it differs."""
    loaded, content = _check(services, _text_of(services))

    def changes() -> list[str]:
        before = _in_force(services).read_text("utf-8-sig")
        return list(differences(before, content.decode(), services.settings, loaded.settings))

    return json_response({**_told(loaded), "changes": in_thread(changes) if loaded.settings is not None else []})


def effective(services: Services) -> Response:
    """Every value in force, with where it came from. Secrets are masked."""

    def explain() -> list[Explained]:
        loaded = load(_config(), content=_in_force(services), state=services.state)
        return explain_all(loaded) if loaded.settings is not None else []

    return json_response({"values": [msgspec.structs.asdict(row) for row in in_thread(explain)]})


def history(services: Services) -> Response:
    """Every generation that is kept, the newest first; and how long the one in force stays so unless it is confirmed."""
    generations = Generations(_config(), services.state)
    pointer = generations.pointer()
    now = time.time()
    seconds = pointer.revert_at - now if pointer is not None and pointer.revert_at is not None and pointer.is_unconfirmed(now) else None
    return json_response({"generations": in_thread(generations.listed), "reverts_in_seconds": None if seconds is None else round(seconds, 1)})


def rollback(services: Services) -> Response:
    """Puts an earlier generation in force again: {"generation"}, by default the one before. `?confirm_within=5m` as with another configuration."""
    asked = parse_body(read_body(services, g.exchange) or b"{}")
    generations = Generations(_config(), services.state)
    kept = in_thread(generations.all)
    now = generations.effective()
    number = whole(asked, "generation")
    if number is None:
        number = next((one.number for one in kept if now is not None and one.number < now.number), None)
    target = next((one for one in kept if one.number == number), None)
    if now is None or target is None:
        known = ", ".join(str(one.number) for one in kept) or "none was applied yet"
        raise InvalidRequest(f"there is no such generation to go back to; kept: {known}", param="generation", code="generation_not_found")
    if target.number == now.number:
        return json_response({"generation": now.number, "changed": False})
    text = in_thread(lambda: target.file.read_text("utf-8-sig"))
    return _apply(services, text, f"back to generation {target.number}, over the admin API")


def confirm(services: Services) -> Response:
    """Keeps a generation that would revert."""
    generations = Generations(_config(), services.state)
    pointer = generations.pointer()
    if pointer is None or not pointer.is_unconfirmed(time.time()):
        raise InvalidRequest("no generation waits to be confirmed: it is, or it has reverted", code="nothing_to_confirm", status=409)
    generations.set(pointer.number, pointer.previous)
    current_app.extensions[CHANGEOVER].look()
    g.changed = {"generation": pointer.number}
    return json_response({"generation": pointer.number, "confirmed": True})


def policy(services: Services) -> Response:
    """The routing policy in force, defaults included."""
    return json_response(plain(services.settings.policy))


def apply_policy(services: Services) -> Response:
    """Puts another routing policy in force; what it does not name has its default."""
    asked = parse_body(read_body(services, g.exchange))
    text = in_thread(lambda: _in_force(services).read_text("utf-8-sig"))
    return _apply(services, with_section(text, "policy", asked), "the policy, over the admin API")


def reload(services: Services) -> Response:
    """Reads the configuration's own file, and puts it in force if it is another."""
    config = _config()
    try:
        text = in_thread(lambda: config.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise GatewayFault(f"{config.name} cannot be read: {reason}", status=503, code="configuration_unreadable") from error
    return _apply(services, text, "reload, over the admin API")


def _apply(services: Services, text: str, reason: str) -> Response:
    confirm_seconds = _confirm_seconds()
    loaded, content = _check(services, text)
    if loaded.settings is None:
        refused = InvalidRequest(f"the configuration is invalid: {loaded.faults[0].path}: {loaded.faults[0].message}", code="configuration_invalid")
        error = {"message": services.redact(refused.message), "type": refused.type, "param": None, "code": refused.code}
        return json_response({"error": error, **_told(loaded)}, 400)
    generations = Generations(_config(), services.state)
    before = generations.effective()
    by = g.exchange.principal.name
    if before is not None and before.file.read_bytes() == content:
        return json_response({"generation": before.number, "changed": False})
    most, oldest = loaded.settings.backup.keep.kept_generations(time.time())
    made = in_thread(lambda: generations.add(content, by, reason, most, oldest))
    generations.set(made.number, before.number if before else None, time.time() + confirm_seconds if confirm_seconds else None)
    changeover = current_app.extensions[CHANGEOVER]
    changeover.look()
    if changeover.refused is not None and changeover.refused[0] == made.number:
        why = changeover.refused[2]
        if before is not None:
            generations.set(before.number)
        else:
            generations.pointer_file.unlink(missing_ok=True)
        changeover.look()
        raise InvalidRequest(f"the configuration cannot be served: {why}", code="configuration_refused")
    g.changed = {"generation": made.number, "before": before.digest if before else None, "after": made.digest}
    return json_response({"generation": made.number, "changed": True, "reverts_in_seconds": confirm_seconds})


def _check(services: Services, text: str) -> tuple[Loaded, bytes]:
    config = _config()

    def check() -> tuple[Loaded, bytes]:
        whole = with_secrets(text, config, _in_force(services), services.state).encode()
        with tempfile.NamedTemporaryFile(dir=services.state, prefix=".checked.", suffix=".yaml") as file:
            file.write(whole)
            file.flush()
            return load(config, content=Path(file.name), state=services.state), whole

    return in_thread(check)


def _told(loaded: Loaded) -> Json:
    def shown(faults: tuple[Fault, ...]) -> list[dict[str, Any]]:
        return [fault.as_json() | {"file": loaded.path.name} for fault in faults]

    return {"valid": not loaded.faults, "errors": shown(loaded.faults), "warnings": shown(loaded.warnings)}


def _text_of(services: Services) -> str:
    data = read_body(services, g.exchange)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidRequest("the configuration is not UTF-8 text") from None
    if not text.strip():
        raise InvalidRequest("the configuration is empty: send it as the body, YAML or JSON")
    return text


def _confirm_seconds() -> float | None:
    text = request.args.get("confirm_within")
    if text is None:
        return None
    try:
        seconds = float(Duration.parse(text))
    except ValueError as error:
        raise InvalidRequest(f"'confirm_within': {error}", param="confirm_within") from None
    if seconds < SHORTEST_CONFIRM_SECONDS:
        raise InvalidRequest(f"'confirm_within' is at least {SHORTEST_CONFIRM_SECONDS:.0f} s", param="confirm_within")
    return seconds


def _config() -> Path:
    return find_config().absolute()


def _in_force(services: Services) -> Path:
    effective = Generations(_config(), services.state).effective()
    return effective.file if effective else _config()


ROUTES = (
    Route("/admin/v1/config", ("GET",), Access.VIEWER, read, "admin_config"),
    Route("/admin/v1/config", ("POST", "PUT"), Access.ADMIN, apply, "admin_config_apply", changes=True),
    Route("/admin/v1/config/validate", ("POST",), Access.VIEWER, validate, "admin_config_validate"),
    Route("/admin/v1/config/effective", ("GET",), Access.VIEWER, effective, "admin_config_effective"),
    Route("/admin/v1/config/history", ("GET",), Access.VIEWER, history, "admin_config_history"),
    Route("/admin/v1/config/rollback", ("POST",), Access.ADMIN, rollback, "admin_config_rollback", changes=True),
    Route("/admin/v1/config/confirm", ("POST",), Access.ADMIN, confirm, "admin_config_confirm", changes=True),
    Route("/admin/v1/config/policy", ("GET",), Access.VIEWER, policy, "admin_config_policy"),
    Route("/admin/v1/config/policy", ("POST", "PUT"), Access.ADMIN, apply_policy, "admin_config_policy_apply", changes=True),
    Route("/admin/v1/reload", ("POST",), Access.OPERATOR, reload, "admin_reload", changes=True),
)
