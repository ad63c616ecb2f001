// A chart as a file: PNG of what is seen, CSV of the points that are drawn.

const size = { width: 900, height: 500 };
const scale = 2;

// By way of an SVG in a data: address; plotly's own PNG goes through blob:, which the policy does not let images use.
export async function savePng(chart, name) {
  const drawing = new Image(size.width * scale, size.height * scale);
  drawing.src = await window.Plotly.toImage(chart.figure(size), { format: "svg", ...size });
  await drawing.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: size.width * scale, height: size.height * scale });
  canvas.getContext("2d").drawImage(drawing, 0, 0, canvas.width, canvas.height);
  save(canvas.toDataURL("image/png"), chart, name, "png");
}

// One line a point; the run's own CSV has every point and key.
export function saveCsv(chart, name) {
  const lines = [`run,${chart.view.x},${quoted(chart.key)}`];
  for (const [index, curve] of chart.drawn) {
    curve.x.forEach((x, at) => lines.push(`${quoted(chart.runs[index].name)},${x},${curve.y[at] ?? ""}`));
  }
  const url = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
  save(url, chart, name, "csv");
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// A spreadsheet would run a cell that begins like a formula.
function quoted(text) {
  return `"${text.replace(/^[=+\-@]/, "'$&").replaceAll('"', '""')}"`;
}

function save(url, chart, name, kind) {
  Object.assign(document.createElement("a"), { href: url, download: `${name}-${chart.key.replaceAll("/", "-")}.${kind}` }).click();
}
