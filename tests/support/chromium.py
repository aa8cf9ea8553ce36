"""Headless Chromium over its DevTools protocol: opens a page, types, records what comes over WebRTC
and is heard."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import numpy.typing as npt

RECORD_RATE = 48_000
AUDIBLE = 0.004
"""-48 dBFS: below speech, above what a codec makes of silence."""

RECORDER = """
(() => {
  // Times are taken where the sound is rendered: the page's own thread may be busy.
  const worklet = `registerProcessor('tap', class extends AudioWorkletProcessor {
    process(inputs) {
      const data = inputs[0][0];
      const block = data ? data.slice() : new Float32Array(128);
      const power = block.reduce((sum, x) => sum + x * x, 0) / block.length;
      this.port.postMessage([block, Date.now(), power > AUDIBLE * AUDIBLE]);
      return true;
    }
  })`;
  const heard = window.__heard = {blocks: [], at: [], began: null, loud: -1, sent: {}};
  const record = async (stream) => {
    if (heard.began !== null || !stream.getAudioTracks().length) return;
    heard.began = 0;
    const context = new AudioContext({sampleRate: RATE, latencyHint: 'interactive'});
    await context.resume();
    const module = new Blob([worklet], {type: 'text/javascript'});
    await context.audioWorklet.addModule(URL.createObjectURL(module));
    const tap = new AudioWorkletNode(context, 'tap', {numberOfOutputs: 1});
    tap.port.onmessage = ({data: [block, at, audible]}) => {
      if (!heard.began) heard.began = at;
      if (audible) heard.loud = heard.blocks.length;
      heard.blocks.push(block);
      heard.at.push(at);
    };
    context.createMediaStreamSource(stream).connect(tap);
    tap.connect(context.destination);
  };
  const Real = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Real {
    constructor(...args) {
      super(...args);
      window.__peer = this;
      this.addEventListener('track', (event) => {
        if (event.track.kind === 'audio')
          record(event.streams[0] || new MediaStream([event.track]));
      });
    }
  };
  const send = RTCDataChannel.prototype.send;
  RTCDataChannel.prototype.send = function (data) {
    if (typeof data === 'string') for (const kind of ['send-text', 'client-ready'])
      if (data.includes('"' + kind + '"')) heard.sent[kind] = Date.now();
    return send.call(this, data);
  };
})();
""".replace("RATE", str(RECORD_RATE)).replace("AUDIBLE", str(AUDIBLE))

TAKE = """
(() => {
  const blocks = window.__heard.blocks.slice(FIRST);
  const all = new Int16Array(blocks.reduce((n, b) => n + b.length, 0));
  let at = 0;
  for (const block of blocks)
    for (const x of block) all[at++] = Math.max(-32768, Math.min(32767, Math.round(x * 32767)));
  let text = '';
  const bytes = new Uint8Array(all.buffer);
  for (let i = 0; i < bytes.length; i += 32768)
    text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
})()
"""


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Page:
    """One page, driven over the DevTools websocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())
        self.console: list[str] = []

    async def _read(self) -> None:
        async for message in self._socket:
            data = json.loads(message.data)
            if waiting := self._answers.pop(data.get("id"), None):
                waiting.set_result(data)
            elif data.get("method") == "Runtime.consoleAPICalled":
                args = data["params"]["args"]
                self.console.append(" ".join(str(a.get("value", "")) for a in args)[:300])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        waiting = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        answer = await asyncio.wait_for(waiting, 30)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = await self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script[:80]}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def until(self, script: str, timeout_s: float = 20) -> Any:
        """The value of an expression, once it is true."""
        async with asyncio.timeout(timeout_s):
            while not (value := await self.run(script)):
                await asyncio.sleep(0.05)
            return value

    async def type(self, text: str) -> None:
        await self.call("Input.insertText", text=text)

    async def press_enter(self) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                windowsVirtualKeyCode=13,
                text="\r" if kind == "keyDown" else "",
            )

    async def heard(self, since: int = 0) -> npt.NDArray[np.int16]:
        """The audio received so far, but for the first `since` samples (rounded down to 128)."""
        taken = await self.run(TAKE.replace("FIRST", str(since // 128)))
        return np.frombuffer(base64.b64decode(taken), "<i2")

    async def position(self) -> int:
        """How many samples have been received so far."""
        return int(await self.run("window.__heard.blocks.length")) * 128

    async def audible(self, since: int = 0) -> tuple[float, float]:
        """Seconds from a sample to the last audible one so far (0: none), and from that one to
        now."""
        loud, now = await self.run("[window.__heard.loud, window.__heard.blocks.length]")
        last = max(since, (int(loud) + 1) * 128)
        return (last - since) / RECORD_RATE, (int(now) * 128 - last) / RECORD_RATE

    async def heard_at(self, sample: int) -> float:
        """When a sample of `heard()` was rendered, in seconds of time.time()."""
        block = sample // 128
        at = await self.run(f"window.__heard.at[Math.min({block}, window.__heard.at.length - 1)]")
        return float(at) / 1000 + (sample % 128) / RECORD_RATE

    async def receiver(self) -> dict[str, float]:
        """WebRTC's own counts of the audio received: concealed samples, the jitter buffer's delay
        and the like."""
        found = await self.run(
            "(async () => { for (const r of (await window.__peer.getStats()).values()) if (r.type"
            " === 'inbound-rtp' && r.kind === 'audio') return"
            " Object.fromEntries(Object.entries(r).filter(([, v]) => typeof v === 'number')); })()"
        )
        return dict(found)


@contextlib.asynccontextmanager
async def browse(url: str) -> AsyncIterator[Page]:
    """A page at `url` whose incoming audio is recorded. Its microphone is Chromium's fake one, and
    muted by the caller."""
    chromium = find_chromium()
    assert chromium is not None
    profile = tempfile.mkdtemp(prefix="orpheus-chromium-")
    process = await asyncio.create_subprocess_exec(
        chromium,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-features=WebRtcHideLocalIpsWithMdns",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        "--autoplay-policy=no-user-gesture-required",
        "--no-first-run",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port_file = Path(profile) / "DevToolsActivePort"
        async with asyncio.timeout(30):
            while not port_file.exists() or not port_file.read_text():
                await asyncio.sleep(0.1)
        port = port_file.read_text().splitlines()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                target = next(t for t in await answer.json() if t["type"] == "page")
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                await page.call("Page.enable")
                await page.call("Runtime.enable")
                await page.call("Page.addScriptToEvaluateOnNewDocument", source=RECORDER)
                await page.call("Page.navigate", url=url)
                yield page
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 10)
        if process.returncode is None:
            process.kill()
            await process.wait()
        shutil.rmtree(profile, ignore_errors=True)
