// The colours of a chart, read from the style sheet each time, so that a change of theme is a redraw.

export function colours() {
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

export function faint(colour, share) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return `rgba(${red},${green},${blue},${share})`;
}
