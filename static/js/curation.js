// The workbench: a preset or a saved filter fills in the form, as if it had been typed; the filter grows with its text.
(() => {
  const form = document.getElementById("workbench");
  if (!form) return;
  const typed = form.elements.namedItem("filter");

  function fit() {
    typed.style.height = "auto";
    typed.style.height = `${typed.scrollHeight + 2}px`;
  }

  function fill(settings) {
    for (const [name, value] of Object.entries(settings)) {
      const field = form.elements.namedItem(name);
      if (field) field.value = value === null ? "" : String(value);
    }
    fit();
    typed.dispatchEvent(new Event("change", { bubbles: true }));
  }

  form.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-settings]");
    if (!button) return;
    fill(JSON.parse(button.dataset.settings));
    button.closest("details.menu")?.removeAttribute("open");
  });
  typed.addEventListener("input", fit);
  typed.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault(); // Enter in a filter asks again; it does not publish
    typed.dispatchEvent(new Event("change", { bubbles: true }));
  });
  fit();
})();
