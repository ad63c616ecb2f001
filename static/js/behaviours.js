// Small behaviours, each asked for by a data attribute: copy, confirm, once, dismiss, relative time, tabs, menus.
// All listen on the document, so fragments that htmx swaps in need no set-up.
(() => {
  // data-copy="#id" or data-copy-text="…": puts text on the clipboard and says so for a moment.
  async function copy(button) {
    const source = button.dataset.copy && document.querySelector(button.dataset.copy);
    const text = button.dataset.copyText ?? source?.textContent ?? "";
    const label = button.querySelector("[data-copy-label]") ?? button;
    const before = label.textContent;
    let said = "Copied";
    try {
      await navigator.clipboard.writeText(text.trim());
    } catch {
      said = "Press Ctrl-C";
      if (source) getSelection().selectAllChildren(source);
    }
    label.textContent = said;
    setTimeout(() => (label.textContent = before), 1600);
  }

  // data-confirm="Question?" on a form, or hx-confirm: asks in the page's own dialog.
  function ask(question, action, agreed) {
    const dialog = document.getElementById("confirm");
    dialog.querySelector("[data-question]").textContent = question;
    dialog.querySelector("[data-agree]").textContent = action || "Continue";
    dialog.returnValue = "";
    dialog.addEventListener("close", () => dialog.returnValue === "agreed" && agreed(), { once: true });
    dialog.showModal();
  }
  const confirmed = new WeakSet();

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.confirm && !confirmed.has(form)) {
      event.preventDefault();
      event.stopPropagation();
      const submitter = event.submitter;
      ask(form.dataset.confirm, form.dataset.confirmAction, () => {
        confirmed.add(form);
        form.requestSubmit(submitter);
        confirmed.delete(form);
      });
      return;
    }
    // data-once: a second click while the first is under way sends nothing.
    if ("once" in form.dataset) {
      if (form.dataset.once === "sent") event.preventDefault();
      form.dataset.once = "sent";
    }
  }, true);
  addEventListener("pageshow", () => {
    for (const form of document.querySelectorAll("form[data-once]")) form.dataset.once = "";
  });
  document.addEventListener("htmx:confirm", (event) => {
    if (!event.detail.question) return;
    event.preventDefault();
    ask(event.detail.question, event.detail.elt.dataset.confirmAction, () => event.detail.issueRequest(true));
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy], [data-copy-text]");
    if (button) copy(button);
    event.target.closest("[data-dismiss]")?.closest(".notice").remove();
    const opener = event.target.closest("[data-opens]");
    if (opener) document.getElementById(opener.dataset.opens).showModal();
    if (event.target.matches("dialog")) event.target.close();
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && document.querySelector("details.menu[open]");
    if (!menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });

  // A select that would cut its word takes the whole row of its fields, and tells the word in full under the pointer.
  const pen = document.createElement("canvas").getContext("2d");
  function fit(select) {
    const field = select.closest(".fields > .field");
    const text = select.selectedOptions[0]?.text.trim() ?? "";
    select.title = text;
    if (!field) return;
    field.classList.remove("field-wide");
    const { font, paddingInlineStart, paddingInlineEnd } = getComputedStyle(select);
    pen.font = font;
    const room = select.clientWidth - parseFloat(paddingInlineStart) - parseFloat(paddingInlineEnd);
    field.classList.toggle("field-wide", select.clientWidth > 0 && pen.measureText(text).width > room);
  }
  const fitAll = (root) => root.querySelectorAll(".field select:not([multiple])").forEach(fit);
  document.addEventListener("DOMContentLoaded", () => fitAll(document));
  document.addEventListener("change", (event) => event.target.matches?.(".field select:not([multiple])") && fit(event.target));

  // <time datetime data-relative>: "3 minutes ago", kept fresh; the exact time stays in the title.
  const words = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
  const units = [["year", 31536000], ["month", 2592000], ["week", 604800], ["day", 86400], ["hour", 3600], ["minute", 60]];
  function relative(seconds) {
    const [unit, size] = units.find(([, size]) => Math.abs(seconds) >= size) ?? ["second", 1];
    return unit === "second" && Math.abs(seconds) < 10 ? "just now" : words.format(Math.trunc(seconds / size), unit);
  }
  function refreshTimes(root) {
    for (const time of root.querySelectorAll("time[data-relative]")) {
      const at = Date.parse(time.dateTime);
      if (Number.isNaN(at)) continue;
      time.title = new Date(at).toLocaleString();
      time.textContent = relative((at - Date.now()) / 1000);
    }
  }
  document.addEventListener("DOMContentLoaded", () => refreshTimes(document));
  // A form that was refused opens at the first field to mend.
  document.addEventListener("DOMContentLoaded", () => document.querySelector('main [aria-invalid="true"]')?.focus());
  document.addEventListener("htmx:load", (event) => {
    const root = event.detail.elt.parentElement ?? document;
    refreshTimes(root);
    fitAll(root);
  });
  setInterval(() => document.hidden || refreshTimes(document), 20000);
})();
