// From a place in a curve to the samples of that step, and a sanity panel that keeps up with a live run.
// A click that neither zooms nor begins a double click goes to the step under it; markup: [data-rollouts-url] around the charts.

const most = 4; // pixels that a click may move
const patience = 350; // ms in which a second click makes it a double click
const rest = 3000;

const place = document.querySelector("[data-rollouts-url]");
let began = null;
let waiting = 0;

export function bindSamples(grid, view) {
  if (!place?.dataset.rolloutsUrl) return;
  grid.panel.dataset.samples = "";
  const at = (event) => (event.target.closest("[data-plot]") && view.x === "step" ? grid.chartOf(event.target) : null);
  // Plotly takes the mouse's own events for its zoom, so these are heard on their way down.
  grid.panel.addEventListener("pointerdown", (event) => {
    clearTimeout(waiting);
    const chart = event.button === 0 ? at(event) : null;
    began = chart && { chart, x: event.clientX, y: event.clientY, at: event.timeStamp };
  }, true);
  document.addEventListener("pointerup", (event) => {
    const click = began; // by now plotly has laid a cover over the page, so what is under the pointer says nothing
    began = null;
    if (!click || event.timeStamp - click.at > patience) return;
    if (Math.hypot(event.clientX - click.x, event.clientY - click.y) > most) return;
    const x = click.chart.xAt(event.clientX);
    if (x === null) return;
    const nearest = click.chart.curves.get(0)?.near(x)?.x ?? x;
    waiting = setTimeout(() => go(nearest), patience);
  }, true);
  grid.panel.addEventListener("dblclick", () => clearTimeout(waiting), true);
}

function go(step) {
  location.assign(`${place.dataset.rolloutsUrl}?step=${Math.max(1, Math.round(step))}`);
}

document.addEventListener("click", (event) => {
  const curve = event.target.closest("[data-first-step]");
  if (!curve || event.detail === 0 || event.ctrlKey || event.metaKey || event.shiftKey) return; // by keyboard: the newest step
  event.preventDefault();
  const box = curve.getBoundingClientRect();
  const [first, last] = [Number(curve.dataset.firstStep), Number(curve.dataset.lastStep)];
  go(first + Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * (last - first));
});

let due = 0;
document.addEventListener("run:metrics", () => {
  due ||= setTimeout(() => {
    due = 0;
    if (!document.hidden) document.body.dispatchEvent(new CustomEvent("run-sanity"));
  }, rest);
});
