// One turn over the native protocol: its audio is played as it comes; words and samples are kept for the picture.
import { pack, unpack } from "./msgpack.js";

export const RATE = 24000;
const LEAD_S = 0.05; // scheduled ahead of the clock, so that a late frame makes no gap
const REPORT = RATE; // samples between two reports of what was taken
const WINDOW_S = 300; // the whole turn may come at once: this page shows it

export class Player {
  constructor() {
    this.context = null;
    this.socket = null;
    this.nodes = new Set();
    this.reset();
  }

  reset() {
    Object.assign(this, { samples: 0, gaps: 0, next: 0, peaks: [], words: [], pieces: [], stats: null, firstMs: null });
  }

  get busy() {
    return this.socket !== null || this.nodes.size > 0;
  }

  // Plays the turn to its end. Resolves with "done" or "stopped"; throws the server's error.
  async speak(text, voice, key, onFirst) {
    this.stop();
    this.reset();
    this.context ??= new AudioContext({ sampleRate: RATE });
    await this.context.resume();
    const address = new URL("/v1/turns", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    if (key) address.searchParams.set("auth_id", key); // a page's websocket has no headers
    const began = performance.now();
    const socket = (this.socket = new WebSocket(address));
    socket.binaryType = "arraybuffer";
    return new Promise((resolve, reject) => {
      let last = null;
      const send = (message) => socket.send(pack({ id: "page", ...message }));
      socket.onopen = () => {
        send({ type: "open", options: voice ? { voice } : {}, window_s: WINDOW_S, max_wait_s: 10 });
        send({ type: "text", text });
        send({ type: "end" });
      };
      socket.onmessage = ({ data }) => {
        const message = unpack(data);
        if (message.type === "word") this.words.push(message);
        else if (message.type === "audio") {
          if (this.firstMs === null) onFirst((this.firstMs = performance.now() - began));
          this.play(message.data);
          if (Math.floor(this.samples / REPORT) > Math.floor((this.samples - message.data.length / 2) / REPORT)) send({ type: "consumed", samples: REPORT });
        } else if (message.type === "done" || message.type === "error") {
          last = message;
          socket.close();
        }
      };
      socket.onclose = () => {
        const stopped = this.socket !== socket;
        if (!stopped) this.socket = null;
        if (last?.type === "error") reject(new Error(last.message));
        else if (last) resolve(((this.stats = last.stats), "done"));
        else if (stopped) resolve("stopped");
        else reject(new Error(this.samples ? "the connection was lost" : "the server takes no connection; does it want an API key?"));
      };
    });
  }

  play(bytes) {
    const samples = Float32Array.from(new Int16Array(bytes.slice().buffer), (x) => x / 32768);
    const buffer = this.context.createBuffer(1, samples.length, RATE);
    buffer.copyToChannel(samples, 0);
    const node = this.context.createBufferSource();
    node.buffer = buffer;
    node.connect(this.context.destination);
    const now = this.context.currentTime;
    if (this.next < now) {
      if (this.samples) this.gaps += 1;
      this.next = now + LEAD_S;
    }
    node.start(this.next);
    this.pieces.push([this.next, this.samples]);
    this.next += samples.length / RATE;
    this.measure(samples);
    this.samples += samples.length;
    this.nodes.add(node);
    node.onended = () => this.nodes.delete(node);
  }

  // The loudest sample of every 10 ms.
  measure(samples) {
    const step = RATE / 100;
    for (let i = 0; i < samples.length; i++) {
      const place = Math.floor((this.samples + i) / step);
      this.peaks[place] = Math.max(this.peaks[place] ?? 0, Math.abs(samples[i]));
    }
  }

  // Seconds of the turn that have been heard.
  get heard() {
    const now = this.context?.currentTime ?? 0;
    for (let i = this.pieces.length - 1; i >= 0; i--) {
      const [at, first] = this.pieces[i];
      const until = (this.pieces[i + 1]?.[1] ?? this.samples) / RATE;
      if (at <= now) return Math.min(first / RATE + now - at, until);
    }
    return 0;
  }

  stop() {
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    for (const node of this.nodes) node.stop();
    this.nodes.clear();
    this.next = 0;
  }
}
