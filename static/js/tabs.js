// Tabs: <div class="tabs" role="tablist"> of <button role="tab" aria-controls="panel" id="…">, panels role="tabpanel".
// The chosen panel's id stands in the address after #, so a refresh or a shared link opens the same tab.
// Fires "tabshow" on the panel, for charts that must measure themselves once visible.
(() => {
  function choose(tab, { remember = false } = {}) {
    for (const other of tab.closest('[role="tablist"]').querySelectorAll('[role="tab"]')) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      const panel = document.getElementById(other.getAttribute("aria-controls"));
      if (panel) panel.hidden = !chosen;
    }
    const id = tab.getAttribute("aria-controls");
    if (remember) history.replaceState(history.state, "", `#${id}`);
    document.getElementById(id)?.dispatchEvent(new CustomEvent("tabshow", { bubbles: true }));
  }

  function start() {
    for (const list of document.querySelectorAll('[role="tablist"]')) {
      const tabs = [...list.querySelectorAll('[role="tab"]')];
      const wanted = tabs.find((tab) => `#${tab.getAttribute("aria-controls")}` === location.hash);
      const given = tabs.find((tab) => tab.getAttribute("aria-selected") === "true");
      if (tabs.length) choose(wanted ?? given ?? tabs[0]);
    }
  }

  document.addEventListener("DOMContentLoaded", start);
  addEventListener("hashchange", start);
  document.addEventListener("click", (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (tab) choose(tab, { remember: true });
  });
  document.addEventListener("keydown", (event) => {
    const tab = event.target.closest?.('[role="tab"]');
    if (!tab) return;
    const tabs = [...tab.closest('[role="tablist"]').querySelectorAll('[role="tab"]')];
    const at = tabs.indexOf(tab);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = tabs[(to + tabs.length) % tabs.length];
    next.focus();
    choose(next, { remember: true });
  });
})();
