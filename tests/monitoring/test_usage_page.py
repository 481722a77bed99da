"""The page of `usage report --html` in a browser: it shows what there is, asks for nothing, and fits a phone, by day and by night."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests.browser import Watched, chromium
from tests.conftest import serve, wait_for

CONFIGURATION = {
    "llm_providers": [
        {
            "id": "openai",
            "type": "openai",
            "base_url": "simulator://",
            "api_keys": ["sk-one"],
            "models": ["*"],
            "pricing": {"input_token_cost": 100.0, "output_token_cost": 400.0},
        }
    ],
    "api_keys": [{"id": f"team-{number}", "key": f"client-key-of-team-{number}"} for number in range(8)],
    "policy": {"retry": {"max_attempts": 1}},
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("page")
    with serve(home, CONFIGURATION, workers=1) as gateway:

        def chat(model: str, team: int) -> None:
            body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
            key = {"authorization": f"Bearer client-key-of-team-{team}"}
            requests.post(f"{gateway.url}/v1/chat/completions", json=body, headers=key, timeout=30)

        for number in range(8):
            for _ in range(number + 1):
                chat("gpt-sim~tokens=40", number)
        for model in ("gpt-sim~status=500", "no-such-vendor:model", "<img src=x onerror=alert(1)>"):
            chat(model, 1)

        def written() -> bool:
            done = gateway.coollm("usage", "report", "--html", "usage.html")
            return done.returncode == 0 and "status=500" in (home / "usage.html").read_text()

        wait_for(written, what="the ledger")
    return home / "usage.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_the_page_in_a_browser(page: Path, scheme: str, width: int) -> None:
    with chromium() as browser:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        seen = Watched(context)
        seen.page.goto(page.as_uri())
        assert seen.page.title() == "COO-LLM: usage"
        headings = [one.inner_text() for one in seen.page.query_selector_all("h2")]
        assert headings[0] == "Cost of each day by client, US dollars"
        assert {"How long answers took, ms", "Errors by cause", "Clients"} <= set(headings)
        bars = seen.page.query_selector_all("svg >> nth=0 >> rect")
        assert len(bars) == 7, "six clients, and all the others together"
        assert all(bar.bounding_box()["height"] > 0 for bar in bars)  # type: ignore[index]
        assert seen.page.locator(".legend").first.inner_text().split()[-1] == "others"
        assert "provider_failed" in seen.page.inner_text("main")
        assert seen.page.locator("img").count() == 0, "what clients write is text"
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        picture = seen.picture(f"usage-{scheme}-{width}")
        assert picture.stat().st_size > 10_000
        assert seen.requests == [page.as_uri()]
        assert seen.complaints == []
