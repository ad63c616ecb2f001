// Curves over k with their bands, drawn with plotly from [data-curves]; colours come from the style sheet. Redraws when the theme,
// the width or, through htmx, the numbers change.

import { colours, faint } from "./run_paint.js";

const drawn = new WeakSet();

function traces(curves, paint, isSigned) {
  return curves.flatMap(({ name, points }, index) => {
    const colour = paint.series[index % paint.series.length];
    const scale = isSigned ? 100 : 1;
    const column = (key) => points.map((point) => point[key] * scale);
    const base = { x: points.map((point) => point.k), mode: "lines", hoverinfo: "skip" };
    const edge = { ...base, line: { width: 0, color: "rgba(0,0,0,0)" } };
    return [
      { ...edge, y: column("low") },
      { ...edge, y: column("high"), fill: "tonexty", fillcolor: faint(colour, 0.16) },
      {
        ...base, name, y: column("value"), mode: "lines+markers", line: { width: 2, color: colour }, marker: { size: 5, color: colour },
        hovertemplate: isSigned ? "%{y:+.1f} points" : "%{y:.1%}", hoverinfo: undefined,
      },
    ];
  });
}

function layout(plot, paint, isSigned, largest) {
  const axis = { color: paint.ink, gridcolor: paint.line, linecolor: paint.line, zeroline: isSigned, zerolinecolor: paint.ink, tickfont: { size: 11 } };
  return {
    margin: { l: 52, r: 12, t: 8, b: 40 }, showlegend: false, hovermode: "x", dragmode: false,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: paint.font, color: paint.ink, size: 11 },
    width: plot.clientWidth, height: plot.clientHeight, hoverlabel: { bgcolor: paint.surface, bordercolor: paint.line, font: { family: paint.font } },
    xaxis: { ...axis, zeroline: false, showgrid: false, title: { text: "k attempts" }, tick0: 1, dtick: Math.ceil(largest / 16), fixedrange: true },
    yaxis: isSigned
      ? { ...axis, ticksuffix: " pts", fixedrange: true, nticks: 6 }
      : { ...axis, tickformat: ".0%", range: [0, 1.02], fixedrange: true, nticks: 6 },
  };
}

function draw(card) {
  const plot = card.querySelector("[data-plot]");
  if (!plot.clientWidth) return;
  const paint = colours();
  const isSigned = "signed" in card.dataset;
  const curves = JSON.parse(card.dataset.curves);
  const largest = curves[0].points.at(-1).k;
  window.Plotly.react(plot, traces(curves, paint, isSigned), layout(plot, paint, isSigned, largest), { displayModeBar: false, locale: "en-US" });
}

const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) draw(target.closest("[data-curves]"));
});

function start() {
  for (const card of document.querySelectorAll("[data-curves]")) {
    if (drawn.has(card)) continue;
    drawn.add(card);
    sizes.observe(card.querySelector("[data-plot]"));
  }
}

document.addEventListener("htmx:afterSettle", start);
document.addEventListener("themechange", () => document.querySelectorAll("[data-curves]").forEach(draw));
start();
