// The page's one EventSource. Every event becomes a DOM event on document, run:<name>, and on body run-<name> for htmx fragments.
// The row id is the cursor: the browser sends it back when it reconnects, so nothing is lost or repeated.

const page = document.querySelector("[data-live-url]");
const ended = ["completed", "failed", "crashed", "cancelled"];
const refreshed = ["event", "checkpoint", "rewind"];

let standing = "waiting";

function say(state) {
  standing = state;
  const light = document.querySelector("[data-live-state]");
  if (!light) return;
  light.dataset.liveState = state;
  light.textContent = { live: "live", waiting: "connecting…", over: "" }[state];
}

function open() {
  const source = new EventSource(page.dataset.liveUrl);
  let status = page.dataset.status;
  source.addEventListener("open", () => say("live"));
  source.addEventListener("error", () => {
    const closed = source.readyState === EventSource.CLOSED;
    say(closed ? "over" : "waiting");
    // No more is to come, but the end was not heard of: it fell between the page and its stream. The page asks how it went.
    if (closed && !ended.includes(status)) document.body.dispatchEvent(new CustomEvent("run-status", { detail: { status } }));
  });
  for (const name of ["metrics", "status", ...refreshed]) {
    source.addEventListener(name, (event) => {
      const detail = JSON.parse(event.data);
      document.dispatchEvent(new CustomEvent(`run:${name}`, { detail }));
      if (refreshed.includes(name)) document.body.dispatchEvent(new CustomEvent(`run-${name}`, { detail }));
      if (name !== "status" || detail.status === status) return;
      status = detail.status;
      document.body.dispatchEvent(new CustomEvent("run-status", { detail }));
      if (!ended.includes(status)) return;
      source.close();
      say("over");
    });
  }
  addEventListener("pagehide", () => source.close(), { once: true });
}

// An element that replaces itself is asked for again while its answer is on its way: htmx would keep that with the old element, and
// forget it. So the newest state would never be shown, where two changes come within one round trip.
const missed = new Set();
for (const name of ["run-status", "eval-progress"]) {
  const asking = `.htmx-request[id][hx-swap="outerHTML"][hx-trigger*="${name}"]`;
  document.body.addEventListener(name, () => document.querySelectorAll(asking).forEach(({ id }) => missed.add(id)), true);
}
document.addEventListener("htmx:afterSettle", ({ target }) => {
  const url = target.getAttribute("hx-get");
  if (missed.delete(target.id) && url) window.htmx.ajax("GET", url, { source: target, target, swap: "outerHTML" });
});

// The light stands in the header, which comes anew with each status.
document.addEventListener("htmx:afterSettle", ({ target }) => target.id === "run-header" && say(standing));
addEventListener("pageshow", (event) => event.persisted && location.reload());
if (page.dataset.liveUrl) open();
