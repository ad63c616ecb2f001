// What the charts show and how, kept in the address: a refresh or a shared link shows the same.
// Without a word in the address: no smoothing, linear, steps, nothing zoomed, every group open, every run shown.

const defaults = { smooth: 0, log: false, x: "step", zoom: null, closed: [], find: "", hidden: [] };

export function readView() {
  const query = new URLSearchParams(location.search);
  const view = structuredClone(defaults);
  const smooth = Number(query.get("smooth"));
  if (smooth > 0 && smooth < 1) view.smooth = smooth;
  view.log = query.get("log") === "1";
  if (["time", "tokens"].includes(query.get("x"))) view.x = query.get("x");
  const zoom = (query.get("zoom") ?? "").split("_").map(Number);
  if (zoom.length === 2 && zoom.every(Number.isFinite) && zoom[0] < zoom[1]) view.zoom = zoom;
  view.closed = (query.get("closed") ?? "").split(",").filter(Boolean);
  view.find = query.get("find") ?? "";
  view.hidden = (query.get("hidden") ?? "").split(",").filter(Boolean).map(Number);
  return view;
}

export function writeView(view) {
  const query = new URLSearchParams(location.search);
  const put = (name, value) => (value ? query.set(name, value) : query.delete(name));
  put("smooth", view.smooth ? String(view.smooth) : "");
  put("log", view.log ? "1" : "");
  put("x", view.x === "step" ? "" : view.x);
  put("zoom", view.zoom ? view.zoom.map((edge) => Number(edge.toPrecision(8))).join("_") : "");
  put("closed", view.closed.join(","));
  put("find", view.find);
  put("hidden", view.hidden.join(","));
  const text = query.toString();
  history.replaceState(history.state, "", `${location.pathname}${text ? `?${text}` : ""}${location.hash}`);
}

// Ties the toolbar's inputs to a view; `changed(name)` is called after each change.
export function bindControls(toolbar, view, changed) {
  const control = (name) => toolbar.querySelector(`[data-view="${name}"]`);
  const smooth = control("smooth");
  const shown = toolbar.querySelector("[data-smooth-value]");
  const showSmooth = () => (shown.textContent = view.smooth ? view.smooth.toFixed(2) : "off");
  smooth.value = String(view.smooth);
  showSmooth();
  smooth.addEventListener("input", () => {
    view.smooth = Number(smooth.value);
    showSmooth();
    changed("smooth");
  });
  control("log").checked = view.log;
  control("log").addEventListener("change", (event) => {
    view.log = event.target.checked;
    changed("log");
  });
  for (const radio of toolbar.querySelectorAll('[data-view="x"]')) {
    radio.checked = radio.value === view.x;
    radio.addEventListener("change", () => {
      view.x = radio.value;
      view.zoom = null;
      changed("x");
    });
  }
  control("find").value = view.find;
  control("find").addEventListener("input", (event) => {
    view.find = event.target.value.trim();
    changed("find");
  });
  control("reset").addEventListener("click", () => {
    view.zoom = null;
    changed("zoom");
  });
  const showReset = () => (control("reset").hidden = !view.zoom);
  showReset();
  return showReset;
}
