// The upload form: drop a file anywhere on the zone, see how far it is, cancel it. Without this script it is a plain form.
(() => {
  const form = document.querySelector("form[data-upload]");
  if (!form) return;
  const zone = form.querySelector("[data-dropzone]");
  const input = form.querySelector("input[type=file]");
  const words = form.querySelector("[data-dropped]");
  const panel = form.querySelector("[data-progress]");
  const bar = panel.querySelector("progress");
  const said = panel.querySelector("[data-progress-words]");
  const button = form.querySelector(".form-actions button");
  const empty = words.textContent;

  const size = (bytes) => {
    const power = Math.min(3, Math.floor(Math.log2(Math.max(bytes, 1)) / 10));
    const value = bytes / 1024 ** power;
    return `${power && value < 10 ? value.toFixed(1) : Math.round(value)} ${["bytes", "KB", "MB", "GB"][power]}`;
  };
  const show = () => {
    const file = input.files[0];
    words.textContent = file ? `${file.name}, ${size(file.size)}` : empty;
  };

  for (const name of ["dragenter", "dragover"]) {
    zone.addEventListener(name, (event) => {
      event.preventDefault();
      zone.dataset.over = "";
    });
  }
  for (const name of ["dragleave", "drop"]) {
    zone.addEventListener(name, (event) => {
      if (name === "drop" || !zone.contains(event.relatedTarget)) delete zone.dataset.over;
    });
  }
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length !== 1) {
      words.textContent = "One file at a time, please.";
      return;
    }
    input.files = event.dataTransfer.files;
    show();
  });
  input.addEventListener("change", show);

  function finish(sentence) {
    panel.hidden = !sentence;
    bar.hidden = Boolean(sentence);
    if (sentence) said.textContent = sentence;
    button.disabled = false;
    form.dataset.once = "";
  }

  // The answer is either the address to go to, or this page again with what is wrong.
  function answered(request) {
    const address = request.getResponseHeader("HX-Redirect");
    if (address) {
      location.assign(address);
      return;
    }
    const page = new DOMParser().parseFromString(request.responseText, "text/html");
    const refused = page.querySelector("form[data-upload]");
    if (!refused) {
      finish(`The server answered ${request.status}. ${page.querySelector("main p, p")?.textContent ?? ""}`.trim());
      return;
    }
    for (const old of form.querySelectorAll(".form-errors, .field-error")) old.remove();
    for (const error of [...refused.querySelectorAll(".form-errors, .field-error")].reverse()) form.prepend(error);
    finish("");
    scrollTo({ top: 0 });
  }

  form.addEventListener("submit", (event) => {
    if (event.defaultPrevented) return;
    event.preventDefault();
    const request = new XMLHttpRequest();
    request.open("POST", form.action);
    request.setRequestHeader("X-Progress", "1");
    request.upload.addEventListener("progress", ({ loaded, total }) => {
      bar.value = (100 * loaded) / total;
      said.textContent = `Uploading: ${size(loaded)} of ${size(total)}`;
    });
    request.upload.addEventListener("load", () => {
      bar.removeAttribute("value");
      said.textContent = "Checking every row…";
    });
    request.addEventListener("load", () => answered(request));
    request.addEventListener("error", () => finish("The connection broke. Nothing was stored; try again."));
    request.addEventListener("abort", () => finish("Cancelled. Nothing was stored."));
    panel.querySelector("[data-cancel]").onclick = () => request.abort();
    bar.value = 0;
    bar.hidden = panel.hidden = false;
    button.disabled = true;
    request.send(new FormData(form));
  });
})();
