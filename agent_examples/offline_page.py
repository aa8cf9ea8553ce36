"""Makes Pipecat's bundled web page work without the internet.

The page gets the microphone through a script that it loads from c.daily.co when the user presses
Connect. Without the internet that fails, and so does the call. `serve_offline` replaces the one
asset that loads it: with the internet the page uses the original, without it a substitute that asks
the browser for the microphone.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from starlette.responses import Response

ELSEWHERE = "https://c.daily.co"

_EXPORT = re.compile(r"export\s*\{\s*[\w$]+ as (\w+)\s*\};?\s*$")

_MODULE = """\
import {%(name)s as Original} from "./%(asset)s?original";

class LocalDevices {
  static instance = null;
  static getCallInstance() { return this.instance; }
  static createCallObject() { return this.instance = new LocalDevices(); }

  handlers = {};
  track = null;

  on(event, handler) { (this.handlers[event] ??= []).push(handler); return this; }
  emit(event, data) { for (const handler of this.handlers[event] ?? []) handler(data); }
  me() {
    const audio = {persistentTrack: this.track ?? undefined};
    return {user_id: "local", user_name: "You", local: true, tracks: {audio}};
  }

  async open(deviceId) {
    try {
      const processing = {echoCancellation: true, noiseSuppression: true, autoGainControl: true};
      const audio = deviceId ? {...processing, deviceId} : processing;
      const stream = await navigator.mediaDevices.getUserMedia({audio});
      this.track?.stop();
      this.track = stream.getAudioTracks()[0];
      this.emit("track-started", {participant: this.me(), track: this.track});
    } catch (error) {
      const missing = error.name === "NotFoundError";
      const type = missing ? "not-found" : "permissions";
      this.emit("camera-error", {error: {type, msg: String(error),
        blockedMedia: ["audio"], missingMedia: ["audio"], blockedBy: "user"}});
    }
  }
  async startCamera({startAudioOff} = {}) {
    if (!startAudioOff && !this.track) await this.open();
    return this.selected();
  }
  async selected() {
    const id = this.track?.getSettings().deviceId;
    const {devices} = await this.enumerateDevices();
    const mic = devices.find((d) => d.kind === "audioinput" && d.deviceId === id) ?? {};
    return {camera: {}, mic,
      speaker: devices.find((d) => d.kind === "audiooutput") ?? {}};
  }
  async enumerateDevices() {
    return {devices: await navigator.mediaDevices?.enumerateDevices() ?? []};
  }
  async setInputDevicesAsync({audioDeviceId}) {
    if (audioDeviceId) await this.open(audioDeviceId);
    return this.selected();
  }
  async setOutputDeviceAsync({outputDeviceId}) { return {speaker: {deviceId: outputDeviceId}}; }
  async setLocalAudio(on) {
    if (on && !this.track) return this.open();
    if (!this.track) return;
    this.track.enabled = on;
    this.emit(on ? "track-started" : "track-stopped", {participant: this.me(), track: this.track});
  }
  participants() { return {local: this.me()}; }
  localAudio() { return Boolean(this.track?.enabled); }
  localVideo() { return false; }
  localScreenAudio() { return false; }
  localScreenVideo() { return false; }
  setLocalVideo() {}
  startScreenShare() {}
  stopScreenShare() {}
  isLocalAudioLevelObserverRunning() { return true; }
  async startLocalAudioLevelObserver() {}
  async leave() { this.track?.stop(); this.track = null; }
}

const signal = AbortSignal.timeout(2000);
const online = await fetch("%(elsewhere)s", {mode: "no-cors", cache: "no-store", signal})
  .then(() => true, () => false);
if (!online) console.info("No way to %(elsewhere)s: the browser's own devices are used.");
export const %(name)s = online ? Original : LocalDevices;
"""


def serve_offline(app: FastAPI) -> bool:
    """Call before Pipecat's runner configures its app. False if this version of the page is not as
    expected."""
    from starlette.responses import FileResponse, PlainTextResponse

    asset = _find_asset()
    if asset is None:
        logger.debug("Pipecat's page is of an unknown version; it is served unchanged")
        return False
    path, name = asset
    module = _MODULE % {"name": name, "asset": path.name, "elsewhere": ELSEWHERE}

    async def answer(request: Request) -> Response:
        if "original" in request.query_params:
            return FileResponse(path, media_type="text/javascript")
        return PlainTextResponse(module, media_type="text/javascript")

    app.add_route(f"/client/assets/{path.name}", answer, methods=["GET"])
    return True


def _find_asset() -> tuple[Path, str] | None:
    """The asset that loads the script, and the name of its only export."""
    package = find_spec("pipecat_ai_prebuilt")
    if package is None or not package.submodule_search_locations:
        return None
    folder = Path(package.submodule_search_locations[0]) / "client" / "dist" / "assets"
    found = [
        (path, text)
        for path in folder.glob("daily-esm*.js")
        if ELSEWHERE in (text := path.read_text("utf-8"))
    ]
    if len(found) != 1:
        return None
    path, text = found[0]
    export = _EXPORT.search(text)
    return (path, export[1]) if export else None
