// Keeps the run's header fresh between its reloads: step, progress, time left, speed. Times are reckoned from the last steps.

import { duration, shortNumber } from "./run_curve.js";

const keep = 40;
let recent = [];
let speed = null;
let headline = null;

const header = () => document.getElementById("run-header");
const put = (name, text) => {
  for (const element of document.querySelectorAll(`[data-live="${name}"]`)) element.textContent = text;
};

function standing() {
  const { step, numSteps, began, active } = header().dataset;
  return { step: Number(step), numSteps: Number(numSteps), began: Date.parse(began), active: active === "1" };
}

function show() {
  const { step, numSteps, began, active } = standing();
  put("step", step.toLocaleString("en"));
  put("num_steps", numSteps ? numSteps.toLocaleString("en") : "?");
  const bar = document.querySelector('[data-live="progress"]');
  if (bar && numSteps) bar.value = step / numSteps;
  if (!active || !Number.isFinite(began)) return;
  put("elapsed", duration((Date.now() - began) / 1000));
  const left = secondsLeft(step, numSteps);
  put("left", left === null ? "–" : duration(left));
  if (speed !== null) put("speed", shortNumber(speed));
  if (headline !== null) put("headline", shortNumber(headline));
  if (numSteps) document.title = document.title.replace(/^(\d+ % · )?/, `${Math.floor((100 * step) / numSteps)} % · `);
}

// From the pace of the last steps; null before there are two of them.
function secondsLeft(step, numSteps) {
  const [first, last] = [recent[0], recent.at(-1)];
  if (!numSteps || !first || last.step <= first.step) return null;
  const pace = (last.at - first.at) / 1000 / (last.step - first.step);
  return pace * (numSteps - step);
}

document.addEventListener("run:metrics", ({ detail: row }) => {
  recent.push({ step: row.step, at: Date.parse(row.at) });
  if (recent.length > keep) recent.shift();
  speed = row.values["tokens/per_second"] ?? speed;
  headline = row.values[header().dataset.headline] ?? headline;
  header().dataset.step = String(row.step);
});
document.addEventListener("run:status", ({ detail }) => {
  header().dataset.step = String(detail.step ?? header().dataset.step);
  header().dataset.numSteps = String(detail.num_steps ?? header().dataset.numSteps);
});
document.addEventListener("run:rewind", ({ detail }) => {
  recent = [];
  header().dataset.step = String(detail.step);
});
document.addEventListener("htmx:afterSettle", ({ target }) => target.id === "run-header" && show());
setInterval(() => document.hidden || (header() && show()), 500);
show();
