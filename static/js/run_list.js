// Ticked runs (or what data-noun calls them) survive the list's reloads, and the button says how many there are. Two are needed to
// compare, data-most may be compared at once.
(() => {
  const ticked = new Set();

  function show() {
    for (const box of document.querySelectorAll('[data-compare] input[name="run"]')) box.checked = ticked.has(box.value);
    const button = document.querySelector("[data-compare-button]");
    if (!button) return;
    const { noun = "runs", most } = button.closest("[data-compare]").dataset;
    button.disabled = ticked.size < 2 || ticked.size > Number(most ?? Infinity);
    button.textContent = button.disabled ? `Tick two ${noun}${most ? "" : " or more"} to compare them` : `Compare ${ticked.size} ${noun}`;
  }

  document.addEventListener("change", ({ target }) => {
    if (!target.matches('[data-compare] input[name="run"]')) return;
    if (target.checked) ticked.add(target.value);
    else ticked.delete(target.value);
    show();
  });
  // Those on another page of the list go along too.
  document.addEventListener("submit", ({ target }) => {
    if (!target.matches("[data-compare]")) return;
    for (const pk of ticked) {
      if (target.querySelector(`input[name="run"][value="${CSS.escape(pk)}"]`)) continue;
      target.append(Object.assign(document.createElement("input"), { type: "hidden", name: "run", value: pk }));
    }
  });
  document.addEventListener("htmx:afterSwap", show);
  document.addEventListener("DOMContentLoaded", show);
})();
