// One chart: the curves of one metric key, one per run. Draws with plotly, reads its colours from the style sheet.

import { finite, shortNumber, smoothed } from "./run_curve.js";
import { colours, faint } from "./run_paint.js";

const margin = { l: 48, r: 10, t: 6, b: 26 };
const axisWords = { step: "step", time: "time", tokens: "tokens" };
const coarse = matchMedia("(pointer: coarse)");

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
    this.tip = card.querySelector("[data-tip]");
    this.isShown = false;
    this.isDrawn = false;
    this.at = null;
    this.revision = 0;
  }

  setCurve(runIndex, curve) {
    this.curves.set(runIndex, curve);
    this.curves = new Map([...this.curves].sort(([a], [b]) => a - b));
  }

  // Without the runs that are hidden: [run index, curve].
  get drawn() {
    return [...this.curves].filter(([index]) => !this.view.hidden.includes(index));
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
    for (const [index, curve] of this.drawn) {
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
      yaxis: { ...axis, ...this.yRange(), type: this.view.log ? "log" : "linear", fixedrange: true, nticks: 5, exponentformat: this.isLarge() ? "SI" : "e", minexponent: 3 },
      yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
      selections: [], newselection: { line: { color: paint.ink } },
    };
  }

  // Millions read better as 2M, millionths as 2e-6.
  isLarge() {
    return this.drawn.some(([, curve]) => Math.abs(curve.y.at(-1) ?? 0) >= 1e4);
  }

  // A level curve gets room above and below; plotly would show 0.0001 as a line at 0 between -1 and 1.
  yRange() {
    const levels = new Set(this.drawn.flatMap(([, curve]) => (curve.isThinned ? [...curve.min, ...curve.max] : curve.y)));
    levels.delete(null);
    const [level] = levels;
    return levels.size === 1 && level && !this.view.log ? { range: [level - Math.abs(level) / 2, level + Math.abs(level) / 2] } : { autorange: true };
  }

  xRange() {
    return this.view.zoom ? { range: [...this.view.zoom], autorange: false } : { autorange: true };
  }

  zoomed(change) {
    const [low, high] = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (change["xaxis.autorange"]) this.card.dispatchEvent(new CustomEvent("chartzoom", { bubbles: true, detail: null }));
    if (finite(low) && finite(high)) this.card.dispatchEvent(new CustomEvent("chartzoom", { bubbles: true, detail: [low, high] }));
  }

  // The chart on its own, to be drawn elsewhere: {data, layout} as plotly takes them.
  figure(size) {
    const paint = colours();
    const title = { text: this.key.replaceAll("<", "&lt;"), font: { size: 14 } };
    return { data: this.traces(paint), layout: { ...this.layout(paint), paper_bgcolor: paint.surface, title, margin: { ...margin, t: 40 }, ...size } };
  }

  // The value, how many of how many points are drawn, and what is no number: in words, for everybody.
  describe() {
    const all = this.drawn.map(([, curve]) => curve);
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

  // One run: the last value in the card's corner. Several: the table above the charts has them.
  showLast() {
    const curve = this.runs.length === 1 ? this.curves.get(0) : null;
    this.last.textContent = curve?.x.length ? shortNumber(curve.y.at(-1) ?? curve.nonFinite.at(-1)?.value) : "";
  }

  // What is under the cursor: in the corner for one run, in a small table beside the cursor for several.
  say(values, where, pixel) {
    const part = (tag, className, text) => Object.assign(document.createElement(tag), { className, textContent: text });
    if (this.runs.length === 1) {
      return this.last.replaceChildren(part("span", "", shortNumber(values[0]?.[1])), part("small", "", where));
    }
    const rows = values.flatMap(([index, value]) => [
      part("span", `swatch swatch-${(index % 8) + 1} truncate`, this.runs[index].name),
      part("span", "", shortNumber(value)),
    ]);
    this.tip.replaceChildren(part("small", "", where), ...rows);
    this.tip.hidden = !this.card.matches(":hover");
    const room = this.plot.clientWidth - this.tip.offsetWidth;
    this.tip.style.transform = `translateX(${pixel + 12 > room ? Math.max(0, pixel - this.tip.offsetWidth - 12) : pixel + 12}px)`;
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
    const points = this.drawn.map(([run, curve]) => ({ run, curve, ...curve.near(x) }));
    const nearest = points.reduce((best, point) => (Math.abs(point.x - x) < Math.abs(best.x - x) ? point : best), points[0]);
    const where = nearest?.x === undefined ? "" : `${axisWords[this.view.x]} ${shortNumber(nearest.x)}${this.view.x === "time" ? " s" : ""}`;
    this.say(points.map((point) => [point.run, this.valueAt(point, x)]), where, pixel + axis._offset);
  }

  // Smoothed as drawn; null where the curve has ended before x, the word where it is no number.
  valueAt({ curve, x: found, y, index }, x) {
    if (found === undefined || (this.runs.length > 1 && x > curve.x.at(-1) && found < x)) return null;
    if (y === null) return curve.nonFinite.find((marker) => marker.x === found)?.value ?? null;
    return this.view.smooth ? this.smoothedY(curve)[index] : y;
  }

  unpoint() {
    if (this.at === null) return;
    this.at = null;
    this.cursor.hidden = true;
    this.tip.hidden = true;
    this.showLast();
  }
}
