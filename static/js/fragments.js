// When htmx asks for a part of the page: a session that ended leads to sign-in, a failure is said above the content.
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
})();
