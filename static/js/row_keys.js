// j and k go to the next and the previous row of the page, and over its edge to the next and the previous page.
(() => {
  const cards = () => [...document.querySelectorAll("[data-rows] .row-card")];
  const isTyping = (element) => element.closest("input, select, textarea, [contenteditable], dialog[open]");
  const show = (card) => {
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "start" });
  };

  // The row being read: the focused one, else the first that begins in view.
  function standing(all) {
    const focused = all.indexOf(document.activeElement?.closest(".row-card"));
    if (focused >= 0) return focused;
    const marked = all.findIndex((card) => card.hasAttribute("aria-current"));
    return marked >= 0 ? marked : -1;
  }

  document.addEventListener("keydown", (event) => {
    if ((event.key !== "j" && event.key !== "k") || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    const all = cards();
    if (!all.length) return;
    const next = standing(all) + (event.key === "j" ? 1 : -1);
    if (all[next]) show(all[next]);
    else document.querySelector(`[data-rows] a[rel="${event.key === "j" ? "next" : "prev"}"]`)?.click();
  });

  const land = () => document.querySelector("[data-rows] .row-card[aria-current]")?.scrollIntoView({ block: "start" });
  if (new URLSearchParams(location.search).has("row")) land();
})();
