// The frame of every page: navigation on small screens, keyboard shortcuts, the shortcut list, the jump palette.
// A shortcut is an attribute: data-key="n" or data-key="g r" on a link, button or input; its words are data-key-label or its text.
(() => {
  const palette = () => document.getElementById("palette");
  const typing = (element) => element.closest?.("input, textarea, select, [contenteditable]");

  document.addEventListener("click", (event) => {
    const toggle = event.target.closest("[data-nav-toggle]");
    if (toggle) {
      const open = toggle.closest(".shell-nav").toggleAttribute("data-open");
      toggle.setAttribute("aria-expanded", String(open));
    }
    if (event.target.closest("[data-palette]")) openPalette();
    if (event.target.closest("[data-help]")) openHelp();
  });

  function openPalette() {
    if (!palette() || document.querySelector("dialog[open]")) return;
    palette().showModal();
    palette().querySelector("input").select();
  }

  function labelOf(element) {
    return element.dataset.keyLabel || element.getAttribute("aria-label") || element.textContent.trim().replace(/\s+/g, " ");
  }

  function openHelp() {
    const help = document.getElementById("help");
    if (!help || document.querySelector("dialog[open]")) return;
    const rows = [...document.querySelectorAll("[data-key]")].map((element) => [labelOf(element), element.dataset.key]);
    rows.push(["Search cycles, runs, evals and datasets", "Ctrl K"], ["This list", "?"], ["Close", "Esc"]);
    const list = help.querySelector(".shortcuts");
    list.replaceChildren(...rows.flatMap(([words, keys]) => {
      const term = document.createElement("dt");
      term.textContent = words;
      const definition = document.createElement("dd");
      for (const key of keys.split(" ")) {
        const cap = document.createElement("kbd");
        cap.textContent = key;
        definition.append(cap, " ");
      }
      return [term, definition];
    }));
    help.showModal();
  }

  let first = "";
  let forget = 0;
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      openPalette();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || typing(event.target)) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "?") return openHelp();
    const keys = first ? `${first} ${event.key}` : event.key;
    clearTimeout(forget);
    first = "";
    const target = document.querySelector(`[data-key="${CSS.escape(keys)}"]`);
    if (target) {
      event.preventDefault();
      target.matches("input, textarea, select") ? target.focus() : target.click();
    } else if (event.key === "/") {
      event.preventDefault();
      openPalette();
    } else if (document.querySelector(`[data-key^="${CSS.escape(event.key)} "]`)) {
      first = event.key;
      forget = setTimeout(() => (first = ""), 1200);
    }
  });

  // Palette: arrows move over the links of the result, Enter opens; focus stays in the input.
  function options() {
    return [...document.querySelectorAll("#palette-results [role=option]")];
  }
  function select(index) {
    const all = options();
    all.forEach((option, at) => option.setAttribute("aria-selected", String(at === index)));
    const input = palette().querySelector("input");
    if (!all[index]) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", all[index].id);
    all[index].scrollIntoView({ block: "nearest" });
  }
  document.addEventListener("htmx:afterSwap", (event) => event.target.id === "palette-results" && select(0));
  document.addEventListener("keydown", (event) => {
    if (!event.target.matches?.("#palette input")) return;
    if (event.key === "Escape") {
      event.preventDefault(); // a search field would empty itself first
      palette().close();
    }
    const all = options();
    const at = all.findIndex((option) => option.getAttribute("aria-selected") === "true");
    if (event.key === "Enter") {
      event.preventDefault();
      all[Math.max(at, 0)]?.click();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (all.length) select((at + (event.key === "ArrowDown" ? 1 : -1) + all.length) % all.length);
    }
  });
})();
