"""OpenAI's speech API: `/v1/audio/speech`, `/v1/models`, and `/v1/audio/voices`, which compatible
servers have."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from typing import Any, Literal

import msgspec
from aiohttp import web

from orpheus_plugin.errors import InvalidOptions, OrpheusError
from orpheus_plugin.events import SAMPLE_RATE
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.server import encoders
from orpheus_plugin.server.encoders import CONTENT_TYPES, Encoder, OffLoop, WithTempo, make_encoder
from orpheus_plugin.server.json_api import (
    WideOptions,
    continue_later,
    error_response,
    http_error,
    json_body,
)
from orpheus_plugin.server.served_turn import ServedTurn
from orpheus_plugin.server.service import SpeechService

NAMES = ("tts-1", "tts-1-hd")
"""Other names of the one model: some clients check that the server has the model they were written
for."""

AZURES = "/openai/deployments/{name}/audio/speech"
"""Where Azure's clients ask, with `azure_endpoint` this server's address. Any name will do."""


def add_routes(app: web.Application, service: SpeechService) -> None:
    async def speech(request: web.Request) -> web.StreamResponse:
        with service.connection():
            asked = await json_body(request, _Asked)
            if not asked.input.strip():
                raise InvalidOptions("input must be a string that is not empty")
            with contextlib.closing(OffLoop(asked.encoder())) as encoder:
                sender = _Events(request) if asked.sse else _Bytes(request, asked.format)
                try:
                    async with service.open("openai", asked.options()) as turn:
                        await _speak(turn, asked.input, encoder, sender)
                except OrpheusError as error:
                    return await sender.fail(error)
                return sender.response

    async def list_models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [_model(name) for name in names()]})

    async def one_model(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in names():
            return http_error(404, "model_not_found", f"this server has {', '.join(names())}")
        return web.json_response(_model(name))

    async def audio_models(request: web.Request) -> web.Response:
        return web.json_response({"models": [{"id": name, "name": name} for name in names()]})

    async def list_voices(request: web.Request) -> web.Response:
        voices, adapters = service.engine.voices, service.engine.adapters
        if request.query.get("legacy", "").lower() in ("1", "true"):
            return web.json_response({"voices": list(voices)})
        kinds = {
            voice: "adapter" if voice in adapters else "base" for voice in (*voices, *adapters)
        }
        described = [{"id": voice, "name": voice, "kind": kind} for voice, kind in kinds.items()]
        return web.json_response({"voices": described})

    def names() -> tuple[str, ...]:
        return (service.engine.health().model, *NAMES)

    async def warm_up(app: web.Application) -> None:
        await asyncio.to_thread(encoders.warm_up)

    app.on_startup.append(warm_up)
    for path in ("/v1/audio/speech", AZURES):
        app.router.add_post(path, speech, expect_handler=continue_later)
    app.router.add_get("/v1/models", list_models)
    app.router.add_get("/v1/models/{name:.+}", one_model)
    app.router.add_get("/v1/audio/models", audio_models)
    app.router.add_get("/v1/audio/voices", list_voices)


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "orpheus_plugin"}


class _Voice(msgspec.Struct):
    id: str


class _Asked(WideOptions, kw_only=True):
    """A request. `model` and `instructions` are accepted and ignored: there is one model, and it
    takes no instructions.

    Sampling parameters are not OpenAI's; its clients send them with `extra_body`. With `stream`
    vLLM-Omni's and SGLang's clients ask for events.
    """

    input: str
    voice: str | _Voice | None = None  # type: ignore[assignment]
    response_format: str | None = None
    stream_format: Literal["audio", "sse"] | None = None
    stream: bool | None = None

    @property
    def format(self) -> str:
        return self.response_format or "mp3"

    @property
    def sse(self) -> bool:
        return self.stream_format == "sse" or (self.stream_format is None and bool(self.stream))

    def options(self) -> SpeechOptions:
        if isinstance(self.voice, _Voice):
            self.voice = self.voice.id
        return self.speech()

    def encoder(self) -> Encoder:
        encoder = make_encoder(self.format)
        return encoder if self.speed_left == 1 else WithTempo(self.speed_left, encoder)


async def _speak(turn: ServedTurn, text: str, encoder: OffLoop, sender: _Bytes | _Events) -> None:
    turn.push_text(text)
    turn.end()
    async for pcm in turn.pcm():
        if data := await encoder.push(pcm):
            await sender.send(data)
    if data := await encoder.finish():
        await sender.send(data)
    await sender.finish(turn)


class _Bytes:
    """The audio as the body, in chunks as it comes."""

    def __init__(self, request: web.Request, audio_format: str) -> None:
        self._request = request
        self.response = web.StreamResponse(
            headers={"Content-Type": CONTENT_TYPES[audio_format], "X-Accel-Buffering": "no"}
        )
        if audio_format == "pcm":
            self.response.headers["X-Sample-Rate"] = str(SAMPLE_RATE)

    async def send(self, data: bytes) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
        await self.response.write(data)

    async def finish(self, turn: ServedTurn) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
        await self.response.write_eof()

    async def fail(self, error: OrpheusError) -> web.StreamResponse:
        if not self.response.prepared:
            return error_response(error)
        # A part of the audio is sent already: abort the connection, so that the client does not
        # take it for the whole.
        if self._request.transport is not None:
            self._request.transport.abort()
        return self.response


class _Events:
    """The audio as server-sent events, base64 in JSON."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
            }
        )

    async def send(self, data: bytes) -> None:
        await self._event(
            {"type": "speech.audio.delta", "audio": base64.b64encode(data).decode("ascii")}
        )

    async def finish(self, turn: ServedTurn) -> None:
        tokens = {
            "input_tokens": turn.stats.prompt_tokens,
            "output_tokens": turn.stats.tokens,
        }
        usage = {**tokens, "total_tokens": sum(tokens.values())}
        await self._event({"type": "speech.audio.done", "usage": usage})
        await self.response.write_eof()

    async def fail(self, error: OrpheusError) -> web.StreamResponse:
        if not self.response.prepared:
            return error_response(error)
        await self._event(
            {"type": "error", "error": {"code": error.code, "message": error.message}}
        )
        await self.response.write_eof()
        return self.response

    async def _event(self, event: dict[str, Any]) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
        await self.response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
