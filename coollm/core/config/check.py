"""Faults that one value alone does not show: references between sections, duplicates, pairs that belong together.

The checks read the tree and not the settings, so that they find their faults beside those of single values, in one run.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from zoneinfo import available_timezones

from coollm.core.config.document import Node
from coollm.core.config.faults import Fault
from coollm.core.registry import PROVIDERS, did_you_mean

Check = Callable[[Node], Iterator[Fault]]

NEEDS_BASE_URL = ("custom", "azure", "vllm", "bedrock", "vertex")

# Servers of one's own, and Bedrock, which takes the credentials of the host.
MAY_BE_KEYLESS = ("custom", "ollama", "vllm", "bedrock")
_URL = re.compile(r"https?://[^\s/@?#]+(?:/[^\s?#]*)?|simulator://")


def check(root: Node) -> list[Fault]:
    """The faults of all checks."""
    return [fault for one in CHECKS for fault in one(root)]


def _provider_types(root: Node) -> Iterator[Fault]:
    for index, provider in enumerate(_list(root, "llm_providers")):
        kind = provider.get("type")
        name = kind.text() if kind else None
        if kind and name is not None and name not in PROVIDERS:
            path = f"llm_providers[{index}].type"
            yield Fault(kind.place, path, f"unknown provider type '{name}'{did_you_mean(name, PROVIDERS)}", f"known: {', '.join(PROVIDERS)}")
        if name in NEEDS_BASE_URL and not provider.get("base_url"):
            yield Fault(provider.place, f"llm_providers[{index}].base_url", f"the type '{name}' has no address of its own: base_url is missing")
        keys = provider.get("api_keys")
        if name not in MAY_BE_KEYLESS and name in PROVIDERS and not _is_simulated(provider) and not (keys and (keys.value or keys.variables)):
            place = keys.place if keys else provider.place
            yield Fault(place, f"llm_providers[{index}].api_keys", f"the type '{name}' needs at least one key", 'add api_keys: ["${NAME}"]')


def _is_simulated(provider: Node) -> bool:
    url = provider.get("base_url")
    return bool(url and url.value == "simulator://")


def _base_urls(root: Node) -> Iterator[Fault]:
    for index, provider in enumerate(_list(root, "llm_providers")):
        url = provider.get("base_url")
        text = url.text() if url else None
        if url and text is not None and not _URL.fullmatch(text):
            yield Fault(
                url.place,
                f"llm_providers[{index}].base_url",
                f"expected http://… or https://… without user, query or fragment, got '{text}'",
            )


def _duplicates(root: Node) -> Iterator[Fault]:
    for section in ("llm_providers", "api_keys", "teams"):
        yield from _twice([(f"{section}[{index}].id", item.get("id")) for index, item in enumerate(_list(root, section))])
    fleet = root.get("fleet")
    for section in ("hosts", "load_balancers"):
        yield from _twice([(f"fleet.{section}[{index}].name", item.get("name")) for index, item in enumerate(_list(fleet, section) if fleet else ())])
    yield from _twice([(f"api_keys[{index}].key", item.get("key")) for index, item in enumerate(_list(root, "api_keys"))], secret=True)
    for index, provider in enumerate(_list(root, "llm_providers")):
        keys = provider.get("api_keys")
        named: list[tuple[str, Node | None]] = [(f"llm_providers[{index}].api_keys[{number}]", key) for number, key in enumerate(keys.items() if keys else ())]
        yield from _twice(named, secret=True)


def _twice(found: list[tuple[str, Node | None]], *, secret: bool = False) -> Iterator[Fault]:
    first: dict[str, str] = {}
    for path, node in found:
        text = node.text() if node else None
        if node is None or text is None:
            continue
        if text in first:
            what = "the same key" if secret else f"the id '{text}'"
            yield Fault(node.place, path, f"{what} is given twice; the first is {first[text]}", "remove or rename one of the two")
        first.setdefault(text, path)


def _provider_references(root: Node) -> Iterator[Fault]:
    known = _provider_names(root)
    if not known:
        return  # vendors come from the environment: the loader knows which
    for index, client in enumerate(_list(root, "api_keys")):
        yield from _unknown(client.get("allowed_providers"), f"api_keys[{index}].allowed_providers", known | {"*"})
    yield from _unknown(root.get("policy", "fallback", "providers"), "policy.fallback.providers", known)


def _provider_names(root: Node) -> set[str]:
    named = [provider.get(name) for provider in _list(root, "llm_providers") for name in ("id", "type")]
    return {text for node in named if node and (text := node.text())}


def _unknown(names: Node | None, path: str, known: set[str]) -> Iterator[Fault]:
    for index, name in enumerate(names.items() if names else ()):
        text = name.text()
        if text is not None and text not in known:
            yield Fault(name.place, f"{path}[{index}]", f"no provider '{text}'{did_you_mean(text, known)}", f"known: {', '.join(sorted(known))}")


def _teams(root: Node) -> Iterator[Fault]:
    known = {text for team in _list(root, "teams") if (node := team.get("id")) and (text := node.text())}
    for index, client in enumerate(_list(root, "api_keys")):
        team = client.get("team")
        name = team.text() if team else None
        if team and name is not None and name not in known:
            yield Fault(team.place, f"api_keys[{index}].team", f"no team '{name}'{did_you_mean(name, known)}", "name it under `teams`")


def _time_zones(root: Node) -> Iterator[Fault]:
    for section in ("api_keys", "teams", "model_limits"):
        for index, holder in enumerate(_list(root, section)):
            zone = holder.get("limits", "budget_timezone")
            name = zone.text() if zone else None
            if zone and name is not None and name not in available_timezones():
                near = did_you_mean(name, available_timezones())
                yield Fault(zone.place, f"{section}[{index}].limits.budget_timezone", f"no time zone '{name}'{near}", "a name such as UTC or Europe/Prague")


def _aliases(root: Node) -> Iterator[Fault]:
    known = _provider_names(root)
    aliases = root.get("model_aliases")
    for name, target in aliases.pairs() if aliases else ():
        for index, node in enumerate(target.items() or [target]):
            path = f"model_aliases.{name}" + (f"[{index}]" if target.items() else "")
            text = node.text()
            if text is None:
                continue
            provider, separator, model = text.partition(":")
            if not separator or not provider or not model:
                yield Fault(node.place, path, f"expected provider:model, got '{text}'")
            elif known and provider not in known:
                yield Fault(node.place, path, f"no provider '{provider}'{did_you_mean(provider, known)}")


def _hybrid_weights(root: Node) -> Iterator[Fault]:
    weights = root.get("policy", "hybrid_weights")
    if weights and weights.pairs() and len(weights.pairs()) == 5 and all(node.value in (0, 0.0) for _, node in weights.pairs()):
        yield Fault(weights.place, "policy.hybrid_weights", "all weights are 0: nothing would be compared", "give at least one a value above 0")


def _redis_address(root: Node) -> Iterator[Fault]:
    runtime = root.get("storage", "runtime")
    kind = runtime.get("type") if runtime else None
    if runtime and kind and kind.value == "redis" and not runtime.get("addr"):
        yield Fault(kind.place, "storage.runtime.addr", "the type redis needs an address", 'add addr: "HOST:6379" or addr: "unix:/PATH"')
    address = runtime.get("addr") if runtime else None
    text = address.text() if address else None
    mode = runtime.get("mode") if runtime else None
    several = mode is not None and mode.value in ("sentinel", "cluster")
    one = r"(\[[^\]]+\]|[^\s:,]+):\d{1,5}"
    if address and text is not None and not re.fullmatch(rf"{one}(\s*,\s*{one})*" if several else rf"unix:/.+|{one}", text):
        wanted = "HOST:PORT, or several with commas between" if several else "HOST:PORT or unix:/PATH"
        yield Fault(address.place, "storage.runtime.addr", f"expected {wanted}, got '{text}'")


def _directory(root: Node) -> Iterator[Fault]:
    for name, what in (("user_search_filter", "a filter with %s for the user's name"), ("user_dn", "a DN with %s for the user's name")):
        node = root.get("auth", name)
        text = node.text() if node else None
        if node and text is not None and "%s" not in text:
            yield Fault(node.place, f"auth.{name}", f"expected {what}, got '{text}'")


def _addresses(root: Node) -> Iterator[Fault]:
    lists = [(f"api_keys[{index}].allowed_addresses", item.get("allowed_addresses")) for index, item in enumerate(_list(root, "api_keys"))]
    lists += [("server.trusted_proxies", root.get("server", "trusted_proxies"))]
    lists += [("logging.prometheus.allowed_addresses", root.get("logging", "prometheus", "allowed_addresses"))]
    for path, found in lists:
        for index, node in enumerate(found.items() if found else ()):
            text = node.text()
            try:
                ipaddress.ip_network(text or "", strict=False)
            except ValueError:
                if text is not None:
                    yield Fault(node.place, f"{path}[{index}]", f"expected an address or a network such as 10.1.0.0/16, got '{text}'")


def _cors(root: Node) -> Iterator[Fault]:
    origins, credentials = root.get("server", "cors", "origins"), root.get("server", "cors", "credentials")
    for index, node in enumerate(origins.items() if origins else ()):
        text = node.text()
        if text == "*" and credentials and credentials.value is True:
            yield Fault(
                node.place, f"server.cors.origins[{index}]", "every origin and credentials: any page could act for whoever visits it", "name the origins"
            )
        elif text is not None and text != "*" and not re.fullmatch(r"https?://[^/\s]+", text):
            yield Fault(node.place, f"server.cors.origins[{index}]", f"expected an origin such as https://chat.company.com, got '{text}'")


def _backup(root: Node) -> Iterator[Fault]:
    target = root.get("backup", "target")
    text = target.text() if target else None
    if target and text is not None and not re.fullmatch(r"/.*|s3://[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9](/[^\s]*)?", text):
        yield Fault(target.place, "backup.target", f"expected a directory such as /var/backups/coollm, or s3://BUCKET/PREFIX, got '{text}'")
    recipients = root.get("backup", "recipients")
    kinds = set()
    for index, node in enumerate(recipients.items() if recipients else ()):
        text = node.text()
        if text is None:
            continue
        if text.startswith("AGE-SECRET-KEY-"):
            yield Fault(node.place, f"backup.recipients[{index}]", "this is a private key: whoever reads this file could read the backups", "age-keygen -y")
        elif not text.startswith(("age1", "ssh-ed25519 ", "ssh-rsa ", "gpg:")):
            yield Fault(node.place, f"backup.recipients[{index}]", f"expected age1…, ssh-ed25519 …, ssh-rsa … or gpg:KEY, got '{text}'")
        kinds.add(text.startswith("gpg:"))
    if recipients and len(kinds) > 1:
        yield Fault(recipients.place, "backup.recipients", "an archive is for age or for gpg: the recipients are of both", "keep those of one of them")


def _list(root: Node, section: str) -> list[Node]:
    node = root.get(section)
    return node.items() if node else []


CHECKS: tuple[Check, ...] = (
    _provider_types,
    _base_urls,
    _duplicates,
    _provider_references,
    _teams,
    _time_zones,
    _aliases,
    _hybrid_weights,
    _redis_address,
    _directory,
    _addresses,
    _cors,
    _backup,
)
