"""kyutai's text-to-speech protocol, as unmute uses it: `/api/tts_streaming` and `/api/build_info`.

One connection is one turn. Clients strip the spaces around their words, and interrupt by closing
the connection. Facts: unmute's text_to_speech.py, moshi-server's tts.rs and py_module.rs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from aiohttp import WSCloseCode, web

from orpheus_plugin.errors import BadMessage, InvalidOptions, OrpheusError
from orpheus_plugin.events import AudioChunk, Word
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.server.duplex import drive
from orpheus_plugin.server.encoders import OffLoop, make_encoder
from orpheus_plugin.server.served_turn import ServedTurn
from orpheus_plugin.server.service import SpeechService
from orpheus_plugin.server.websocket import Socket, accept
from orpheus_plugin.version import __version__

logger = logging.getLogger(__name__)

NO_ROOM = "no free channels"
"""The message of kyutai's server at capacity; unmute then tries its next server."""

MAX_MESSAGE_BYTES = 2 * 1024 * 1024
"""Longest message: a voice embedding is long."""

FORMATS = ("PcmMessagePack", "Pcm", "OggOpusMessagePack", "OggOpus")


def add_routes(app: web.Application, service: SpeechService) -> None:
    async def build_info(request: web.Request) -> web.Response:
        return web.json_response({"server": "orpheus_plugin", "version": __version__})

    async def tts_streaming(request: web.Request) -> web.StreamResponse:
        audio_format = request.query.get("format", "OggOpus")
        if audio_format not in FORMATS:
            raise InvalidOptions(f"format must be one of {', '.join(FORMATS)}")
        with contextlib.closing(_Out(audio_format)) as out:
            async with accept(request, service.limits, message_bytes=MAX_MESSAGE_BYTES) as socket:
                code: int = WSCloseCode.OK
                with contextlib.suppress(ConnectionError):
                    try:
                        with service.connection():
                            await _speak(socket, service, _options(request), out)
                    except OrpheusError as error:
                        code = await _refuse(socket, out, error)
                    await socket.close(code)
            return socket.response

    async def _speak(
        socket: Socket, service: SpeechService, options: SpeechOptions, out: _Out
    ) -> None:
        async with service.open("unmute", options) as turn:
            custom = service.voices.custom
            reader = _Reader(socket, turn, custom)
            if custom == "error":
                # A voice embedding comes first, and clients notice a refusal only before Ready.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        reader.take(await socket.receive())
            await turn.admitted()
            await out.send(socket, out.message({"type": "Ready"}))
            out.ready = True
            await drive(reader.run(), _send(socket, turn, out))

    app.router.add_get("/api/build_info", build_info)
    app.router.add_get("/api/tts_streaming", tts_streaming)


def _options(request: web.Request) -> SpeechOptions:
    """The options that are used: voice and seed. The temperature is meant for kyutai's models."""
    seed = request.query.get("seed", "")
    return SpeechOptions(
        voice=request.query.get("voice"),
        seed=int(seed) if seed.isascii() and seed.isdecimal() and len(seed) < 19 else None,
        speed=_number(request, "speed"),
        gain_db=_number(request, "gain_db"),
    )


def _number(request: web.Request, name: str) -> float | None:
    """Raises InvalidOptions."""
    text = request.query.get(name)
    try:
        return float(text) if text else None
    except ValueError:
        raise InvalidOptions(f"{name} must be a number, not {text!r}") from None


async def _refuse(socket: Socket, out: _Out, error: OrpheusError) -> WSCloseCode:
    """Send the reason. Returns the code to close with: clients ignore an Error after Ready, but not
    an unclean close."""
    logger.info("refused or ended", extra={"protocol": "unmute", "code": error.code})
    # unmute has one message for all reasons not to speak now.
    message = NO_ROOM if error.retryable and not out.ready else error.message
    await out.send(socket, out.message({"type": "Error", "message": message}))
    return WSCloseCode.INTERNAL_ERROR if out.ready else WSCloseCode.OK


async def _send(socket: Socket, turn: ServedTurn, out: _Out) -> None:
    await out.send(socket, await out.begin())
    async for event in turn:
        if isinstance(event, AudioChunk):
            await out.send(socket, await out.audio(event.pcm))
        elif isinstance(event, Word):
            word = {"type": "Text", "text": event.text}
            times = {"start_s": event.start_s, "stop_s": event.end_s}
            await out.send(socket, out.message({**word, **times}))
    await out.send(socket, await out.finish())


class _Reader:
    """Passes the client's messages to the turn."""

    def __init__(self, socket: Socket, turn: ServedTurn, custom: str) -> None:
        self._socket = socket
        self._turn = turn
        self._custom = custom
        self._any_text = False
        self._ended = False

    async def run(self) -> None:
        """Runs until the client is gone; also after Eos, to notice that."""
        async for data in self._socket:
            self.take(data)

    def take(self, data: str | bytes | None) -> None:
        if isinstance(data, str):
            self._text(data)
        elif data == b"\0":
            self._end()
        elif data is not None:
            self._message(_unpack(data))

    def _message(self, message: _Text | _Voice | _Eos) -> None:
        if isinstance(message, _Text):
            self._text(message.text)
        elif isinstance(message, _Eos):
            self._end()
        elif self._custom == "error":
            raise InvalidOptions("Orpheus cannot speak with a custom voice; choose a named one")
        else:
            self._socket.idle_message()
            logger.warning("a custom voice was asked for; speaking with the default one")

    def _text(self, text: str) -> None:
        if text.strip():
            self._turn.push_text(f" {text}" if self._any_text else text)
            self._any_text = True
        else:
            self._socket.idle_message()

    def _end(self) -> None:
        if self._ended:
            self._socket.idle_message()
        self._ended = True
        self._turn.end()


class _Text(msgspec.Struct, tag_field="type", tag="Text"):
    text: str


class _Voice(msgspec.Struct, tag_field="type", tag="Voice"):
    """An embedding, which is not read."""


class _Eos(msgspec.Struct, tag_field="type", tag="Eos"):
    pass


_decoder: msgspec.msgpack.Decoder[_Text | _Voice | _Eos] = msgspec.msgpack.Decoder(
    _Text | _Voice | _Eos
)


def _unpack(data: bytes) -> _Text | _Voice | _Eos:
    try:
        return _decoder.decode(data)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"expected Text, Voice or Eos as MessagePack: {error}") from None


class _Out:
    """One of the four formats: messages as maps, or bare audio."""

    def __init__(self, audio_format: str) -> None:
        self.ready = False
        self._maps = audio_format.endswith("MessagePack")
        self._opus = OffLoop(make_encoder("opus")) if audio_format.startswith("OggOpus") else None

    def message(self, message: dict[str, Any]) -> bytes | None:
        return msgspec.msgpack.encode(message) if self._maps else None

    async def send(self, socket: Socket, data: bytes | None) -> None:
        if data:
            await socket.send(data)

    async def begin(self) -> bytes | None:
        """The container's header, if it has one."""
        return None if self._opus is None else self._encoded(await self._opus.push(b""))

    async def audio(self, pcm: bytes) -> bytes | None:
        if self._opus is not None:
            return self._encoded(await self._opus.push(pcm))
        floats = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32_768)
        return _audio_map(floats) if self._maps else floats.astype("<f4").tobytes()

    async def finish(self) -> bytes | None:
        return None if self._opus is None else self._encoded(await self._opus.finish())

    def close(self) -> None:
        if self._opus is not None:
            self._opus.close()

    def _encoded(self, data: bytes) -> bytes | None:
        if not data:
            return None
        # As kyutai's server sends it: an array of numbers, not MessagePack's bin.
        return self.message({"type": "OggOpus", "data": list(data)}) if self._maps else data


_AUDIO_HEAD = b"\x82" + b"".join(map(msgspec.msgpack.encode, ("type", "Audio", "pcm")))
_FLOAT = np.dtype([("tag", "u1"), ("value", ">f4")])


def _audio_map(samples: npt.NDArray[np.floating]) -> bytes:
    """{"type": "Audio", "pcm": [float32...]}, packed with NumPy: thousands of floats, ten times a
    second, per turn."""
    array = np.empty(samples.size, _FLOAT)
    array["tag"] = 0xCA
    array["value"] = samples
    return b"".join((_AUDIO_HEAD, b"\xdd", samples.size.to_bytes(4, "big"), array.tobytes()))
