// The panel of charts: which charts there are, what they load, when they redraw. Shared by the run page and the comparison.
// Markup: [data-charts] with json_script #chart-runs ([{name, url, began, live}]) and #chart-keys.

import { Chart } from "./run_chart.js";
import { Curve } from "./run_curve.js";
import { bindControls, readView, writeView } from "./run_view.js";
import { Grid } from "./run_grid.js";
import { bindSamples } from "./run_sanity.js";

const points = 1500;
const shortestRest = 250;
const mostHeldRows = 20000;

const panel = document.querySelector("[data-charts]");
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const runs = read("chart-runs");
const view = readView();
const grid = new Grid(panel, view, (card, key) => new Chart(card, key, runs, view));
const showReset = bindControls(document.querySelector("[data-chart-toolbar]"), view, changed);

// Rows that came by the stream, so that a curve fetched meanwhile can catch up without a gap.
let held = [];
let tokens = 0;
let version = 0;
const dirty = new Set();
let timer = 0;
let rest = shortestRest;

function changed(name) {
  writeView(view);
  showReset();
  if (name === "find") return grid.filter();
  if (name === "x" || name === "zoom") reload();
  for (const chart of grid.charts.values()) soil(chart);
}

// At most four redraws a second, fewer where drawing is slow; charts out of sight wait until they are seen.
function soil(chart) {
  dirty.add(chart);
  timer ||= setTimeout(redraw, rest);
}

function redraw() {
  timer = 0;
  if (document.hidden) return;
  const began = performance.now();
  for (const chart of dirty) {
    if (!chart.isShown || !chart.plot.clientWidth) continue;
    dirty.delete(chart);
    if (chart.curves.size) chart.draw();
  }
  rest = Math.max(shortestRest, 3 * (performance.now() - began));
}

function seen(chart) {
  if (!chart.isAsked) wanted.add(chart);
  asking ||= setTimeout(ask, 30);
  soil(chart);
}

// Charts that come into view within a moment are fetched together, one request per run.
const wanted = new Set();
let asking = 0;
function ask() {
  asking = 0;
  const charts = [...wanted];
  wanted.clear();
  if (!charts.length) return;
  for (const chart of charts) chart.isAsked = true;
  runs.forEach((run, index) => load(run, index, charts));
}

async function load(run, index, charts) {
  const asked = version;
  const query = new URLSearchParams({ x: view.x, points: String(points) });
  for (const chart of charts) query.append("key", chart.key);
  if (view.zoom) ["start", "stop"].forEach((name, edge) => query.set(name, String(view.zoom[edge])));
  let answer;
  try {
    const response = await fetch(`${run.url}?${query}`, { headers: { Accept: "application/json" } });
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    answer = await response.json();
  } catch (error) {
    for (const chart of charts) chart.isAsked = false;
    return grid.warn(`Curves could not be loaded: ${error.message}. They will be asked for again.`, () => charts.forEach(seen));
  }
  if (asked !== version) return;
  grid.warn("");
  for (const key of answer.keys) if (!grid.charts.has(key)) grid.add(key);
  for (const chart of charts) {
    const curve = new Curve(answer.series[chart.key], answer.last_seq);
    if (curve.x.length || runs.length === 1) chart.setCurve(index, curve);
    for (const row of held) extend(curve, row, chart.key);
    soil(chart);
  }
}

function reload() {
  version += 1;
  for (const chart of grid.charts.values()) {
    chart.isAsked = false;
    if (chart.isShown) seen(chart);
  }
}

// Where a live row lies on the chosen axis. Tokens are cumulative: a row without them stands at the last known count.
function position(row) {
  if (view.x === "step") return row.step;
  if (view.x === "tokens") return row.tokens || null;
  return (Date.parse(row.at) - Date.parse(runs[0].began)) / 1000;
}

function extend(curve, row, key) {
  if (!(key in row.values)) return false;
  const x = position(row);
  if (x === null || (view.zoom && x > view.zoom[1])) return false;
  return curve.append(x, row.values[key], row.seq);
}

document.addEventListener("run:metrics", ({ detail: row }) => {
  if (runs.length !== 1 || !runs[0].live) return;
  tokens = row.values["tokens/total"] ?? tokens;
  row.tokens = tokens;
  held.push(row);
  if (held.length > mostHeldRows) held = held.slice(-mostHeldRows / 2);
  for (const key of Object.keys(row.values)) {
    const chart = grid.charts.get(key) ?? grid.add(key);
    const curve = chart.curves.get(0);
    if (!curve || !extend(curve, row, key)) continue;
    if (curve.x.length > 2 * points) {
      chart.isAsked = false;
      if (chart.isShown) seen(chart);
    } else soil(chart);
  }
});

document.addEventListener("run:rewind", ({ detail: { step } }) => {
  held = held.filter((row) => row.step <= step);
  tokens = held.at(-1)?.tokens ?? 0;
  if (view.x === "step") for (const chart of grid.charts.values()) chart.curves.get(0)?.rewind(step);
  reload();
});

document.addEventListener("run:status", ({ detail }) => (runs[0].began = detail.started_at ?? runs[0].began));
document.addEventListener("chartseen", ({ detail }) => seen(detail));
document.addEventListener("chartgroups", () => writeView(view));
document.addEventListener("chartresize", ({ detail }) => soil(detail));
document.addEventListener("chartzoom", ({ detail }) => {
  if (!detail && !view.zoom) return;
  view.zoom = detail;
  changed("zoom");
});
for (const name of ["themechange", "visibilitychange"]) {
  document.addEventListener(name, () => document.hidden || grid.charts.forEach(soil));
}

// The swatches of a comparison hide and show the curves of their run.
for (const button of document.querySelectorAll("[data-hides]")) {
  const index = Number(button.dataset.hides);
  const tell = () => button.setAttribute("aria-pressed", String(!view.hidden.includes(index)));
  tell();
  button.addEventListener("click", () => {
    view.hidden = view.hidden.includes(index) ? view.hidden.filter((other) => other !== index) : [...view.hidden, index];
    tell();
    changed("hidden");
  });
}

// A page of several runs has no stream: it asks again, also before the first of them has anything to draw.
function follow() {
  if (document.hidden) return;
  if (grid.charts.size) reload();
  else runs.forEach((run, index) => load(run, index, []));
}
if (runs.length > 1 && runs.some((run) => run.live)) setInterval(follow, 5000);

for (const key of read("chart-keys")) grid.add(key);
grid.filter();
bindSamples(grid, view);
panel.dataset.charts = "ready";
