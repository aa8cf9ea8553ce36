"""The protocol of Baseten's Orpheus deployments, which LiveKit's Baseten plugin speaks: change its endpoint's address.

Websocket: a JSON object with the options, text messages, `__END__`; binary s16le 24 kHz back, then the end. Unlike the
original we read on while speaking, and a client that leaves stops the speech. POST: {"prompt", "voice", ...} -> the audio.
"""

from __future__ import annotations

import contextlib
import string
from typing import Any

from aiohttp import WSMsgType, web

from orpheus_plugin.errors import BadMessage, InvalidOptions, OrpheusError, TurnTimedOut
from orpheus_plugin.server.duplex import drive
from orpheus_plugin.server.replies import json_body, json_object
from orpheus_plugin.server.security import speech_websocket
from orpheus_plugin.server.service import ServedTurn, SpeechService
from orpheus_plugin.server.voicemap import VoiceMap
from orpheus_plugin.turn import AudioChunk, SpeechOptions

END = "__END__"
WEBSOCKET_PATHS = (
    "/v1/websocket",
    "/websocket",
    "/production/websocket",
    "/environments/production/websocket",
)
POST_PATHS = (
    "/predict",
    "/production/predict",
    "/development/predict",
    "/environments/production/predict",
)

UNDECIDED_PIECES = 4


def add_routes(app: web.Application, service: SpeechService, voices: VoiceMap) -> None:
    async def websocket(request: web.Request) -> web.StreamResponse:
        with service.connection():
            ws = speech_websocket(service.limits)
            await ws.prepare(request)
            with contextlib.suppress(ConnectionError):
                try:
                    await _converse(ws)
                except OrpheusError as error:
                    code = 1013 if error.retryable else 1008
                    # A close frame holds 123 bytes of whole characters.
                    reason = error.message.encode()[:120].decode(errors="ignore")
                    await ws.close(code=code, message=reason.encode())
                await ws.close()
            return ws

    async def _converse(ws: web.WebSocketResponse) -> None:
        try:
            first = await ws.receive(timeout=service.limits.turn_idle_s)
        except TimeoutError:
            raise TurnTimedOut("the options did not come") from None
        if first.type is not WSMsgType.TEXT:
            if first.type is WSMsgType.BINARY:
                raise BadMessage("the first message is a JSON object with the options")
            return
        turn = service.open("baseten", _options(service, voices, json_object(first.data)))
        try:
            await drive(_read(ws, turn), _send(ws, turn))
        finally:
            await turn.close()

    async def predict(request: web.Request) -> web.StreamResponse:
        with service.connection():
            body = await json_body(request)
            prompt = body.get("prompt")
            if not isinstance(prompt, str) or not prompt.strip():
                raise BadMessage('"prompt" must be a text')
            turn = service.open("baseten", _options(service, voices, body))
            try:
                return await _stream(request, turn, prompt)
            finally:
                await turn.close()

    for path in WEBSOCKET_PATHS:
        app.router.add_get(path, websocket)
    for path in POST_PATHS:
        app.router.add_post(path, predict)


async def _stream(request: web.Request, turn: ServedTurn, text: str) -> web.StreamResponse:
    # The original says audio/wav of what has no header; LiveKit's plugin does not look.
    response = web.StreamResponse(headers={"Content-Type": "audio/pcm;rate=24000;channels=1"})
    async with turn:
        turn.push_text(text)
        turn.end()
        async for event in turn:
            if isinstance(event, AudioChunk):
                if not response.prepared:  # an error before the first sound still has its status
                    await response.prepare(request)
                await response.write(event.pcm)
    if not response.prepared:
        await response.prepare(request)
    await response.write_eof()
    return response


async def _read(ws: web.WebSocketResponse, turn: ServedTurn) -> None:
    joiner = Joiner()
    async for message in ws:
        if message.type is not WSMsgType.TEXT:
            raise BadMessage("text is sent as text messages")
        if message.data == END:
            turn.push_text(joiner.finish())
            turn.end()
        else:
            turn.push_text(joiner.push(message.data))


async def _send(ws: web.WebSocketResponse, turn: ServedTurn) -> None:
    async with turn:
        async for event in turn:
            if isinstance(event, AudioChunk):
                await ws.send_bytes(event.pcm)


class Joiner:
    """Puts a client's pieces together. Baseten's own clients send bare words; LiveKit sends an LLM's deltas, whose
    spaces are in them. The first piece that begins or ends with a space tells; four without one are words."""

    def __init__(self) -> None:
        self._spaced: bool | None = None
        self._held: list[str] = []
        self._begun = False

    def push(self, piece: str) -> str:
        """What can be spoken by now."""
        if not piece:
            return ""
        self._held.append(piece)
        if self._spaced is None:
            if piece[0].isspace() or piece[-1].isspace():
                self._spaced = True
            elif len(self._held) >= UNDECIDED_PIECES or any(c.isspace() for c in piece):
                self._spaced = False
        return "" if self._spaced is None else self._take()

    def finish(self) -> str:
        return self._take()

    def _take(self) -> str:
        held, self._held = self._held, []
        text = ""
        for piece in held:
            bare = not self._spaced and self._begun and piece[0] not in string.punctuation
            text += f" {piece}" if bare else piece
            self._begun = True
        return text


def _options(service: SpeechService, voices: VoiceMap, body: dict[str, Any]) -> SpeechOptions:
    """Word counts and token limits are ours to find; the sampling is the client's."""
    voice = body.get("voice")
    if voice is not None and not isinstance(voice, str):
        raise InvalidOptions("voice must be a string")
    return SpeechOptions(
        voice=voices.require(service.engine, voice),
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        repetition_penalty=body.get("repetition_penalty"),
    )
