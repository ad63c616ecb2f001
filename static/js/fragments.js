// When htmx asks for a part of the page: a session that ended leads to sign-in, a failure is said above the content, and a part
// that asks for itself anew keeps the keyboard's place.
(() => {
  let repeats = null;

  function say(words) {
    const place = document.getElementById("trouble");
    if (!place || place.textContent === words) return;
    const notice = document.createElement("div");
    notice.className = "notice notice-error";
    notice.textContent = words;
    place.replaceChildren(notice);
    clearTimeout(repeats);
    repeats = setTimeout(() => place.replaceChildren(), 15000);
  }

  document.addEventListener("htmx:beforeSwap", (event) => {
    const address = event.detail.xhr.responseURL;
    if (!address || new URL(address).pathname !== document.body.dataset.login) return;
    event.detail.shouldSwap = false;
    location.reload();
  });
  document.addEventListener("htmx:responseError", (event) => {
    if (event.detail.xhr.status !== 422) say(`The server could not answer (${event.detail.xhr.status}). Reload the page and try again.`);
  });
  document.addEventListener("htmx:sendError", () => say("The server cannot be reached. What you see may be old."));
  document.addEventListener("htmx:afterRequest", (event) => event.detail.successful && document.getElementById("trouble")?.replaceChildren());

  // Parts that come anew every few seconds: focus and sideways scrolling stay where they were (htmx keeps them for elements with an
  // id alone), and while somebody marks text in one of them it is left as it is.
  let kept = null;

  function addressOf(element) {
    const quoted = (name) => `[${name}="${CSS.escape(element.getAttribute(name))}"]`;
    if (element.matches("a[href]")) return `a${quoted("href")}`;
    for (const name of ["aria-label", "aria-labelledby"]) if (element.hasAttribute(name)) return element.localName + quoted(name);
    const action = element.closest("form")?.getAttribute("action");
    return action ? `form[action="${CSS.escape(action)}"] ${element.localName}` : null;
  }

  document.addEventListener("htmx:beforeSwap", ({ detail }) => {
    kept = null;
    if (!detail.requestConfig.elt.getAttribute("hx-trigger")?.startsWith("every")) return;
    const marked = getSelection();
    if (!marked.isCollapsed && detail.target.contains(marked.anchorNode)) {
      detail.shouldSwap = false;
      return;
    }
    const held = document.activeElement;
    const wraps = [...detail.target.querySelectorAll(".table-wrap"), detail.target].filter((wrap) => wrap.scrollLeft > 0);
    kept = {
      focus: detail.target.contains(held) && !held.id ? addressOf(held) : null,
      scrolled: wraps.map((wrap) => [addressOf(wrap), wrap.scrollLeft]),
    };
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const [address, left] of kept?.scrolled ?? []) {
      const wrap = address && document.querySelector(address);
      if (wrap) wrap.scrollLeft = left;
    }
    if (kept?.focus && document.activeElement === document.body) document.querySelector(kept.focus)?.focus({ preventScroll: true });
    kept = null;
  });
})();
