// One chart: the curves of one metric key, one per run. Draws with plotly, reads its colours from the style sheet.

import { finite, shortNumber, smoothed } from "./run_curve.js";

const margin = { l: 48, r: 10, t: 6, b: 26 };
const axisWords = { step: "step", time: "time", tokens: "tokens" };
const coarse = matchMedia("(pointer: coarse)");

function colours() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    series: Array.from({ length: 8 }, (_, index) => read(`--series-${index + 1}`)),
    ink: read("--text-muted"),
    line: read("--line"),
    bad: read("--bad"),
    surface: read("--surface"),
    font: getComputedStyle(document.body).fontFamily,
  };
}

function faint(colour, share) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return `rgba(${red},${green},${blue},${share})`;
}

export class Chart {
  constructor(card, key, runs, view) {
    this.card = card;
    this.key = key;
    this.runs = runs;
    this.view = view;
    this.curves = new Map();
    this.plot = card.querySelector("[data-plot]");
    this.note = card.querySelector("[data-note]");
    this.last = card.querySelector("[data-last]");
    this.cursor = card.querySelector("[data-cursor]");
    this.isShown = false;
    this.isDrawn = false;
    this.at = null;
    this.revision = 0;
  }

  setCurve(runIndex, curve) {
    this.curves.set(runIndex, curve);
  }

  draw() {
    const paint = colours();
    // Live points are appended to the same arrays; without a new revision plotly takes them for unchanged.
    const layout = { ...this.layout(paint), datarevision: (this.revision += 1) };
    const config = { displayModeBar: false, responsive: false, doubleClick: "autosize", showTips: false, locale: "en-US" };
    window.Plotly.react(this.plot, this.traces(paint), layout, config);
    if (!this.isDrawn) this.plot.on("plotly_relayout", (change) => this.zoomed(change));
    this.isDrawn = true;
    this.describe();
  }

  traces(paint) {
    const found = [];
    for (const [index, curve] of this.curves) {
      const colour = paint.series[index % paint.series.length];
      const line = (width, shade) => ({ color: shade, width, shape: "linear" });
      const base = { x: curve.x, mode: curve.x.length === 1 ? "markers" : "lines", hoverinfo: "skip", connectgaps: false };
      if (curve.isThinned && curve.min) {
        const edge = { ...base, mode: "lines", line: line(0, "rgba(0,0,0,0)") };
        found.push({ ...edge, y: curve.min }, { ...edge, y: curve.max, fill: "tonexty", fillcolor: faint(colour, 0.16) });
      }
      if (this.view.smooth) {
        found.push({ ...base, y: curve.y, line: line(1, faint(colour, 0.3)), marker: { color: colour } });
        found.push({ ...base, y: this.smoothedY(curve), line: line(2, colour), marker: { color: colour } });
      } else {
        found.push({ ...base, y: curve.y, line: line(1.6, colour), marker: { color: colour } });
      }
      if (curve.nonFinite.length) {
        const x = curve.nonFinite.map((point) => point.x);
        const marker = { color: paint.bad, symbol: "x", size: 7 };
        found.push({ x, y: x.map(() => 0.97), yaxis: "y2", mode: "markers", marker, hoverinfo: "skip", cliponaxis: false });
      }
    }
    return found;
  }

  layout(paint) {
    const axis = { color: paint.ink, gridcolor: paint.line, linecolor: paint.line, zeroline: false, tickfont: { size: 11 }, automargin: false };
    return {
      margin, showlegend: false, hovermode: false, dragmode: coarse.matches ? false : "zoom",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: paint.font, color: paint.ink, size: 11 },
      height: this.plot.clientHeight || undefined, width: this.plot.clientWidth || undefined,
      xaxis: { ...axis, showgrid: false, ...this.xRange(), nticks: 6, ...(this.view.x === "time" ? { ticksuffix: " s" } : {}) },
      yaxis: { ...axis, type: this.view.log ? "log" : "linear", fixedrange: true, nticks: 5, exponentformat: "e", minexponent: 4 },
      yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
      selections: [], newselection: { line: { color: paint.ink } },
    };
  }

  xRange() {
    return this.view.zoom ? { range: [...this.view.zoom], autorange: false } : { autorange: true };
  }

  zoomed(change) {
    const [low, high] = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (change["xaxis.autorange"]) this.card.dispatchEvent(new CustomEvent("chartzoom", { bubbles: true, detail: null }));
    if (finite(low) && finite(high)) this.card.dispatchEvent(new CustomEvent("chartzoom", { bubbles: true, detail: [low, high] }));
  }

  // The value, how many of how many points are drawn, and what is no number: in words, for everybody.
  describe() {
    const all = [...this.curves.values()];
    const total = all.reduce((sum, curve) => sum + curve.count, 0);
    const drawn = all.reduce((sum, curve) => sum + curve.x.length, 0);
    const odd = all.reduce((sum, curve) => sum + curve.numNonFinite, 0);
    const parts = [];
    if (total > drawn) parts.push(`${drawn.toLocaleString("en")} of ${total.toLocaleString("en")} points, band is min to max`);
    if (odd) parts.push(odd === 1 ? "1 point is NaN or infinite ✕" : `${odd.toLocaleString("en")} points are NaN or infinite ✕`);
    this.note.textContent = parts.join(" · ");
    this.note.classList.toggle("text-bad", odd > 0);
    if (this.at === null) this.showLast();
    else this.pointAt(this.at);
    const value = this.last.textContent.trim();
    this.plot.setAttribute("aria-label", `${this.key}: ${value || "no points yet"}. ${this.note.textContent}`);
  }

  showLast() {
    this.say([...this.curves].map(([index, curve]) => [index, curve.y.at(-1) ?? curve.nonFinite.at(-1)?.value]));
  }

  // Values in the card's corner; with several runs each beside its colour.
  say(values, where = "") {
    const parts = values.map(([index, value]) => {
      const part = document.createElement("span");
      if (this.runs.length > 1) part.className = `swatch swatch-${(index % 8) + 1}`;
      part.textContent = shortNumber(value);
      return part;
    });
    this.last.replaceChildren(...parts, ...(where ? [Object.assign(document.createElement("small"), { textContent: where })] : []));
  }

  smoothedY(curve) {
    return smoothed(curve.y, this.view.smooth);
  }

  // Pointer position on the card → x on the axis; null beside the plot.
  xAt(clientX) {
    const axis = this.isDrawn && this.plot._fullLayout?.xaxis;
    if (!axis) return null;
    const pixel = clientX - this.plot.getBoundingClientRect().left - axis._offset;
    return pixel < 0 || pixel > axis._length ? null : axis.p2d(pixel);
  }

  // The cursor that all charts share: a line at x, and the value there.
  pointAt(x) {
    const axis = this.isDrawn && this.plot._fullLayout?.xaxis;
    const pixel = axis ? axis.d2p(x) : -1;
    if (!axis || pixel < 0 || pixel > axis._length) return this.unpoint();
    this.at = x;
    this.cursor.hidden = false;
    this.cursor.style.transform = `translateX(${Math.round(pixel + axis._offset)}px)`;
    let where = "";
    const values = [...this.curves].map(([index, curve]) => {
      const point = curve.near(x);
      if (!point) return [index, null];
      where = `${axisWords[this.view.x]} ${shortNumber(point.x)}${this.view.x === "time" ? " s" : ""}`;
      const odd = point.y === null && curve.nonFinite.find((marker) => marker.x === point.x);
      return [index, odd ? odd.value : this.view.smooth ? this.smoothedY(curve)[point.index] : point.y];
    });
    this.say(values, where);
  }

  unpoint() {
    if (this.at === null) return;
    this.at = null;
    this.cursor.hidden = true;
    this.showLast();
  }

  // By way of an SVG in a data: address; plotly's own PNG goes through blob:, which the policy does not let images use.
  async savePng(name) {
    const paint = colours();
    const [width, height, scale] = [900, 500, 2];
    const title = { text: this.key.replaceAll("<", "&lt;"), font: { size: 14 } };
    const layout = { ...this.layout(paint), paper_bgcolor: paint.surface, title, margin: { ...margin, t: 40 }, width, height };
    const drawing = new Image(width * scale, height * scale);
    drawing.src = await window.Plotly.toImage({ data: this.traces(paint), layout }, { format: "svg", width, height });
    await drawing.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: width * scale, height: height * scale });
    canvas.getContext("2d").drawImage(drawing, 0, 0, canvas.width, canvas.height);
    this.save(canvas.toDataURL("image/png"), name, "png");
  }

  // The points as drawn, one line each; the run's own CSV has all of them.
  saveCsv(name) {
    const lines = [`run,${this.view.x},${this.key}`];
    for (const [index, curve] of this.curves) {
      const run = `"${this.runs[index].name.replaceAll('"', '""')}"`;
      curve.x.forEach((x, at) => lines.push(`${run},${x},${curve.y[at] ?? ""}`));
    }
    const url = URL.createObjectURL(new Blob([lines.join("\n"), "\n"], { type: "text/csv" }));
    this.save(url, name, "csv");
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  save(url, name, kind) {
    Object.assign(document.createElement("a"), { href: url, download: `${name}-${this.key.replaceAll("/", "-")}.${kind}` }).click();
  }
}
