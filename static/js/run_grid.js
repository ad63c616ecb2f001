// The cards of the charts in their groups: made from <template>s, folded, filtered, watched for coming into view; the shared cursor.

import { saveCsv, savePng } from "./run_export.js";

const order = ["train", "reward", "rewards", "optim", "eval", "tokens", "time", "progress"];
const spelled = { kl: "KL" };
const rank = (group) => (order.indexOf(group) + 1 || order.indexOf("eval") + 1.5);

export class Grid {
  constructor(panel, view, makeChart) {
    this.panel = panel;
    this.view = view;
    this.makeChart = makeChart;
    this.charts = new Map();
    this.groups = new Map();
    this.headlines = panel.dataset.headlines.split(" ");
    this.groupTemplate = document.getElementById("chart-group");
    this.cardTemplate = document.getElementById("chart-card");
    this.notice = document.querySelector("[data-chart-notice]");
    this.empty = document.querySelector("[data-chart-empty]");
    this.inView = new IntersectionObserver((entries) => entries.forEach((entry) => this.crossed(entry)), { rootMargin: "200px" });
    this.sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => this.tell("chartresize", target)));
    panel.addEventListener("pointermove", (event) => this.pointed(event));
    panel.addEventListener("pointerleave", () => this.unpoint());
    panel.addEventListener("click", (event) => this.clicked(event));
  }

  add(key) {
    const group = key.includes("/") ? key.split("/", 1)[0] : "other";
    const card = this.cardTemplate.content.firstElementChild.cloneNode(true);
    card.dataset.metric = key;
    card.querySelector("[data-title]").textContent = key.includes("/") ? key.slice(key.indexOf("/") + 1) : key;
    card.querySelector("[data-title]").title = key;
    const chart = this.makeChart(card, key);
    this.charts.set(key, chart);
    const section = this.groups.get(group) ?? this.addGroup(group);
    const cards = section.querySelector("[data-cards]");
    cards.insertBefore(card, [...cards.children].find((other) => this.place(other.dataset.metric) > this.place(key)) ?? null);
    this.count(section);
    this.empty.hidden = true;
    this.inView.observe(card);
    this.sizes.observe(chart.plot);
    card.hidden = !this.matches(key);
    return chart;
  }

  addGroup(group) {
    const section = this.groupTemplate.content.firstElementChild.cloneNode(true);
    section.dataset.group = group;
    section.querySelector("[data-group-name]").textContent = spelled[group] ?? group;
    section.open = !this.view.closed.includes(group);
    section.addEventListener("toggle", () => {
      const closed = [...this.groups].filter(([, each]) => !each.open).map(([name]) => name);
      if (closed.join() === this.view.closed.join()) return;
      this.view.closed = closed;
      document.dispatchEvent(new CustomEvent("chartgroups"));
    });
    const next = [...this.groups.keys()].find((other) => this.rank(other) > this.rank(group));
    this.panel.insertBefore(section, next ? this.groups.get(next) : null);
    this.groups.set(group, section);
    this.groups = new Map([...this.groups].sort(([a], [b]) => this.rank(a) - this.rank(b)));
    return section;
  }

  // As the server sorts them, whenever they arrive: what the runs are judged by comes first.
  place(key) {
    return this.headlines.includes(key) ? "" : key;
  }

  rank(group) {
    return this.headlines.some((key) => key.startsWith(`${group}/`)) ? 0 : rank(group);
  }

  matches(key) {
    return key.toLowerCase().includes(this.view.find.toLowerCase());
  }

  filter() {
    for (const [key, chart] of this.charts) chart.card.hidden = !this.matches(key);
    for (const section of this.groups.values()) this.count(section);
  }

  count(section) {
    const shown = section.querySelectorAll("[data-metric]:not([hidden])").length;
    section.querySelector("[data-group-count]").textContent = String(shown);
    section.hidden = shown === 0;
  }

  chartOf(element) {
    return this.charts.get(element.closest("[data-metric]")?.dataset.metric);
  }

  tell(name, element) {
    const chart = this.chartOf(element);
    if (chart?.isShown) document.dispatchEvent(new CustomEvent(name, { detail: chart }));
  }

  crossed({ target, isIntersecting }) {
    const chart = this.chartOf(target);
    chart.isShown = isIntersecting;
    if (isIntersecting) this.tell("chartseen", target);
  }

  // One cursor for all charts: the value of every curve at the same place.
  pointed(event) {
    const chart = this.chartOf(event.target);
    this.at = chart?.xAt(event.clientX) ?? null;
    this.moving ||= requestAnimationFrame(() => {
      this.moving = 0;
      for (const each of this.charts.values()) {
        if (!each.isShown || !each.isDrawn) continue;
        if (this.at === null) each.unpoint();
        else each.pointAt(this.at);
      }
    });
  }

  unpoint() {
    this.at = null;
    for (const chart of this.charts.values()) chart.unpoint();
  }

  async clicked(event) {
    const chart = this.chartOf(event.target);
    if (event.target.closest("[data-png]")) await savePng(chart, this.panel.dataset.name);
    const wide = event.target.closest("[data-wide]");
    if (wide) wide.setAttribute("aria-pressed", String(chart.card.toggleAttribute("data-wide-card")));
    if (event.target.closest("[data-csv]")) saveCsv(chart, this.panel.dataset.name);
  }

  // A sentence above the charts; `again` is tried after a few seconds.
  warn(sentence, again) {
    this.notice.hidden = !sentence;
    this.notice.querySelector("[data-sentence]").textContent = sentence;
    if (again) setTimeout(again, 4000);
  }
}
