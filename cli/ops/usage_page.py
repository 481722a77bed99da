"""What was used and what it cost, as one page that needs nothing else: no script, no font, no picture from anywhere. Charts are drawn as SVG.

Sources: https://developer.mozilla.org/en-US/docs/Web/SVG, https://developer.mozilla.org/en-US/docs/Web/CSS/@media/prefers-color-scheme.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from coollm_cli.ops.times import day as day_of
from coollm_cli.ops.times import moment
from coollm_cli.ops.usage_figures import Figures

LEAST_SLOTS, MOST_SLOTS = 12, 60
MOST_ROWS = 15
MOST_CLIENTS = 6
WIDTH, HEIGHT = 720, 190
OTHERS = "others"

STYLE = """
:root { color-scheme: light dark; --bar: #2563eb; --bad: #b91c1c; --line: #d4d4d8; --text: #18181b; --back: #ffffff;
  --c0: #1d4ed8; --c1: #b45309; --c2: #047857; --c3: #7e22ce; --c4: #be123c; --c5: #0e7490; --c6: #52525b; }
@media (prefers-color-scheme: dark) { :root { --bar: #60a5fa; --bad: #f87171; --line: #3f3f46; --text: #f4f4f5; --back: #18181b;
  --c0: #93c5fd; --c1: #fcd34d; --c2: #6ee7b7; --c3: #d8b4fe; --c4: #fda4af; --c5: #67e8f9; --c6: #a1a1aa; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } text { fill: var(--text); font-size: 11px; } .bar { fill: var(--bar); } .bad { fill: var(--bad); }
polyline { fill: none !important; stroke-width: 2; } .legend span { margin-right: 1rem; white-space: nowrap; }
.legend i { display: inline-block; width: .8em; height: .8em; }
.figures { display: flex; flex-wrap: wrap; gap: 2rem; } .figures b { display: block; font-size: 1.4rem; }
""" + "".join(f".c{number} {{ fill: var(--c{number}); stroke: var(--c{number}); background: var(--c{number}); }}\n" for number in range(MOST_CLIENTS + 1))


class Line(NamedTuple):
    """Values of each slot, under a name."""

    name: str
    values: Sequence[float | None]


def page(figures: Figures) -> str:
    """The page."""
    total, rows = figures.days["total"], figures.days["rows"]
    share = total["errors"] / total["requests"] if total["requests"] else 0.0
    told = (
        ("requests", f"{total['requests']:,}"),
        ("cost", f"${total['cost_usd']:,.2f}"),
        ("input tokens", f"{total['input_tokens']:,}"),
        ("output tokens", f"{total['output_tokens']:,}"),
        ("errors", f"{share:.1%}"),
        ("saved by the cache", f"${total['saved_usd']:,.2f}"),
    )
    days = [row["day"] for row in rows]
    slots = [day_of(moment) for moment in figures.trend["slots"]]
    quantiles = [Line(name, [row[f"{name}_ms"] for row in figures.latencies]) for name in ("p50", "p95", "p99")]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>COO-LLM: usage</title>',
        f"<style>{STYLE}</style></head>",
        f"<body><main><h1>Usage and cost</h1><p>{escape(figures.span)}; made {moment(time.time())}</p>",
        '<div class="figures">' + "".join(f"<div>{name}<b>{value}</b></div>" for name, value in told) + "</div>",
        _stacked("Cost of each day by client, US dollars", slots, _clients(figures), "${:,.2f}"),
        _bars("Requests of each day", days, [row["requests"] for row in rows], "bar", "{:,.0f}"),
        _bars("Errors of each day", days, [row["errors"] for row in rows], "bad", "{:,.0f}"),
        _lines("How long answers took, ms", [day_of(row["day"]) for row in figures.latencies], quantiles, "{:,.0f} ms"),
        _errors(figures.errors),
        _table("Clients", "client", figures.clients["rows"]),
        _table("Models", "model", figures.models["rows"]),
        _table("Providers", "provider", figures.providers["rows"]),
        "</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _clients(figures: Figures) -> list[Line]:
    """The cost of those that cost most, and of all the others together."""
    rows = figures.trend["rows"]
    found = [Line(row["client"] or "-", row["cost_usd"]) for row in rows[:MOST_CLIENTS]]
    rest = [row["cost_usd"] for row in rows[MOST_CLIENTS:]]
    return [*found, Line(OTHERS, [sum(column) for column in zip(*rest, strict=True)])] if rest else found


def _frame(title: str, label: str, marks: str, slots: Sequence[str], top: str) -> str:
    """A chart: its marks, what its highest point is, and its first and last slot."""
    return (
        f'<h2>{escape(title)}</h2><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{marks}'
        f'<text x="0" y="12">{escape(top)}</text><text x="0" y="{HEIGHT - 4}">{escape(slots[0])}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{escape(slots[-1])}</text></svg>'
    )


def _bars(title: str, slots: Sequence[str], values: Sequence[float], kind: str, shown: str) -> str:
    """Bars, each with what it is of and its value as its title; the last MOST_SLOTS."""
    return _piled(title, slots, [Line("", values)], [kind], shown)


def _stacked(title: str, slots: Sequence[str], lines: Sequence[Line], shown: str) -> str:
    """Bars on each other, with a legend."""
    chart = _piled(title, slots, lines, [f"c{place}" for place in range(len(lines))], shown)
    return chart + (_legend(lines) if "<svg" in chart else "")


def _piled(title: str, slots: Sequence[str], lines: Sequence[Line], kinds: Sequence[str], shown: str) -> str:
    slots = slots[-MOST_SLOTS:]
    columns = list(zip(*(line.values[-MOST_SLOTS:] for line in lines), strict=True))
    largest = max((sum(value or 0 for value in column) for column in columns), default=0.0)
    if not largest:
        return _nothing(title)
    step, marks = WIDTH / max(LEAST_SLOTS, len(slots)), []
    for place, (slot, column) in enumerate(zip(slots, columns, strict=True)):
        y = HEIGHT - 20.0
        for line, kind, value in zip(lines, kinds, column, strict=True):
            height = (value or 0) / largest * (HEIGHT - 40)
            y -= height
            told = escape(f"{slot}{f', {line.name}' if line.name else ''}: {shown.format(value or 0)}")
            at, width = place * step + step * 0.1, step * 0.8
            if height:
                marks.append(f'<rect class="{kind}" x="{at:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"><title>{told}</title></rect>')
    label = f"{title}, from {slots[0]} to {slots[-1]}, at most {shown.format(largest)}"
    return _frame(title, label, "".join(marks), slots, shown.format(largest))


def _lines(title: str, slots: Sequence[str], lines: Sequence[Line], shown: str) -> str:
    """A line for each, with a legend. A day alone is a point."""
    slots = slots[-MOST_SLOTS:]
    largest = max((value or 0 for line in lines for value in line.values[-MOST_SLOTS:]), default=0.0)
    if not largest:
        return _nothing(title)
    step, marks = WIDTH / max(LEAST_SLOTS, len(slots)), []
    for number, line in enumerate(lines):
        points = []
        for place, (slot, value) in enumerate(zip(slots, line.values[-MOST_SLOTS:], strict=True)):
            if value is not None:
                x, y = (place + 0.5) * step, HEIGHT - 20 - value / largest * (HEIGHT - 40)
                points.append(f"{x:.1f},{y:.1f}")
                told = escape(f"{slot}, {line.name}: {shown.format(value)}")
                marks.append(f'<circle class="c{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{told}</title></circle>')
        marks.append(f'<polyline class="c{number}" points="{" ".join(points)}"/>')
    label = f"{title}, from {slots[0]} to {slots[-1]}, at most {shown.format(largest)}"
    return _frame(title, label, "".join(marks), slots, shown.format(largest)) + _legend(lines)


def _legend(lines: Sequence[Line]) -> str:
    return '<p class="legend">' + "".join(f'<span><i class="c{place}"></i> {escape(line.name)}</span>' for place, line in enumerate(lines)) + "</p>"


def _nothing(title: str) -> str:
    return f"<h2>{escape(title)}</h2><p>nothing in this time</p>"


def _errors(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return _nothing("Errors by cause")
    cells = [(row["cause"], row["provider"] or "the gateway", str(row["status"]), f"{row['requests']:,}", moment(row["last"]) or "") for row in rows]
    return _drawn("Errors by cause", ("cause", "who refused", "status", "requests", "last"), cells)


def _table(title: str, by: str, rows: Sequence[dict[str, Any]]) -> str:
    names = (by, "requests", "errors", "input tokens", "output tokens", "US dollars")
    cells = [
        (
            str(row[by]) or "-",
            f"{row['requests']:,}",
            f"{row['errors']:,}",
            f"{row['input_tokens']:,}",
            f"{row['output_tokens']:,}",
            f"{row['cost_usd']:,.4f}",
        )
        for row in rows
    ]
    return _drawn(title, names, cells)


def _drawn(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[:MOST_ROWS])
    more = f"<p>and {len(rows) - MOST_ROWS} more</p>" if len(rows) > MOST_ROWS else ""
    return f'<h2>{escape(title)}</h2><div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}'
