"""vLLM-Omni's websocket `/v1/audio/speech/stream`, which LiveKit's Baseten plugin uses, too
(model="qwen3-tts").

JSON text messages: `session.config` first, then `input.text` and `input.done` for each utterance;
the connection stays open. The answers are `audio.start`, the audio (binary), `audio.done` for each
sentence, and `session.done`. Facts: vLLM-Omni's Speech API documentation, serving_speech_stream.py
and protocol/audio.py; livekit-plugins-baseten's qwen3_tts.py.

An utterance is a turn here. The next one waits for its end: its audio comes after, and it would
take a second place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Literal

import msgspec
from aiohttp import web

from orpheus_plugin.errors import BadMessage, InvalidOptions, OrpheusError, TextTooLong
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.server.duplex import drive
from orpheus_plugin.server.json_api import WideOptions, json_object
from orpheus_plugin.server.protocols.omni_audio import Format, Sentences
from orpheus_plugin.server.served_turn import ServedTurn
from orpheus_plugin.server.service import SpeechService
from orpheus_plugin.server.websocket import Socket, accept

logger = logging.getLogger(__name__)

PATH = "/v1/audio/speech/stream"
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Longest message: a configuration may contain a recording, which is not used."""

MAX_WAITING = 10_000
"""Messages that may wait for the end of an utterance: an LLM's deltas of 40,000 characters."""

CONFIG_S = 10.0
IDLE_S = 30.0
"""Seconds within which the configuration must come; after it, a connection without messages for so
long is closed. LiveKit's plugin keeps idle connections and sends a message every 15 s."""

NO_CLONES = "Orpheus cannot speak with a recorded voice; choose a named one"


class Config(WideOptions, kw_only=True, tag_field="type", tag="session.config"):
    """Other fields (language, instructions, task_type, max_new_tokens ...) are accepted and
    ignored."""

    speaker: str | None = None
    response_format: Literal["wav", "pcm", "flac", "mp3", "opus"] | None = None
    stream_audio: bool | None = None
    word_timestamps: bool | None = None
    timestamp_type: Literal["none", "word"] | None = None
    ref_audio: str | None = None

    def check(self) -> None:
        """Raises InvalidOptions."""
        if self.stream_audio and (self.response_format != "pcm" or self.speed not in (None, 1)):
            raise InvalidOptions('stream_audio needs response_format "pcm" and speed 1')
        self.options()

    def options(self) -> SpeechOptions:
        if self.voice is None:
            self.voice = self.speaker
        return self.speech()

    def format(self) -> Format:
        return Format(
            self.response_format or "wav",
            speed=self.speed_left,
            streamed=bool(self.stream_audio),
            word_chunks=bool(self.word_timestamps),
            word_alignment=self.timestamp_type == "word",
        )


class Text(msgspec.Struct, tag_field="type", tag="input.text"):
    text: str


class Done(msgspec.Struct, tag_field="type", tag="input.done"):
    pass


class Close(msgspec.Struct, tag_field="type", tag="session.close"):
    pass


class VoiceList(msgspec.Struct, tag_field="type", tag="voice.list"):
    pass


class VoiceAdd(msgspec.Struct, tag_field="type", tag="voice.add"):
    pass


_Message = Config | Text | Done | Close | VoiceList | VoiceAdd


def add_routes(app: web.Application, service: SpeechService) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        with service.connection():
            async with accept(request, service.limits, message_bytes=MAX_MESSAGE_BYTES) as socket:
                session = _Session(service, socket)
                with contextlib.suppress(ConnectionError):
                    try:
                        await drive(session.read(), session.speak())
                    except OrpheusError as error:
                        await session.fail(error)
                        await socket.close(1013 if error.retryable else 1008, error.message)
                    await socket.close()
            return socket.response

    app.router.add_get(PATH, handle)


class _Session:
    """One connection: a reader that checks messages, a speaker that takes them one after the
    other."""

    def __init__(self, service: SpeechService, socket: Socket) -> None:
        self._service = service
        self._socket = socket
        self._inbox: asyncio.Queue[Config | Text | Done | Close] = asyncio.Queue()
        self._returned: Config | Done | Close | None = None
        self._chars = 0  # in the inbox
        self._said = False  # whether the last message had text
        self._configured = False
        self._busy = False
        self._config = Config()
        self._utterance = -1
        self._sent = False  # audio of this utterance

    async def _tell(self, kind: str, **fields: object) -> None:
        await self._socket.send(json.dumps({"type": kind, **fields}))

    async def fail(self, error: OrpheusError) -> None:
        partial = {"partial_audio": True, "action": "discard"} if self._sent else {}
        await self._tell("error", message=error.message, code=error.code, **partial)

    # ---- in

    async def read(self) -> None:
        """Runs until the client is gone, or sends nothing for too long."""
        while True:
            try:
                async with asyncio.timeout(IDLE_S if self._configured else CONFIG_S):
                    data = await self._socket.receive()
            except TimeoutError:
                if self._busy:
                    continue
                if self._configured:
                    return
                raise BadMessage("session.config did not come") from None
            if data is None:
                return
            try:
                await self._take(data)
            except (BadMessage, InvalidOptions) as error:
                self._socket.idle_message()
                await self._tell("error", message=error.message, code=error.code)

    async def _take(self, data: str | bytes) -> None:
        if isinstance(data, bytes):
            raise BadMessage("messages are JSON text")
        message: _Message = json_object(data, _Message)  # type: ignore[arg-type]
        if isinstance(message, VoiceList):
            self._socket.idle_message()
            voices = list(self._service.engine.voices)
            await self._tell("voice.list", success=True, voices=voices, uploaded_voices=[])
            return
        if isinstance(message, VoiceAdd):
            raise InvalidOptions(NO_CLONES)
        if isinstance(message, Config):
            message.check()
            self._service.engine.check_voice(self._service.voices(message.options().voice))
            if message.ref_audio is not None:
                if self._service.voices.custom == "error":
                    raise InvalidOptions(NO_CLONES)
                logger.warning("a recorded voice was asked for; a named one is used")
                message.ref_audio = None  # it may be long, and the message may wait
            self._configured = True
        elif isinstance(message, Text | Done) and not self._configured:
            raise BadMessage("session.config comes first")
        elif isinstance(message, Text):
            self._chars += len(message.text)
            if self._chars > 4 * self._service.max_text_chars:
                raise TextTooLong(f"{self._chars} characters wait to be spoken; send less at once")
        says_something = isinstance(message, Text) and bool(message.text)
        if not (says_something or self._said):
            self._socket.idle_message()
        self._said = says_something
        if self._inbox.qsize() >= MAX_WAITING:
            raise TextTooLong(f"{MAX_WAITING} messages wait to be spoken; send less at once")
        self._inbox.put_nowait(message)

    async def _next(self) -> Config | Text | Done | Close:
        if (returned := self._returned) is not None:
            self._returned = None
            return returned
        message = await self._inbox.get()
        if isinstance(message, Text):
            self._chars -= len(message.text)
        return message

    # ---- out

    async def speak(self) -> None:
        """Runs until `session.close`."""
        while True:
            message = await self._next()
            if isinstance(message, Close):
                return
            if isinstance(message, Config):
                self._config = message
                continue
            self._utterance += 1
            self._busy = True
            sentences = 0
            if isinstance(message, Text):
                sentences = await self._speak(message)
            await self._tell(
                "session.done", utterance_index=self._utterance, total_sentences=sentences
            )
            self._busy = self._sent = False

    async def _speak(self, first: Text) -> int:
        """Speak one utterance, up to its `input.done`. Returns the number of its sentences."""
        ended = asyncio.Event()
        sentences = Sentences(self._tell, self._audio, self._config.format(), self._utterance)
        try:
            async with self._service.open("omni", self._config.options()) as turn:
                turn.push_text(first.text)
                await drive(self._feed(turn, ended), sentences.send(turn))
        except OrpheusError as error:
            await self.fail(error)
            while not ended.is_set():  # the rest of it is not spoken
                if not isinstance(message := await self._next(), Text):
                    self._end(message, ended)
        return sentences.count

    async def _feed(self, turn: ServedTurn, ended: asyncio.Event) -> None:
        while isinstance(message := await self._next(), Text):
            turn.push_text(message.text)
        self._end(message, ended)
        turn.end()
        await asyncio.Event().wait()  # cancelled when the audio is sent

    def _end(self, message: Config | Done | Close, ended: asyncio.Event) -> None:
        ended.set()
        if not isinstance(message, Done):  # it ends the utterance, too
            self._returned = message

    async def _audio(self, data: bytes | str) -> None:
        self._sent = True
        await self._socket.send(data)
