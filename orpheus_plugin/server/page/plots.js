// The waveform, and small plots.

const NS = "http:" + "//www.w3.org/2000/svg"; // a name, not an address

export function drawWave(canvas, player) {
  const scale = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth * scale, canvas.clientHeight * scale];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  pen.clearRect(0, 0, width, height);
  const total = Math.max(4, player.peaks.length / 100); // seconds across
  const heard = player.heard;
  const bars = Math.floor(width / (3 * scale));
  const word = player.words.findLast((one) => one.start_s <= heard);
  if (word && player.busy) {
    pen.fillStyle = style.color;
    pen.globalAlpha = 0.18;
    const left = (word.start_s / total) * width;
    pen.fillRect(left, 0, Math.max(2 * scale, ((Math.max(word.end_s, word.start_s + 0.05) - word.start_s) / total) * width), height);
    pen.globalAlpha = 1;
  }
  for (let bar = 0; bar < bars; bar++) {
    const from = Math.floor((bar / bars) * total * 100);
    const to = Math.max(from + 1, Math.floor(((bar + 1) / bars) * total * 100));
    let peak = 0;
    for (let i = from; i < to && i < player.peaks.length; i++) peak = Math.max(peak, player.peaks[i] ?? 0);
    const tall = Math.max(scale, peak * height * 0.95);
    pen.globalAlpha = from / 100 < heard ? 1 : 0.35;
    pen.fillStyle = style.color;
    if (from < player.peaks.length || bar % 2 === 0) pen.fillRect(bar * 3 * scale, (height - tall) / 2, 2 * scale, tall);
  }
  pen.globalAlpha = 1;
  if (player.busy) pen.fillRect((heard / total) * width, 0, 1.5 * scale, height);
}

// Values over time; `line` is the height of a horizontal line, if given.
export function plot(svg, values, { line = null, unit = "", digits = 0, dots = true } = {}) {
  const width = svg.clientWidth || 240;
  const height = svg.clientHeight || 72;
  const top = Math.max(...values, line ?? 0, 1e-9) * 1.1;
  const x = (i) => 4 + (i / Math.max(1, values.length - 1)) * (width - 8);
  const y = (value) => height - 4 - (value / top) * (height - 18);
  const make = (name, attributes, text = "") => {
    const node = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.textContent = text;
    return node;
  };
  const nodes = [];
  if (line !== null) nodes.push(make("line", { x1: 0, x2: width, y1: y(line), y2: y(line) }));
  if (values.length > 1) nodes.push(make("polyline", { points: values.map((value, i) => `${x(i)},${y(value)}`).join(" ") }));
  if (dots) for (const [i, value] of values.entries()) nodes.push(make("circle", { cx: x(i), cy: y(value), r: 2.2 }));
  if (values.length) nodes.push(make("text", { x: 2, y: 10 }, `${(top / 1.1).toFixed(digits)}${unit}`));
  else nodes.push(make("text", { x: 2, y: height / 2 }, "no turn yet"));
  svg.replaceChildren(...nodes);
}
