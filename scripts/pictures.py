"""Pictures of the web console for the README."""

from __future__ import annotations

import math
import random
import secrets
import sys
import tempfile
import time
from pathlib import Path

from coollm.ledger.book import Ledger
from coollm.ledger.entry import Entry
from tests.browser import Watched, chromium
from tests.conftest import serve
from tests.console.visitor import SERVER, Visitor

PICTURES = Path(__file__).resolve().parent.parent / "etc" / "pictures"
MODELS = (
    ("openai", "gpt-4o-mini", 0.15, 0.6),
    ("openai", "gpt-4o", 2.5, 10.0),
    ("claude", "claude-sonnet-4-5", 3.0, 15.0),
    ("gemini", "gemini-2.5-flash", 0.3, 2.5),
)
CLIENTS = ("web-shop", "support-desk", "search", "night-jobs", "reports")
DAY_MS = 86_400_000
REQUESTS = 150_000
LATELY = 320


def entry(at_ms: int, draw: random.Random) -> Entry:
    """A request that could have been."""
    provider, model, price_in, price_out = draw.choices(MODELS, (6, 2, 3, 2))[0]
    tokens_in, tokens_out = int(draw.lognormvariate(6.5, 0.8)), int(draw.lognormvariate(5.2, 0.9))
    failed = draw.random() < 0.012
    latency = int(draw.lognormvariate(6.9, 0.5))
    cost = 0 if failed else int((tokens_in * price_in + tokens_out * price_out) * 1000)
    return Entry(
        request_id=f"req_{secrets.token_hex(16)}",
        at_ms=at_ms,
        charged_ms=at_ms,
        client=draw.choices(CLIENTS, (8, 5, 4, 2, 1))[0],
        team="",
        provider=provider,
        model=model,
        key_id="5e312785",
        route="chat",
        status=502 if failed else 200,
        ending="failed" if failed else "answered",
        input_tokens=tokens_in,
        cached_input_tokens=0,
        cache_write_tokens=0,
        output_tokens=0 if failed else tokens_out,
        reasoning_tokens=0,
        cost_nano_usd=cost,
        estimated=False,
        latency_ms=latency,
        first_token_ms=0 if failed else latency // 4,
        error="provider_failed" if failed else "",
    )


def fill(state: Path) -> None:
    """A month, busier by day than by night, and the last quarter of an hour."""
    draw, now = random.Random(11), int(time.time() * 1000)
    times = []
    while len(times) < REQUESTS:
        at = now - draw.randrange(29 * DAY_MS)
        hour = at / 3_600_000 % 24
        if (draw.random() < 0.25 + 0.75 * max(0.0, math.sin((hour - 6) / 12 * math.pi)) and (at // DAY_MS + 4) % 7 < 5) or draw.random() < 0.1:
            times.append(at)
    times += [now - int(draw.random() ** 1.1 * 15 * 60_000) for _ in range(LATELY)]
    ledger = Ledger(f"sqlite:///{state}/ledger.sqlite")
    entries = [entry(at, draw) for at in sorted(times)]
    for place in range(0, len(entries), 5000):
        ledger.ship(entries[place : place + 5000], "made-up", 1, place)
    ledger.close()


def main() -> None:
    """Takes them."""
    PICTURES.mkdir(exist_ok=True)
    providers = [
        {"id": kind, "type": kind, "base_url": "simulator://", "api_keys": [f"sk-{kind}-1", f"sk-{kind}-2"], "models": ["*"], "limits": {"req_per_min": 500}}
        for kind in ("openai", "claude", "gemini")
    ]
    clients = [
        {"id": name, "key": f"client-key-of-{name}", "limits": {"budget_usd": budget, "budget_period": "month"}}
        for name, budget in zip(CLIENTS, (420, 200, 170, 43, 60), strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "state").mkdir(mode=0o700)
        fill(home / "state")
        with serve(home, {"llm_providers": providers, "api_keys": clients, "server": SERVER}) as gateway, chromium() as browser:
            time.sleep(6)  # the budgets are counted from the ledger
            for name, place, scheme, width, height in (
                ("console-overview", "/ui/", "light", 1280, 1000),
                ("console-usage", "/ui/usage?by=model", "dark", 1280, 760),
                ("console-phone", "/ui/", "dark", 390, 844),
            ):
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                visitor = Visitor(gateway)
                visitor.sign_in()
                context.add_cookies([{"name": one.name, "value": one.value or "", "url": f"{gateway.url}/ui/"} for one in visitor.session.cookies])
                seen = Watched(context)
                seen.page.goto(gateway.url + place)
                seen.page.wait_for_timeout(2500)
                seen.page.screenshot(path=PICTURES / f"{name}.png")
                if seen.complaints:
                    sys.exit(f"error: {seen.complaints}")
                context.close()
                print(f"{name}.png", (PICTURES / f"{name}.png").stat().st_size // 1024, "KiB")


if __name__ == "__main__":
    main()
