"""Every form of the console, against a gateway that works: what it does is what the command and the admin API do, and the audit log has who did it."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from coollm.core.orders import Orders
from tests.conftest import GatewayHandle, wait_for
from tests.console.visitor import Visitor, audited, in_ledger


@pytest.fixture(scope="module", autouse=True)
def traffic(gateway: GatewayHandle) -> Iterator[list[str]]:
    """Requests that were served, streamed, failed over and refused, in the ledger."""
    ids = []
    for model, more in (("gpt-sim~tokens=30", {}), ("gpt-sim~tokens=20", {"stream": True}), ("gpt-sim~status=500", {}), ("no-such:model", {})):
        for _ in range(3):
            reply = gateway.chat(model, "the secret words of a prompt", **more)
            assert reply.content
            ids.append(reply.headers["x-request-id"])
    wait_for(lambda: in_ledger(gateway, "SELECT count(*) FROM usage")[0][0] >= len(ids), 10, "the requests in the ledger")
    return ids


def test_the_overview_shows_how_things_are(root: Visitor) -> None:
    text = root.get("/ui/").text
    for words in (
        "Requests each minute",
        "Last proven restore",
        "never",
        "generation 1",
        "client app",
        "$50.00",
        "First token, p50",
    ):
        assert words in text, words
    assert re.search(r'id="live-rate">\d+\.\d / s', text)
    assert "app" in text
    assert "gpt-sim~tokens=20" in text


def test_figures_of_now_come_as_events(gateway: GatewayHandle, root: Visitor, traffic: list[str]) -> None:
    with root.session.get(f"{gateway.url}/ui/live", stream=True, timeout=15) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        told = json.loads(next(line for line in reply.iter_lines() if line.startswith(b"data: "))[6:])
    assert sum(one["requests"] for one in told["minutes"]) >= len(traffic)
    assert {one["request_id"] for one in told["last"]} & set(traffic)
    assert told["p50_ms"] > 0
    assert told["first_token_p50_ms"] >= 0
    assert len(told["minutes"]) == 15


def test_an_open_page_holds_up_no_end(gateway: GatewayHandle, root: Visitor) -> None:
    """A stream of figures ends with the generation it began with; its page asks for another one."""
    with root.session.get(f"{gateway.url}/ui/live", stream=True, timeout=15) as reply:
        lines = reply.iter_lines()
        next(lines)
        config = (gateway.home / "coollm.yaml").read_text()
        (gateway.home / "new.yaml").write_text(f"# another generation, {time.time()}\n{config}")
        assert gateway.coollm("config", "apply", "new.yaml", "--yes").returncode == 0
        began = time.monotonic()
        for _ in lines:
            assert time.monotonic() - began < 10


def test_usage_by_everything_and_as_a_file(root: Visitor) -> None:
    for by, words in (
        ("client", "app"),
        ("team", "(no team)"),
        ("provider", "openai"),
        ("model", "gpt-sim~tokens=30"),
        ("day", time.strftime("%Y-%m-%d", time.gmtime())),
    ):
        assert words in root.get(f"/ui/usage?by={by}").text, by
        reply = root.get(f"/ui/usage.csv?by={by}")
        rows = list(csv.DictReader(io.StringIO(reply.text)))
        assert words in [row[by] for row in rows]
        assert "attachment" in reply.headers["content-disposition"]
    assert "Nothing was used in this time" in root.get("/ui/usage?start=2020-01-01&end=2020-01-02").text


def test_requests_are_found_and_explained(gateway: GatewayHandle, root: Visitor, traffic: list[str]) -> None:
    text = root.get("/ui/requests").text
    assert all(one[:16] in text for one in traffic)
    failed = root.get("/ui/requests?failed=1").text
    assert traffic[6][:16] in failed
    assert traffic[0][:16] not in failed
    assert "There is none." in root.get("/ui/requests?client=nobody").text
    reply = root.get(f"/ui/requests?id={traffic[6]}")
    assert (reply.status_code, reply.headers["location"]) == (303, f"/ui/requests/{traffic[6]}")
    story = root.get(f"/ui/requests/{traffic[6]}").text
    assert "What was tried" in story
    assert "openai" in story
    assert "500" in story
    assert "gpt-sim~status=500" in story
    assert "Where it would go now" in story
    assert "the secret words" not in story + text
    assert root.get("/ui/requests/req_0000").status_code == 404
    assert "no request 'req_0000'" in root.wrong


def test_providers_and_their_keys(root: Visitor) -> None:
    text = root.get("/ui/providers").text
    assert "usable" in text
    assert "sk-vendor" not in text
    tested = root.post("/ui/providers/test", {"provider": "openai"})
    assert tested.status_code == 200
    assert ">answers</span> openai key" in tested.text
    place = re.search(r'href="(/ui/providers/openai/[^"]+)"', tested.text)
    assert place
    one = root.get(place[1]).text
    assert "Who has used it in the last seven days" in one
    assert ">app</td>" in one
    assert "not in use" in root.get("/ui/providers/openai/nothing").text


def test_the_life_of_a_client(gateway: GatewayHandle, root: Visitor) -> None:
    root.get("/ui/clients")
    made = root.post(
        "/ui/clients",
        {"id": "web-shop", "description": "the shop", "allowed_models": "gpt-sim*", "req_per_min": "100", "budget_usd": "2.5", "budget_period": "day"},
    )
    key = re.search(r'id="key">([^<]+)</code>', made.text)
    assert key, root.wrong

    def ask(key: str) -> int:
        body = {"model": "gpt-sim", "messages": [{"role": "user", "content": "x"}]}
        return requests.post(f"{gateway.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=10).status_code

    assert wait_for(lambda: ask(key[1]) == 200, 5)
    assert key[1] not in root.get("/ui/clients/web-shop").text + root.get("/ui/clients").text
    shown = root.get("/ui/clients/web-shop").text
    assert "$2.50" in shown
    assert "the shop" in shown
    assert 'value="100"' in shown
    assert root.post("/ui/clients", {"id": "web-shop"}).status_code == 409
    assert "already" in root.wrong
    for name, value in (("req_per_min", "many"), ("req_per_min", "-1"), ("budget_usd", "nan"), ("budget_usd", "-3"), ("id", "a b"), ("id", "")):
        reply = root.post("/ui/clients", {"id": "another", name: value})
        assert reply.status_code == 400, (name, value)
        assert root.wrong, (name, value)
    assert root.post("/ui/clients", {"id": "another", "team": "nobody"}).status_code == 400
    assert "no team" in root.wrong

    root.get("/ui/clients/web-shop")
    root.post("/ui/clients/web-shop", {"description": "the new shop", "allowed_models": "", "allowed_providers": "openai"}, follow=True)
    assert root.notice == "It is changed."
    assert "the new shop" in root.page
    assert "<dd>openai</dd>" in root.page
    root.post("/ui/clients/web-shop/limits", {"req_per_min": "700", "budget_usd": "9", "budget_period": "month"}, follow=True)
    assert "The limits hold" in root.notice
    assert "$9.00" in root.page
    assert 'value="700"' in root.page
    assert root.post("/ui/clients/web-shop/limits", {"req_per_min": "none"}).status_code == 400

    turned = root.post("/ui/clients/web-shop/rotate", {"overlap": "0s"})
    new = re.search(r'id="key">([^<]+)</code>', turned.text)
    assert new
    assert new[1] != key[1]
    assert wait_for(lambda: ask(new[1]) == 200 and ask(key[1]) == 401, 5)
    root.get("/ui/clients/web-shop")
    root.post("/ui/clients/web-shop/revoke", {"revoked": "yes"}, follow=True)
    assert root.notice == "It is shut out."
    assert wait_for(lambda: ask(new[1]) == 401, 5)
    root.post("/ui/clients/web-shop/revoke", {"revoked": "no"}, follow=True)
    assert wait_for(lambda: ask(new[1]) == 200, 5)
    assert root.post("/ui/clients/web-shop/remove", {"again": "web"}).status_code == 400
    root.post("/ui/clients/web-shop/remove", {"again": "web-shop"}, follow=True)
    assert "is removed" in root.notice
    assert root.get("/ui/clients/web-shop").status_code == 404
    told = [json.loads(line) for line in audited(gateway).splitlines()]
    of_it = [one for one in told if "web-shop" in json.dumps(one) and one.get("state") == "done"]
    assert {one["action"] for one in of_it} >= {"admin_clients_create", "admin_client_change", "admin_limits_set", "admin_client_rotate", "admin_client_delete"}
    assert {one["actor"] for one in of_it} == {"root"}
    assert {one.get("key") for one in of_it} == {"console"}


def test_clients_of_the_configuration_are_changed_there(root: Visitor) -> None:
    text = root.get("/ui/clients/app").text
    assert "from the configuration" in text
    assert "Another key" not in text
    assert "Shut it out" not in text
    root.post("/ui/clients/app", {"description": "x"})
    assert "client of the configuration" in root.wrong


def test_a_configuration_is_checked_compared_applied_confirmed_and_taken_back(gateway: GatewayHandle, root: Visitor) -> None:
    text = root.get("/ui/configuration").text
    assert "server.webui.enabled" in text
    assert "correct horse" not in text
    assert "client-key-of-the-tests" not in text
    editor = root.get("/ui/configuration/edit").text
    assert "${kept:" in editor
    assert "correct horse" not in editor
    assert "sk-vendor" not in editor
    source = requests.get(f"{gateway.url}/admin/v1/config", headers={"authorization": "Bearer the-admin-key-of-the-console-0123456789"}, timeout=10).text

    wrong = root.post("/ui/configuration/check", {"text": source.replace("\n", "\r\n") + "\r\npolicie: 1\r\n"})
    line = len(source.splitlines()) + 2 - (0 if source.endswith("\n") else 1)
    assert f'data-line="{line}"' in wrong.text
    assert "policie" in wrong.text
    assert "not valid" in wrong.text, wrong.text
    assert "policie" in root.post("/ui/configuration/apply", {"text": source + "\npolicie: 1\n"}).text
    same = root.post("/ui/configuration/check", {"text": source})
    assert "It is the configuration in force" in same.text

    root.get("/ui/configuration/edit")
    changed = source + "\n# for the night\n" if "# for the night" not in source else source + "\n# again\n"
    compared = root.post("/ui/configuration/check", {"text": changed})
    assert '<span class="added">+# for the night</span>' in compared.text
    assert "correct horse" not in compared.text
    root.get("/ui/configuration/edit")
    root.post("/ui/configuration/apply", {"text": changed, "confirm_within": "5m"}, follow=True)
    assert "It reverts in 5m unless it is confirmed" in root.notice
    assert "reverts in" in root.page
    assert re.search(r"reverts in <strong>\d+ s</strong>", root.get("/ui/configuration/countdown").text)
    history = gateway.coollm("config", "history", "--json")
    newest = json.loads(history.stdout)["generations"][0]
    assert newest["unconfirmed"]
    assert newest["by"] == "root"

    root.get("/ui/configuration")
    root.post("/ui/configuration/confirm", follow=True)
    assert "stays in force" in root.notice
    assert "reverts in <strong>" not in root.page
    assert root.post("/ui/configuration/confirm").status_code == 409
    assert root.sign_in().status_code == 303, "what stood in clear is what it was"
    root.get("/ui/configuration")
    root.post("/ui/configuration/rollback", {"generation": str(newest["number"] - 1)}, follow=True)
    assert "is in force" in root.notice
    assert root.post("/ui/configuration/rollback", {"generation": "99999"}).status_code == 400
    assert "no such generation" in root.wrong
    assert '"admin_config_rollback"' in audited(gateway)
    assert '"admin_config_confirm"' in audited(gateway)


def test_orders_are_kept_for_the_host(gateway: GatewayHandle, root: Visitor, keys: dict[str, str]) -> None:
    root.get("/ui/operations")
    root.post("/ui/operations", {"action": "drain", "instance": "1"}, follow=True)
    assert root.notice.startswith("Ordered: coollm drain 1 --yes --quiet.")
    assert ">waits</span>" in root.page
    for fields, words in (
        ({"action": "purge"}, "there is no action 'purge'"),
        ({"action": "drain", "instance": "1; reboot"}, "is no instance"),
        ({"action": "drain"}, "is no instance"),
    ):
        assert root.post("/ui/operations", fields).status_code == 400
        assert words in root.wrong
    operator = Visitor(gateway)
    operator.sign_in("the-operator", keys["operator"])
    operator.get("/ui/operations")
    assert "Restart all" not in operator.page
    assert operator.post("/ui/operations", {"action": "restart"}).status_code == 403
    assert "needs the role admin" in operator.wrong
    [order] = Orders(gateway.home / "state").waiting()
    assert (order.action, order.argument, order.by, order.role) == ("drain", "1", "root", "admin")
    done = gateway.coollm("orders", "run", "--json")
    assert done.returncode == 0, done.stderr
    [ended] = json.loads(done.stdout)["done"]
    assert ended["exit_code"] not in (0, None), "nothing is installed here that could be drained"
    assert ended["told"], "nothing is installed here that could be drained"
    assert f"exit {ended['exit_code']}" in root.get("/ui/operations/orders").text
    assert "drain 1" in gateway.coollm("orders", "list").stdout


def test_the_audit_log_is_searched(gateway: GatewayHandle, root: Visitor) -> None:
    everything = root.get("/ui/audit").text
    assert "console_sign_in" in everything
    assert "not verified yet" in everything
    some = root.get("/ui/audit?action=console_sign_in&actor=root").text
    assert "console_sign_in" in some
    assert "admin_orders_give" not in some
    assert "There is no such line" in root.get("/ui/audit?text=nothing-like-this-was-ever-told").text
    gateway.coollm("audit", "verify")
    assert "the chain holds" in root.get("/ui/audit").text


def test_the_playground_streams_and_says_what_is_wrong(gateway: GatewayHandle, root: Visitor) -> None:
    assert "openai:gpt-sim" in root.get("/ui/playground").text
    reply = root.post("/ui/playground", {"model": "openai:gpt-sim~tokens=25", "question": "words that nobody keeps"})
    assert reply.headers["content-type"].startswith("text/event-stream")
    pieces = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    assert sum(1 for one in pieces if one["choices"] and one["choices"][0]["delta"].get("content")) == 25
    wrong: Any = root.post("/ui/playground", {"model": "no-such:model", "question": "x"})
    assert wrong.status_code == 404
    assert "no-such" in wrong.json()["error"]["message"]
    assert root.post("/ui/playground", {"model": "", "question": ""}).status_code == 400
    assert "console_playground" in audited(gateway)
    assert "words that nobody keeps" not in audited(gateway)
    logged = wait_for(lambda: next((one for one in gateway.requests_logged() if one["requested_model"] == "openai:gpt-sim~tokens=25"), None))
    assert logged["client"] == "local"
