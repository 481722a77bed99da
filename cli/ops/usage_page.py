"""What was used and what it cost, as one page that needs nothing else: no script, no font, no picture from anywhere. Charts are drawn as SVG.

Sources: https://developer.mozilla.org/en-US/docs/Web/SVG, https://developer.mozilla.org/en-US/docs/Web/CSS/@media/prefers-color-scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

MOST_BARS = 60
MOST_ROWS = 15
WIDTH, HEIGHT = 720, 180

STYLE = """
:root { color-scheme: light dark; --bar: #2563eb; --bad: #dc2626; --line: #d4d4d8; --text: #18181b; --back: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --bar: #60a5fa; --bad: #f87171; --line: #3f3f46; --text: #f4f4f5; --back: #18181b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } .bar { fill: var(--bar); } .bad { fill: var(--bad); } text { fill: var(--text); font-size: 11px; }
.figures { display: flex; flex-wrap: wrap; gap: 2rem; } .figures b { display: block; font-size: 1.4rem; }
"""


def page(days: dict[str, Any], clients: dict[str, Any], models: dict[str, Any], providers: dict[str, Any], span: str) -> str:
    """The page of four reports of the ledger, each as `usage report --json` gives it."""
    total = days["total"]
    share = total["errors"] / total["requests"] if total["requests"] else 0.0
    figures = (
        ("requests", f"{total['requests']:,}"),
        ("cost", f"${total['cost_usd']:,.2f}"),
        ("input tokens", f"{total['input_tokens']:,}"),
        ("output tokens", f"{total['output_tokens']:,}"),
        ("errors", f"{share:.1%}"),
        ("saved by the cache", f"${total['saved_usd']:,.2f}"),
    )
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>COO-LLM: usage</title>',
        f"<style>{STYLE}</style></head>",
        f"<body><h1>Usage and cost</h1><p>{escape(span)}; made {made}</p>",
        '<div class="figures">' + "".join(f"<div>{name}<b>{value}</b></div>" for name, value in figures) + "</div>",
        _chart("Cost of each day, US dollars", [(row["day"], row["cost_usd"]) for row in days["rows"]], "bar", "${:,.2f}"),
        _chart("Requests of each day", [(row["day"], row["requests"]) for row in days["rows"]], "bar", "{:,.0f}"),
        _chart("Errors of each day", [(row["day"], row["errors"]) for row in days["rows"]], "bad", "{:,.0f}"),
        _chart("Mean latency of each day, ms", [(row["day"], row.get("latency_ms") or 0) for row in days["rows"]], "bar", "{:,.0f}"),
        _table("Clients", "client", clients["rows"]),
        _table("Models", "model", models["rows"]),
        _table("Providers", "provider", providers["rows"]),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _chart(title: str, values: Sequence[tuple[str, float]], kind: str, shown: str) -> str:
    """Bars, each with what it is of and its value as its title; the last MOST_BARS."""
    values = values[-MOST_BARS:]
    largest = max((value for _, value in values), default=0.0)
    if not largest:
        return f"<h2>{escape(title)}</h2><p>nothing in this time</p>"
    step = WIDTH / len(values)
    bars = []
    for place, (name, value) in enumerate(values):
        height = value / largest * (HEIGHT - 40)
        told = escape(f"{name}: {shown.format(value)}")
        x, y, width = place * step + step * 0.1, HEIGHT - 20 - height, step * 0.8
        bars.append(f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"><title>{told}</title></rect>')
    first, last = escape(values[0][0]), escape(values[-1][0])
    label = escape(f"{title}, from {values[0][0]} to {values[-1][0]}, at most {shown.format(largest)}")
    return (
        f'<h2>{escape(title)}</h2><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(bars)}'
        f'<text x="0" y="12">{escape(shown.format(largest))}</text><text x="0" y="{HEIGHT - 4}">{first}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{last}</text></svg>'
    )


def _table(title: str, by: str, rows: Sequence[dict[str, Any]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in (by, "requests", "errors", "input tokens", "output tokens", "US dollars"))
    lines = []
    for row in rows[:MOST_ROWS]:
        cells = (f"{row['requests']:,}", f"{row['errors']:,}", f"{row['input_tokens']:,}", f"{row['output_tokens']:,}", f"{row['cost_usd']:,.4f}")
        lines.append(f"<tr><td>{escape(str(row[by]) or '-')}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    more = f"<p>and {len(rows) - MOST_ROWS} more</p>" if len(rows) > MOST_ROWS else ""
    return f"<h2>{escape(title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>{more}"
