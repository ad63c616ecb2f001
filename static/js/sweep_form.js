// One axis after the other: the next one shows when the one before has a setting, and each says what its values may be.
(() => {
  const axes = () => [...document.querySelectorAll("[data-axis]")];
  const path = (axis) => axis.querySelector("[data-axis-path]");

  function arrange() {
    let open = true;
    for (const axis of axes()) {
      axis.hidden = !open && !path(axis).value;
      open = open && Boolean(path(axis).value);
      const { hint = "", current = "" } = path(axis).selectedOptions[0].dataset;
      axis.querySelector("[data-axis-hint]").textContent = ["with commas between them", hint].filter(Boolean).join("; ");
      axis.querySelector("input").placeholder = current ? `now ${current}` : "";
    }
  }

  document.addEventListener("change", ({ target }) => {
    if (target.matches("[data-axis-path]")) arrange();
  });
  arrange();
})();
