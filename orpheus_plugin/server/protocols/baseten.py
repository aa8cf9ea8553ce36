"""The protocol of Baseten's Orpheus deployments. LiveKit's Baseten plugin uses it: change its
endpoint's address.

Websocket: a JSON object with the options, text messages, `__END__`; binary s16le 24 kHz back, then
the end. Unlike the original, this server reads while it speaks, and stops speaking when the client
leaves. POST: {"prompt", "voice", ...} -> the audio.
"""

from __future__ import annotations

import asyncio
import contextlib
import string

from aiohttp import web

from orpheus_plugin.errors import BadMessage, InvalidOptions, OrpheusError, TurnTimedOut
from orpheus_plugin.events import SAMPLE_RATE
from orpheus_plugin.server.duplex import drive
from orpheus_plugin.server.json_api import Options, continue_later, json_body, json_object
from orpheus_plugin.server.served_turn import ServedTurn
from orpheus_plugin.server.service import SpeechService
from orpheus_plugin.server.websocket import Socket, accept

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


def add_routes(app: web.Application, service: SpeechService) -> None:
    async def websocket(request: web.Request) -> web.StreamResponse:
        with service.connection():
            async with accept(request, service.limits) as socket:
                with contextlib.suppress(ConnectionError):
                    try:
                        await _converse(socket)
                    except OrpheusError as error:
                        await socket.close(1013 if error.retryable else 1008, error.message)
                    await socket.close()
            return socket.response

    async def _converse(socket: Socket) -> None:
        try:
            async with asyncio.timeout(service.limits.turn_idle_s):
                first = await socket.receive()
        except TimeoutError:
            raise TurnTimedOut("the options did not come") from None
        if first is None:
            return
        if isinstance(first, bytes):
            raise BadMessage("the first message is a JSON object with the options")
        async with service.open("baseten", json_object(first, Options).speech()) as turn:
            await drive(_read(socket, turn), _send(socket, turn))

    async def predict(request: web.Request) -> web.StreamResponse:
        with service.connection():
            body = await json_body(request, _Body)
            if not body.prompt.strip():
                raise InvalidOptions("prompt must be a string that is not empty")
            async with service.open("baseten", body.speech()) as turn:
                return await _stream(request, turn, body.prompt)

    for path in WEBSOCKET_PATHS:
        app.router.add_get(path, websocket)
    for path in POST_PATHS:
        app.router.add_post(path, predict, expect_handler=continue_later)


class _Body(Options, kw_only=True):
    """A request. Sampling parameters count; word counts and token limits are ignored."""

    prompt: str


async def _stream(request: web.Request, turn: ServedTurn, text: str) -> web.StreamResponse:
    # The original sends audio/wav without a WAV header; LiveKit's plugin does not check it.
    response = web.StreamResponse(
        headers={
            "Content-Type": "audio/pcm;rate=24000;channels=1",
            "X-Sample-Rate": str(SAMPLE_RATE),
        }
    )
    turn.push_text(text)
    turn.end()
    async for pcm in turn.pcm():
        if not response.prepared:  # an error before the first sound still has its status
            await response.prepare(request)
        await response.write(pcm)
    await response.write_eof()
    return response


async def _read(socket: Socket, turn: ServedTurn) -> None:
    joiner = Joiner()
    async for message in socket:
        if isinstance(message, bytes):
            raise BadMessage("text is sent as text messages")
        if not message:
            socket.idle_message()
        if message == END:
            turn.push_text(joiner.finish())
            turn.end()
        else:
            turn.push_text(joiner.push(message))


async def _send(socket: Socket, turn: ServedTurn) -> None:
    async for pcm in turn.pcm():
        await socket.send(pcm)


class Joiner:
    """Joins a client's pieces. Baseten's own clients send bare words; LiveKit sends an LLM's
    deltas, which contain spaces. The first piece that begins or ends with a space decides; four
    without one are words."""

    def __init__(self) -> None:
        self._spaced: bool | None = None
        self._held: list[str] = []
        self._begun = False

    def push(self, piece: str) -> str:
        """Text that can be spoken now."""
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
