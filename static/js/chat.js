// One question to a checkpoint and to its base. Both answers stream in as they are drawn; hanging up (Stop, Esc, leaving the page)
// ends the sampling on the server. The conversation lives on this page alone. Whatever a model says is set as text, never as HTML.

const page = document.getElementById("chat");
const form = document.getElementById("chat-form");
const prompt = form.elements.prompt;
const turns = document.getElementById("chat-turns");
const stopButton = document.getElementById("chat-stop");
const sendButton = document.getElementById("chat-send");
const stateLine = document.getElementById("chat-state");
const sides = ["tuned", "base"];
let conversation = [];
let asking = null;

const say = (words, isError = false) => {
  stateLine.textContent = words;
  stateLine.classList.toggle("text-bad", isError);
};

// The events of a stream that is read by fetch, since a question does not fit into an address.
async function* events(url, body, signal) {
  const token = JSON.parse(document.body.getAttribute("hx-headers"))["X-CSRFToken"];
  const headers = { "Content-Type": "application/json", "X-CSRFToken": token };
  const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (response.redirected) location.reload();
  if (response.status === 422) throw new Error((await response.json()).message);
  if (!response.ok) throw new Error(`The server could not answer (${response.status}). Reload the page and try again.`);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (held + value).split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      const [, name, data] = /^event: (.*)\ndata: (.*)$/m.exec(block) ?? [];
      if (name) yield { name, data: JSON.parse(data) };
    }
  }
}

// What the form's other fields say; one that is left empty keeps the server's default.
const settings = () =>
  Object.fromEntries([...new FormData(form)].filter(([name, value]) => name !== prompt.name && value !== ""));

function newTurn(words) {
  const turn = document.getElementById("chat-turn").content.firstElementChild.cloneNode(true);
  turn.querySelector("[data-user]").textContent = words;
  for (const side of sides) of(turn, side).dataset.waits = "";
  turns.append(turn);
  turn.scrollIntoView({ block: "nearest" });
  return turn;
}

const of = (turn, side) => turn.querySelector(`[data-side="${side}"]`);

function finish(element, reply, seed) {
  delete element.dataset.waits;
  element.querySelector("[data-text]").textContent = reply.content;
  if (reply.reasoning) {
    element.querySelector("[data-reasoning]").hidden = false;
    element.querySelector("[data-reasoning] .chat-text").textContent = reply.reasoning;
  }
  const pace = reply.num_tokens / Math.max(reply.seconds, 1e-6);
  const end = reply.stop_reason === "length" ? " · cut off at the longest reply" : "";
  const first = reply.first_token_seconds === null ? "" : `first after ${Math.round(1000 * reply.first_token_seconds)} ms · `;
  element.querySelector("[data-facts]").textContent = `${reply.num_tokens} tokens · ${first}${pace.toFixed(0)} per second · seed ${seed}${end}`;
}

function fail(element, words) {
  delete element.dataset.waits;
  const facts = element.querySelector("[data-facts]");
  facts.textContent = words;
  facts.classList.add("text-bad");
}

async function ask(words) {
  asking = new AbortController();
  stopButton.hidden = false;
  sendButton.disabled = true;
  const turn = newTurn(words);
  const said = { user: words, tuned: "", base: "" };
  let seeds = {};
  let isWhole = false;
  say("");
  try {
    for await (const { name, data } of events(page.dataset.replies, { prompt: words, turns: conversation, ...settings() }, asking.signal)) {
      if (name === "begin") seeds = data.seeds;
      else if (name === "loading") say("Reading the models…");
      else if (name === "text") {
        say("");
        said[data.side] += data.text;
        of(turn, data.side).querySelector("[data-text]").append(data.text);
      } else if (name === "end") {
        said[data.side] = data.content;
        finish(of(turn, data.side), data, seeds[data.side]);
      } else if (name === "error") for (const side of data.side ? [data.side] : sides) fail(of(turn, side), data.message);
      else if (name === "done") isWhole = true;
    }
    if (!isWhole) throw new Error("The server hung up. Try again.");
  } catch (error) {
    const words = error.name === "AbortError" ? "Stopped." : error instanceof TypeError ? "The server cannot be reached." : error.message;
    for (const side of sides) if ("waits" in of(turn, side).dataset) fail(of(turn, side), words);
  }
  if (sides.some((side) => said[side])) conversation.push(said);
  else if (!prompt.value) prompt.value = said.user; // nothing came of it: not to be typed again
  say("");
  asking = null;
  stopButton.hidden = true;
  sendButton.disabled = false;
  turn.scrollIntoView({ block: "nearest" });
  prompt.focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const words = prompt.value.trim();
  if (!words || asking || !form.reportValidity()) return;
  prompt.value = "";
  ask(words);
});
prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
document.addEventListener("keydown", (event) => event.key === "Escape" && asking?.abort());
stopButton.addEventListener("click", () => asking?.abort());
document.getElementById("chat-clear").addEventListener("click", () => {
  asking?.abort();
  conversation = [];
  turns.replaceChildren();
  prompt.focus();
});

// The models are read while the person still types.
(async () => {
  try {
    let words = "";
    for await (const { name, data } of events(page.dataset.opening, {})) if (name === "error") words = data.message;
    if (!asking) say(words, Boolean(words));
  } catch (error) {
    if (!asking) say(error instanceof TypeError ? "The server cannot be reached." : error.message, true);
  }
})();
