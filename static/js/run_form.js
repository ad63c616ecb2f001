// The settings come anew when dataset, model, algorithm or backend changes. What was typed while they were under way is put back,
// and what was unfolded stays unfolded.
(() => {
  const isSettings = (element) => element?.id === "settings";
  const typed = () => new Map(new FormData(document.getElementById("run-form")));
  let sent = new Map();
  let since = [];
  let unfolded = [];

  document.addEventListener("htmx:beforeRequest", ({ target }) => {
    if (isSettings(target)) sent = typed();
  });
  document.addEventListener("htmx:beforeSwap", ({ target }) => {
    if (!isSettings(target)) return;
    since = [...typed()].filter(([name, value]) => sent.has(name) && sent.get(name) !== value);
    unfolded = [...target.querySelectorAll("details[open]")].map((details) => details.id);
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const id of unfolded) if (document.getElementById(id)) document.getElementById(id).open = true;
    for (const [name, value] of since) {
      const field = document.getElementById("run-form").elements.namedItem(name);
      if (field) field.value = value;
    }
    since = unfolded = [];
  });
})();
