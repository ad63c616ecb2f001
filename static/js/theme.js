// Runs in <head> before the first paint: sets data-theme on <html> from the stored choice, else from the system.
// Fires "themechange" on document when it changes, so that charts can redraw.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const choices = ["system", "light", "dark"];

  function stored() {
    try {
      const choice = localStorage.getItem("theme");
      return choices.includes(choice) ? choice : "system";
    } catch {
      return "system";
    }
  }

  function apply(choice) {
    const root = document.documentElement;
    const theme = choice === "system" ? (dark.matches ? "dark" : "light") : choice;
    if (root.dataset.theme !== theme) {
      root.dataset.theme = theme;
      document.dispatchEvent(new CustomEvent("themechange", { detail: { theme } }));
    }
    for (const label of document.querySelectorAll("[data-theme-name]")) label.textContent = choice;
  }

  apply(stored());
  dark.addEventListener("change", () => apply(stored()));
  addEventListener("storage", (event) => event.key === "theme" && apply(stored()));
  document.addEventListener("DOMContentLoaded", () => apply(stored()));
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-toggle]")) return;
    const choice = choices[(choices.indexOf(stored()) + 1) % choices.length];
    try {
      localStorage.setItem("theme", choice);
    } catch {
      // Storage is off: the choice lasts for this page only.
    }
    apply(choice);
  });
})();
