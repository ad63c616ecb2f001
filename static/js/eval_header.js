// Keeps an eval's header fresh: attempts done, rate, time left, reckoned from the last seconds of the stream. Says "eval-progress"
// on the body at most every two seconds while attempts arrive, so that figures, table and curve ask for themselves anew.

import { duration, shortNumber } from "./run_curve.js";

const lookBack = 20000;
const rest = 2000;
let recent = [];
let last = 0;
let timer = 0;

const header = () => document.getElementById("run-header");
const put = (name, text) => {
  for (const element of document.querySelectorAll(`[data-live="${name}"]`)) element.textContent = text;
};

function show() {
  const numMade = Number(header().dataset.numMade);
  const numAttempts = Number(header().dataset.numAttempts);
  put("num_made", numMade.toLocaleString("en"));
  put("num_attempts", numAttempts.toLocaleString("en"));
  const bar = document.querySelector('[data-live="progress"]');
  if (bar && numAttempts) bar.value = numMade / numAttempts;
  if (header().dataset.active !== "1") return;
  const pace = rate();
  put("rate", pace === null ? "–" : shortNumber(pace));
  put("left", pace ? duration((numAttempts - numMade) / pace) : "–");
  if (numAttempts) document.title = document.title.replace(/^(\d+ % · )?/, `${Math.floor((100 * numMade) / numAttempts)} % · `);
}

// Attempts per second over the window; null before there are two points of it.
function rate() {
  const first = recent[0];
  const now = recent.at(-1);
  if (!first || now.numMade <= first.numMade) return null;
  return (now.numMade - first.numMade) / ((Math.max(now.at, Date.now() - 1000) - first.at) / 1000);
}

function announce() {
  timer = 0;
  last = Date.now();
  if (!document.hidden) document.body.dispatchEvent(new CustomEvent("eval-progress"));
}

document.addEventListener("run:status", ({ detail }) => {
  const before = Number(header().dataset.numMade);
  const numMade = "num_done" in detail ? detail.num_done + detail.num_errors : before;
  if (numMade < before) recent = [];
  header().dataset.numMade = String(numMade);
  header().dataset.numAttempts = String(detail.num_attempts ?? header().dataset.numAttempts);
  const at = Date.now();
  recent.push({ at, numMade });
  recent = recent.filter((point) => at - point.at <= lookBack);
  if (numMade !== before) timer ||= setTimeout(announce, Math.max(0, rest - (at - last)));
});
document.addEventListener("htmx:afterSettle", ({ target }) => target.id === "run-header" && show());
document.addEventListener("visibilitychange", () => document.hidden || announce());
setInterval(() => document.hidden || (header() && show()), 500);
show();
