"""The native protocol: many turns on one websocket. `protocol.py` has its messages, `docs/protocol.md` their table."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

from aiohttp import web

from orpheus_plugin import protocol
from orpheus_plugin.errors import AtCapacity, BadMessage, OrpheusError
from orpheus_plugin.server.service import ServedTurn, SpeechService
from orpheus_plugin.server.telephony import Converter
from orpheus_plugin.server.websocket import Socket, accept
from orpheus_plugin.turn import AudioChunk, TurnEnd
from orpheus_plugin.version import __version__

logger = logging.getLogger(__name__)

HEALTH_EVERY_S = 1.0

MAX_UNSENT_ANSWERS = 1_000
"""Refusals that wait for the client to read. A client that asks on without reading is cut off."""


def add_routes(app: web.Application, service: SpeechService) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        with service.connection():
            async with accept(request, service.limits) as socket:
                await _Connection(service, socket).run()
            return socket.response

    app.router.add_get(protocol.PATH, handle)


class _Connection:
    """One client: reads its messages, runs one task per turn that sends."""

    def __init__(self, service: SpeechService, socket: Socket) -> None:
        self._service = service
        self._socket = socket
        self._streams: dict[str, _Stream] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self._idle_since = time.monotonic()
        self._last_retired = asyncio.Event()

    async def run(self) -> None:
        helpers = [
            asyncio.create_task(self._tell_news(), name="orpheus-native-news"),
            asyncio.create_task(self._say_goodbye(), name="orpheus-native-goodbye"),
        ]
        try:
            await self._send(self._hello())
            async for data in self._socket:
                if isinstance(data, str):
                    raise BadMessage("messages are binary MessagePack")
                self._take(protocol.unpack(data, max_bytes=self._service.limits.message_bytes))
        except BadMessage as error:
            await self._refuse(error)
        except ConnectionError:
            pass
        finally:
            # First what needs no waiting: this may be cancelled, too. A stream whose task had not begun frees nothing.
            streams = list(self._streams.values())
            tasks = [*helpers, *self._answers, *(stream.task for stream in streams)]
            for task in tasks:
                task.cancel()
            for stream in streams:
                stream.turn.release()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _hello(self) -> protocol.Message:
        service = self._service
        return {
            "type": "hello",
            "protocol": protocol.PROTOCOL,
            "version": __version__,
            "voices": list(service.engine.voices),
            "strict_voices": service.strict_voices,
            "languages": list(service.engine.languages),
            "tags": list(service.engine.tags),
            "sample_rate": 24_000,
            "max_text_chars": service.max_text_chars,
            "max_turns_per_connection": service.limits.turns_per_connection,
            "health": self._health(),
        }

    def _health(self) -> protocol.Message:
        engine = self._service.engine
        health = engine.health()
        ready = health.ready and not self._service.draining.is_set()
        return protocol.health_to_map(replace(health, ready=ready), engine.load())

    # ---- in

    def _take(self, message: protocol.Message) -> None:
        kind = message["type"]
        if kind == "open":
            self._open(message)
            return
        if kind not in ("text", "flush", "end", "cancel", "consumed"):
            self._socket.idle_message()
            return  # of a newer protocol
        stream = self._streams.get(protocol.text_field(message, "id", limit=protocol.MAX_ID_CHARS))
        if stream is None:
            self._socket.idle_message()
            return  # it ended while this message was on its way
        if kind == "text":
            stream.push_text(protocol.text_field(message, "text"))
        elif kind == "flush":
            stream.turn.flush()
        elif kind == "end":
            stream.turn.end()
        elif kind == "cancel":
            stream.cancel()
        else:
            stream.consumed(protocol.count_field(message, "samples"))

    def _open(self, message: protocol.Message) -> None:
        turn_id = protocol.text_field(message, "id", limit=protocol.MAX_ID_CHARS)
        if turn_id in self._streams:
            raise BadMessage("a turn of this id is open already")
        window_s = message.get("window_s", protocol.WINDOW_S)
        try:
            if len(self._streams) >= self._service.limits.turns_per_connection:
                raise AtCapacity(
                    f"a connection has {self._service.limits.turns_per_connection} turns at most"
                )
            if window_s is not None and (
                isinstance(window_s, bool)
                or not isinstance(window_s, int | float)
                or not 0.5 <= window_s <= 600
            ):
                raise BadMessage("window_s must be a number from 0.5 to 600, or nil")
            converter = Converter(protocol.format_from_map(message.get("format")))
            turn = self._service.open(
                "native",
                protocol.options_from_map(message.get("options")),
                max_wait_s=message.get("max_wait_s") or 0.0,
            )
        except OrpheusError as error:
            self._socket.idle_message()
            self._answer(protocol.error_to_message(error, turn_id))
            return
        self._streams[turn_id] = _Stream(self, turn_id, turn, converter, window_s)

    def _answer(self, message: protocol.Message) -> None:
        """Send without holding up the reading of other turns' messages."""
        if len(self._answers) >= MAX_UNSENT_ANSWERS:
            raise BadMessage("too many answers have not been read")
        task = asyncio.create_task(_quietly(self, message), name="orpheus-native-answer")
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    # ---- out

    async def _send(self, message: protocol.Message) -> None:
        await self._socket.send(protocol.pack(message))

    async def _refuse(self, error: BadMessage) -> None:
        try:
            async with asyncio.timeout(1):
                await self._send(protocol.error_to_message(error))
                await self._socket.close(1008, error.code)
        except (TimeoutError, ConnectionError):
            pass

    def _retire(self, turn_id: str) -> None:
        self._streams.pop(turn_id, None)
        self._idle_since = time.monotonic()
        if self._service.draining.is_set() and not self._streams:
            self._last_retired.set()

    async def _tell_news(self) -> None:
        """The health when it changed; and the end of a connection nobody uses."""
        told = self._health()
        while True:
            await asyncio.sleep(HEALTH_EVERY_S)
            idle = time.monotonic() - self._idle_since
            if not self._streams and idle > self._service.limits.connection_idle_s:
                await self._socket.close(1000, "idle")
                return
            health = self._health()
            if health != told:
                told = health
                await self._send({"type": "health", **health})

    async def _say_goodbye(self) -> None:
        """When the server shuts down: tell the client to take new turns elsewhere; close after its last turn."""
        await self._service.draining.wait()
        await self._send({"type": "goodbye"})
        if self._streams:
            await self._last_retired.wait()
        await self._socket.close(1001, "shutting down")


class _Stream:
    """One turn of a connection: its sending task and its window."""

    def __init__(
        self,
        connection: _Connection,
        turn_id: str,
        turn: ServedTurn,
        converter: Converter,
        window_s: float | None,
    ) -> None:
        self.turn = turn
        self._connection = connection
        self._id = turn_id
        self._converter = converter
        self._window = None if window_s is None else int(window_s * converter.format.sample_rate)
        self._position = 0
        self._unread = 0
        self._room = asyncio.Event()
        self._room.set()
        self._began = False
        self._last: protocol.Message | None = None
        self.task = asyncio.create_task(self._run(), name=f"orpheus-native-{turn.id}")

    def push_text(self, text: str) -> None:
        try:
            self.turn.push_text(text)
        except OrpheusError as error:
            self._stop(protocol.error_to_message(error, self._id))

    def consumed(self, samples: int) -> None:
        self._unread = max(0, self._unread - samples)
        self.turn.touch()
        if self._window is None or self._unread < self._window:
            self._room.set()

    def cancel(self) -> None:
        self._stop(protocol.event_to_message(self._id, TurnEnd("cancelled", self.turn.stats)))

    def _stop(self, last: protocol.Message) -> None:
        if self._last is None:
            self._last = last
            if self._began:  # cancelling a task that has not begun would skip its clearing up
                self.task.cancel()

    async def _run(self) -> None:
        self._began = True
        connection = self._connection
        try:
            if self._last is None:
                self._last = await self._speak()
        except asyncio.CancelledError:
            if self._last is None:
                raise  # the connection is gone
            current = asyncio.current_task()
            assert current is not None
            current.uncancel()
        except OrpheusError as error:
            self._last = protocol.error_to_message(error, self._id)
        except ConnectionError:
            return  # its end is the connection's to see
        except Exception:
            logger.exception("a turn failed", extra={"turn": self.turn.id})
            unknown = OrpheusError("internal error; the server's log has it")
            self._last = protocol.error_to_message(unknown, self._id)
        finally:
            self.turn.release()
        await self.turn.freed()
        connection._retire(self._id)
        await _quietly(connection, self._last)

    async def _speak(self) -> protocol.Message:
        converter = self._converter
        async with self.turn as turn:
            await turn.admitted()
            await self._connection._send({"type": "opened", "id": self._id})
            utterance = 0
            async for event in turn:
                if isinstance(event, AudioChunk):
                    utterance = event.utterance
                    await self._send_audio(converter.push(event.pcm), utterance)
                elif isinstance(event, TurnEnd):
                    await self._send_audio(converter.finish(), utterance)
                    return protocol.event_to_message(self._id, event)
                else:
                    await self._connection._send(protocol.event_to_message(self._id, event))
        raise AssertionError("a turn ends with its TurnEnd or an error")

    async def _send_audio(self, data: bytes, utterance: int) -> None:
        if not data:
            return
        await self._room.wait()
        samples = len(data) // self._converter.format.sample_bytes
        self._unread += samples
        if self._window is not None and self._unread >= self._window:
            self._room.clear()
        message = protocol.audio_message(self._id, data, self._position, utterance)
        self._position += samples
        await self._connection._send(message)


async def _quietly(connection: _Connection, message: protocol.Message) -> None:
    try:
        await connection._send(message)
    except ConnectionError:
        logger.debug("a client left before its turn's last message")
