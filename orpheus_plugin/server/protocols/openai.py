"""OpenAI's speech API: `/v1/audio/speech`, `/v1/models`, and the `/v1/audio/voices` that its imitators agree on."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from orpheus_plugin.errors import InvalidOptions, OrpheusError
from orpheus_plugin.server import encoders
from orpheus_plugin.server.encoders import CONTENT_TYPES, Encoder, OffLoop, WithTempo, make_encoder
from orpheus_plugin.server.replies import continue_later, error_response, json_body
from orpheus_plugin.server.service import ServedTurn, SpeechService
from orpheus_plugin.server.voicemap import VoiceMap
from orpheus_plugin.turn import AudioChunk, SpeechOptions


def add_routes(app: web.Application, service: SpeechService, voices: VoiceMap) -> None:
    async def speech(request: web.Request) -> web.StreamResponse:
        with service.connection():
            asked = _Asked.read(await json_body(request), service, voices)
            with contextlib.closing(OffLoop(asked.encoder())) as encoder:
                sender = _Events(request) if asked.sse else _Bytes(request, asked.format)
                try:
                    async with service.open("openai", asked.options) as turn:
                        await _speak(turn, asked.text, encoder, sender)
                except OrpheusError as error:
                    return await sender.fail(error)
                return sender.response

    async def models(request: web.Request) -> web.Response:
        name = service.engine.health().model
        model = {"id": name, "object": "model", "created": 0, "owned_by": "orpheus_plugin"}
        return web.json_response({"object": "list", "data": [model]})

    async def list_voices(request: web.Request) -> web.Response:
        return web.json_response({"voices": list(service.engine.voices)})

    async def warm_up(app: web.Application) -> None:
        await asyncio.to_thread(encoders.warm_up)

    app.on_startup.append(warm_up)
    app.router.add_post("/v1/audio/speech", speech, expect_handler=continue_later)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/v1/audio/voices", list_voices)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, checked. `model` and `instructions` are taken and mean nothing: there is one model, and it takes none."""

    text: str
    options: SpeechOptions
    format: str
    speed: float
    sse: bool

    def encoder(self) -> Encoder:
        encoder = make_encoder(self.format)
        return encoder if self.speed == 1 else WithTempo(self.speed, encoder)

    @classmethod
    def read(cls, body: dict[str, Any], service: SpeechService, voices: VoiceMap) -> _Asked:
        text = body.get("input")
        if not isinstance(text, str) or not text.strip():
            raise InvalidOptions("input must be a text that is not empty")
        voice = body.get("voice")
        if isinstance(voice, dict):
            voice = voice.get("id")
        if voice is not None and not isinstance(voice, str):
            raise InvalidOptions("voice must be a string")
        speed = body.get("speed", 1.0)
        if (
            isinstance(speed, bool)
            or not isinstance(speed, int | float)
            or not 0.25 <= speed <= 4.0
        ):
            raise InvalidOptions("speed must be a number from 0.25 to 4.0")
        stream_format = body.get("stream_format", "audio")
        if stream_format not in ("audio", "sse"):
            raise InvalidOptions("stream_format must be audio or sse")
        audio_format = body.get("response_format", "mp3")
        if not isinstance(audio_format, str):
            raise InvalidOptions("response_format must be a string")
        # Not OpenAI's, but harmless to its clients: they reach us through `extra_body`.
        own = {
            name: body[name]
            for name in ("temperature", "top_p", "repetition_penalty", "seed")
            if name in body
        }
        return cls(
            text,
            SpeechOptions(voice=voices.require(service.engine, voice), **own),
            audio_format,
            float(speed),
            stream_format == "sse",
        )


async def _speak(turn: ServedTurn, text: str, encoder: OffLoop, sender: _Bytes | _Events) -> None:
    turn.push_text(text)
    turn.end()
    async for event in turn:
        if isinstance(event, AudioChunk) and (data := await encoder.push(event.pcm)):
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
        # Half of the audio is on its way: cut the line, so that nobody takes it for the whole.
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
