// The status page: speaks through /v1/turns and shows it; looks at /healthz once a second.
import { Player, RATE } from "./player.js";
import { drawWave, plot } from "./plots.js";
import { snippets } from "./snippets.js";

const $ = (id) => document.getElementById(id);
const player = new Player();
window.orpheus = player; // for tests

const KEPT = 120; // seconds of the plot of turns
const turns = [];
let health = {};
let shown = 0; // words in the page

function say(text) {
  $("said").textContent = text;
}

async function speak() {
  $("stop").disabled = false;
  $("words").replaceChildren();
  shown = 0;
  say("");
  try {
    const how = await player.speak($("text").value, $("voice").value, $("key").value, (ms) => {
      $("here").textContent = `${Math.round(ms)} ms`;
      say("speaking…");
    });
    if (how === "done") say(`${(player.samples / RATE).toFixed(1)} s of speech, ${player.gaps} gaps`);
  } catch (error) {
    if (health.key_needed) $("key-row").hidden = false;
    say(error.message);
  }
}

function stop() {
  if (!player.busy) return;
  player.stop();
  $("stop").disabled = true;
  say("stopped");
}

// ---- the picture

function draw() {
  drawWave($("wave"), player);
  const heard = player.heard;
  for (; shown < player.words.length; shown++) {
    const { text, space_after } = player.words[shown];
    const span = document.createElement("span");
    span.textContent = text;
    $("words").append(span, space_after ? " " : "");
  }
  const now = player.busy ? player.words.findLastIndex((word) => word.start_s <= heard) : -1;
  for (const [i, span] of [...$("words").children].entries()) {
    const kind = i === now ? "now" : player.words[i]?.start_s <= heard ? "heard" : "";
    if (span.className !== kind) span.className = kind;
  }
  if (!player.busy && !$("stop").disabled) $("stop").disabled = true;
  requestAnimationFrame(draw);
}

function show(state) {
  health = state;
  $("state").dataset.ready = state.ready;
  $("state").textContent = state.ready ? "ready" : state.draining ? "ending" : (state.error ?? "loading the model…");
  for (const [id, value] of Object.entries({
    active: state.active_turns,
    capacity: state.max_turns,
    waiting: state.waiting ? `${state.waiting} in line` : "",
    connections: state.connections,
    model: state.model,
    restarts: state.restarts,
    version: state.version,
  }))
    $(id).textContent = value;
  $("key-row").hidden &&= !state.key_needed;
  turns.push(state.active_turns);
  turns.splice(0, turns.length - KEPT);
  const first = state.recent.map((turn) => 1000 * turn.ttfa_s);
  const speeds = state.recent.flatMap((turn) => turn.rtfx ?? []);
  plot($("plot-ttfa"), first, { unit: " ms" });
  plot($("plot-rtfx"), speeds, { unit: "×", digits: 1, line: 1 });
  plot($("plot-turns"), turns, { line: state.max_turns, dots: false });
  $("ttfa").textContent = first.length ? `${Math.round(first.at(-1))} ms` : "–";
  $("rtfx").textContent = speeds.length ? `${speeds.at(-1).toFixed(1)}×` : "–";
  if ($("voice").options.length !== state.voices.length) $("voice").replaceChildren(...state.voices.map((voice) => new Option(state.adapters.includes(voice) ? `${voice} (adapter)` : voice, voice)));
  $("voice-row").hidden = !state.voices.length;
  if ($("tags").children.length !== state.tags.length) $("tags").replaceChildren(...state.tags.map(tagButton));
  $("tags").hidden = !state.tags.length;
}

function tagButton(tag) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = `<${tag}>`;
  button.addEventListener("click", () => {
    const text = $("text");
    text.setRangeText(` <${tag}> `, text.selectionStart, text.selectionEnd, "end");
    text.focus();
  });
  return button;
}

async function look() {
  try {
    show(await (await fetch("/healthz?recent=1")).json());
  } catch {
    $("state").dataset.ready = false;
    $("state").textContent = "the server does not answer";
  }
  setTimeout(look, 1000);
}

// ---- the tabs

const tabs = [$("tab-speak"), $("tab-connect")];

function open(tab) {
  for (const one of tabs) {
    one.setAttribute("aria-selected", one === tab);
    one.tabIndex = one === tab ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = one !== tab;
  }
  if (tab.id === "tab-connect") fill();
}

function fill() {
  const voice = $("voice").value || health.voices?.[0] || "default";
  const all = snippets({ url: location.origin, voice, key: health.key_needed });
  $("view-connect").replaceChildren(
    ...Object.entries(all).map(([name, code]) => {
      const [card, head, title, copy, pre] = ["article", "header", "h2", "button", "pre"].map((kind) => document.createElement(kind));
      card.className = "card";
      title.textContent = name;
      copy.textContent = "Copy";
      copy.setAttribute("aria-label", `Copy the snippet for ${name}`);
      pre.textContent = code;
      pre.tabIndex = 0;
      copy.addEventListener("click", async () => {
        await navigator.clipboard.writeText(code);
        copy.textContent = "Copied";
        setTimeout(() => (copy.textContent = "Copy"), 1500);
      });
      head.append(title, copy);
      card.append(head, pre);
      return card;
    }),
  );
}

for (const [i, tab] of tabs.entries()) {
  tab.addEventListener("click", () => open(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const next = tabs[(i + 1) % tabs.length];
    open(next);
    next.focus();
  });
}

// ---- the form

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  speak();
});
$("stop").addEventListener("click", stop);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target === $("text")) $("form").requestSubmit();
});
draw();
look();
