// The status page: speaks through /v1/audio/speech and plays the samples as they come; looks at /healthz.
"use strict";

const $ = (id) => document.getElementById(id);
const RATE = 24000;
const LEAD_S = 0.05; // scheduled ahead of the clock, so that a late frame is no gap

const player = { context: null, abort: null, next: 0, nodes: new Set(), samples: 0, gaps: 0 };
window.orpheus = player; // for tests and the curious

function headers() {
  const key = $("key").value;
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function play(samples) {
  const buffer = player.context.createBuffer(1, samples.length, RATE);
  buffer.copyToChannel(samples, 0);
  const node = player.context.createBufferSource();
  node.buffer = buffer;
  node.connect(player.context.destination);
  const now = player.context.currentTime;
  if (player.next < now) {
    if (player.samples) player.gaps += 1;
    player.next = now + LEAD_S;
  }
  node.start(player.next);
  player.next += samples.length / RATE;
  player.samples += samples.length;
  player.nodes.add(node);
  node.onended = () => {
    player.nodes.delete(node);
    settle();
  };
}

function settle() {
  if (!player.abort && !player.nodes.size) $("stop").disabled = true;
}

function stop() {
  player.abort?.abort();
  for (const node of player.nodes) node.stop();
  player.nodes.clear();
  player.next = 0;
}

async function speak() {
  stop();
  player.context ??= new AudioContext({ sampleRate: RATE });
  await player.context.resume();
  const abort = (player.abort = new AbortController());
  Object.assign(player, { samples: 0, gaps: 0 });
  $("said").textContent = "";
  $("stop").disabled = false;
  const began = performance.now();
  try {
    const response = await fetch("/v1/audio/speech", {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers() },
      body: JSON.stringify({ input: $("text").value, voice: $("voice").value || undefined, response_format: "pcm" }),
      signal: abort.signal,
    });
    if (!response.ok) {
      if (response.status === 401) $("key-row").hidden = false;
      const body = await response.json().catch(() => ({}));
      throw new Error(body.error?.message ?? `status ${response.status}`);
    }
    let rest = new Uint8Array(0);
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      const bytes = new Uint8Array(rest.length + value.length);
      bytes.set(rest);
      bytes.set(value, rest.length);
      const whole = bytes.length >> 1;
      rest = bytes.slice(2 * whole);
      if (!whole) continue;
      if (!player.samples) {
        $("here").textContent = `${Math.round(performance.now() - began)} ms`;
        $("said").textContent = "speaking…";
      }
      play(Float32Array.from(new Int16Array(bytes.buffer, 0, whole), (x) => x / 32768));
    }
    $("said").textContent = `${(player.samples / RATE).toFixed(1)} s of speech, ${player.gaps} gaps`;
  } catch (error) {
    $("said").textContent = error.name === "AbortError" ? "stopped" : error.message;
  } finally {
    if (player.abort === abort) player.abort = null;
    settle();
  }
}

async function look() {
  try {
    const state = await (await fetch("/healthz", { headers: headers() })).json();
    $("state").dataset.ready = state.ready;
    $("state").textContent = state.ready ? "ready" : state.draining ? "ending" : (state.error ?? "loading the model…");
    $("active").textContent = state.active_turns;
    $("capacity").textContent = state.max_turns;
    $("load").value = state.max_turns ? state.active_turns / state.max_turns : 0;
    $("connections").textContent = state.connections;
    $("model").textContent = state.model;
    $("restarts").textContent = state.restarts;
    $("version").textContent = state.version;
    $("ttfa").textContent = state.ttfa_p50_s === null ? "–" : `${Math.round(1000 * state.ttfa_p50_s)} ms`;
    $("key-row").hidden &&= !state.key_needed;
    if ($("voice").options.length !== state.voices.length)
      $("voice").replaceChildren(...state.voices.map((voice) => new Option(voice, voice)));
    $("voice-row").hidden = !state.voices.length;
  } catch {
    $("state").dataset.ready = false;
    $("state").textContent = "the server does not answer";
  }
  setTimeout(look, 1000);
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  speak();
});
$("stop").addEventListener("click", stop);
look();
