// What pages of the console do by themselves: charts, figures that stay fresh, the playground, and some help with forms. Without it every page but the
// playground still shows what it knows and takes its forms.
"use strict";

const token = document.body.dataset.formToken || "";
const place = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const money = (value) => value === null || value === undefined ? "–" : value === 0 || Math.abs(value) >= 1 ? `$${value.toFixed(2)}` : Math.abs(value) >= 0.001 ? `$${value.toFixed(4)}` : `$${value.toFixed(6)}`;
const time = (value) => value === null || value === undefined ? "–" : value < 10000 ? `${place.format(value)} ms` : `${(value / 1000).toFixed(1)} s`;
const moment = (ms) => new Date(ms).toISOString().slice(0, 19).replace("T", " ");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// ---- charts -------------------------------------------------------------------------------------------------------------------------------------------

const charts = new Map();

function series(element) {
  if (element.dataset.chart === "slots") {
    return { x: JSON.parse(element.dataset.slots), rows: [{ label: "Cost", values: JSON.parse(element.dataset.values), colour: "--series-1" }], isMoney: true };
  }
  const points = JSON.parse(element.dataset.points).slice(0, -1); // the minute of now has only begun
  const x = points.map((one) => one.minute);
  if (element.dataset.chart === "cost") {
    return { x, rows: [{ label: "Cost", values: points.map((one) => one.cost_usd), colour: "--series-1" }], isMoney: true };
  }
  const rows = [
    { label: "Requests", values: points.map((one) => one.requests), colour: "--series-1" },
    { label: "Errors", values: points.map((one) => one.errors), colour: "--series-2" },
  ];
  return { x, rows, isMoney: false };
}

function draw(element) {
  if (!window.uPlot || !element.clientWidth) return;
  const told = series(element);
  if (!told.x.length) return;
  charts.get(element)?.destroy();
  const hours = (_, ticks, __, ___, step) => ticks.map((one) => { const words = new Date(one * 1000).toISOString(); return step >= 86400 ? words.slice(5, 10) : words.slice(11, 16); });
  const areBars = element.dataset.chart === "slots";
  const half = told.x.length > 1 ? (told.x[1] - told.x[0]) / 2 : 43200;
  const axis = { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  const options = {
    width: element.clientWidth,
    height: element.clientHeight,
    cursor: { show: false },
    legend: { show: false },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    scales: { ...(areBars ? { x: { range: (_, least, most) => [least - half, most + half] } } : {}), y: { range: (_, least, most) => [Math.min(0, least), most > 0 ? most * 1.1 : 1] } },
    axes: [{ ...axis, size: 30, values: hours }, { ...axis, size: 64, values: (_, ticks) => ticks.map((one) => told.isMoney ? money(one) : place.format(one)) }],
    series: [{}, ...told.rows.map((row) => ({ label: row.label, points: { show: false }, ...(areBars ? { fill: colour(row.colour), paths: uPlot.paths.bars({ size: [0.7, 60] }) } : { stroke: colour(row.colour), fill: `${colour(row.colour)}22`, width: 2 }) }))],
  };
  charts.set(element, new uPlot(options, [told.x, ...told.rows.map((row) => row.values)], element));
  const last = told.rows.map((row) => `${row.label} ${told.isMoney ? money(row.values.at(-1)) : place.format(row.values.at(-1))}`).join(", ");
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", `Chart over ${told.x.length} points in time; the last: ${last}`);
}

function drawAll() {
  for (const [element, chart] of charts) if (!element.isConnected) { chart.destroy(); charts.delete(element); }
  document.querySelectorAll("[data-chart]").forEach(draw);
}

// ---- figures of now -----------------------------------------------------------------------------------------------------------------------------------

function show(id, words) {
  const element = document.getElementById(id);
  if (element && element.textContent !== words) element.textContent = words;
}

function cell(row, words, isNumber) {
  const made = document.createElement("td");
  if (isNumber) made.className = "number";
  made.append(words);
  row.append(made);
  return made;
}

function requestRow(one) {
  const row = document.createElement("tr");
  row.dataset.id = one.request_id;
  cell(row, moment(one.at_ms));
  const link = document.createElement("a");
  link.href = `/ui/requests/${encodeURIComponent(one.request_id)}`;
  link.textContent = `${one.request_id.slice(0, 16)}…`;
  cell(row, link);
  cell(row, one.client);
  cell(row, one.provider ? `${one.provider}:${one.model}` : "–").className = "wrap";
  const state = document.createElement("span");
  state.className = `state ${one.status < 400 ? "ok" : one.status < 500 ? "warn" : "bad"}`;
  state.textContent = one.status;
  const status = cell(row, state);
  if (one.error) {
    const note = document.createElement("span");
    note.className = "note";
    note.textContent = ` ${one.error}`;
    status.append(note);
  }
  cell(row, time(one.latency_ms), true);
  cell(row, one.first_token_ms ? time(one.first_token_ms) : "–", true);
  cell(row, `${place.format(one.input_tokens)} / ${place.format(one.output_tokens)}`, true);
  cell(row, money(one.cost_usd), true);
  return row;
}

function showRequests(rows, most) {
  const body = document.getElementById("live-requests");
  if (!body || body.matches(":focus-within")) return;
  const known = new Set([...body.querySelectorAll("a")].map((link) => decodeURIComponent(link.getAttribute("href").split("/").at(-1))));
  if (!known.size) body.replaceChildren();
  for (const one of [...rows].reverse()) {
    if (known.has(one.request_id)) continue;
    const row = requestRow(one);
    row.className = "new";
    body.prepend(row);
  }
  while (body.rows.length > most) body.deleteRow(-1);
}

function showFigures(told, most) {
  show("live-rate", `${told.summed.per_second.toFixed(1)} / s`);
  show("live-errors", `${(told.summed.errors * 100).toFixed(1)} %`);
  show("live-p50", time(told.p50_ms));
  show("live-p95", time(told.p95_ms));
  show("live-first", time(told.first_token_p50_ms));
  for (const id of ["chart-traffic", "chart-cost"]) {
    const element = document.getElementById(id);
    if (element) { element.dataset.points = JSON.stringify(told.minutes); draw(element); }
  }
  const minutes = document.querySelector("#minutes tbody");
  if (minutes) {
    minutes.replaceChildren(...told.minutes.slice().reverse().map((one) => {
      const row = document.createElement("tr");
      cell(row, moment(one.minute * 1000));
      for (const words of [place.format(one.requests), place.format(one.errors), place.format(one.tokens), money(one.cost_usd)]) cell(row, words, true);
      return row;
    }));
  }
  showRequests(told.last, most);
}

function watch() {
  const element = document.getElementById("live");
  if (!element || !window.EventSource) return;
  const most = Number(element.dataset.liveRows || 8);
  const source = new EventSource(element.dataset.live);
  source.onmessage = (event) => showFigures(JSON.parse(event.data), most);
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) show("live-state", "no longer fresh: load the page again"); };
  window.addEventListener("pagehide", () => source.close(), { once: true });
}

// ---- the playground -----------------------------------------------------------------------------------------------------------------------------------

async function ask(form) {
  const answer = document.getElementById("answer");
  const stop = document.getElementById("stop");
  const controller = new AbortController();
  const began = performance.now();
  let first = null;
  let usage = null;
  let model = "";
  answer.textContent = "";
  show("answer-facts", "…");
  stop.hidden = false;
  stop.onclick = () => controller.abort();
  try {
    const reply = await fetch(form.action, { method: "POST", headers: { "x-form-token": token }, body: new URLSearchParams(new FormData(form)), signal: controller.signal });
    if (!reply.ok) {
      const words = await reply.text();
      let message = `status ${reply.status}`;
      try { message = JSON.parse(words).error.message; } catch { if (reply.status === 401) message = "your session has ended: sign in again"; }
      throw new Error(message);
    }
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
        const told = JSON.parse(line.slice(6));
        if (told.error) throw new Error(told.error.message);
        const text = told.choices?.[0]?.delta?.content;
        if (text && first === null) first = performance.now() - began;
        if (text) answer.append(text);
        usage = told.usage || usage;
        model = told.model || model;
      }
    }
    const tokens = usage ? `${usage.prompt_tokens} tokens in, ${usage.completion_tokens} out` : "no usage told";
    show("answer-facts", `${model}: first token after ${time(first)}, all after ${time(performance.now() - began)}, ${tokens}`);
  } catch (error) {
    show("answer-facts", error.name === "AbortError" ? "stopped" : `It failed: ${error.message}`);
  } finally {
    stop.hidden = true;
  }
}

// ---- forms --------------------------------------------------------------------------------------------------------------------------------------------

document.addEventListener("htmx:configRequest", (event) => { event.detail.headers["x-form-token"] = token; });
document.addEventListener("htmx:afterSwap", drawAll);

document.addEventListener("submit", (event) => {
  if (event.target.id === "playground") { event.preventDefault(); ask(event.target); }
});

document.addEventListener("click", (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) navigator.clipboard?.writeText(document.getElementById(copy.dataset.copy).textContent).then(() => { copy.textContent = "Copied"; });
  const menu = event.target.closest(".menu-button");
  if (menu) menu.setAttribute("aria-expanded", String(document.getElementById("menu").classList.toggle("open")));
  const line = event.target.closest("[data-line]");
  if (line) {
    event.preventDefault();
    const text = document.getElementById("text");
    const lines = text.value.split("\n");
    const start = lines.slice(0, line.dataset.line - 1).join("\n").length + (line.dataset.line > 1 ? 1 : 0);
    text.focus();
    text.setSelectionRange(start, start + (lines[line.dataset.line - 1] || "").length);
    text.scrollTop = (line.dataset.line - 4) * Number.parseFloat(getComputedStyle(text).lineHeight);
  }
});

document.addEventListener("input", (event) => {
  const table = event.target.dataset.filter && document.getElementById(event.target.dataset.filter);
  if (!table) return;
  const words = event.target.value.toLowerCase();
  for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(words);
});

let resized = 0;
window.addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(drawAll, 150); });
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

drawAll();
watch();
