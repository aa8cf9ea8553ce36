"""The native protocol: many turns on one websocket. `protocol.py` has its messages,
`docs/protocol.md` describes them."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

from aiohttp import web

from orpheus_plugin import protocol
from orpheus_plugin.errors import AtCapacity, BadMessage, OrpheusError
from orpheus_plugin.events import SAMPLE_RATE, AudioChunk, TurnEnd
from orpheus_plugin.options import MAX_WAIT_S
from orpheus_plugin.server.served_turn import ServedTurn
from orpheus_plugin.server.service import SpeechService
from orpheus_plugin.server.telephony import Converter
from orpheus_plugin.server.websocket import Socket, accept
from orpheus_plugin.version import __version__

logger = logging.getLogger(__name__)

HEALTH_EVERY_S = 1.0

MAX_UNSENT_ANSWERS = 1_000
"""The most refusals that wait to be read. A client that sends more requests without reading is
disconnected."""


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
                message = protocol.from_client(data, max_bytes=self._service.limits.message_bytes)
                self._take(message)
        except BadMessage as error:
            await self._refuse(error)
        except ConnectionError:
            pass
        finally:
            # First cleanup that does not wait, because this may be cancelled, too. A stream whose
            # task has not begun frees nothing.
            streams = list(self._streams.values())
            tasks = [*helpers, *self._answers, *(stream.task for stream in streams)]
            for task in tasks:
                task.cancel()
            for stream in streams:
                stream.turn.release()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _hello(self) -> protocol.Hello:
        service, health = self._service, self._health()
        return protocol.Hello(
            protocol=protocol.PROTOCOL,
            version=__version__,
            health=health.health,
            load=health.load,
            voices=service.engine.voices,
            adapters=service.engine.adapters,
            strict_voices=service.strict_voices,
            languages=service.engine.languages,
            tags=service.engine.tags,
            sample_rate=SAMPLE_RATE,
            max_text_chars=service.max_text_chars,
            max_turns_per_connection=service.limits.turns_per_connection,
        )

    def _health(self) -> protocol.Health:
        engine = self._service.engine
        health = engine.health()
        ready = health.ready and not self._service.draining.is_set()
        return protocol.Health(replace(health, ready=ready), engine.load())

    # ---- in

    def _take(self, message: protocol.ClientMessage | None) -> None:
        if isinstance(message, protocol.Open):
            self._open(message)
            return
        stream = None if message is None else self._streams.get(message.id)
        # None is of a newer protocol, or of a turn that has just ended.
        if message is None or stream is None or not stream.take(message):
            self._socket.idle_message()

    def _open(self, message: protocol.Open) -> None:
        if message.id in self._streams:
            raise BadMessage("a turn of this id is open already")
        try:
            if len(self._streams) >= self._service.limits.turns_per_connection:
                raise AtCapacity(
                    f"a connection has {self._service.limits.turns_per_connection} turns at most"
                )
            window_s = protocol.read_seconds(message.window_s, "window_s", 0.5, 600)
            max_wait_s = protocol.read_seconds(message.max_wait_s, "max_wait_s", 0, MAX_WAIT_S)
            converter = Converter(protocol.read_format(message.format))
            options = protocol.read_options(message.options)
            turn = self._service.open("native", options, max_wait_s=max_wait_s or 0.0)
        except OrpheusError as error:
            self._socket.idle_message()
            self._answer(protocol.error_message(error, message.id))
            return
        self._streams[message.id] = _Stream(self, message.id, turn, converter, window_s)

    def _answer(self, message: protocol.ServerMessage) -> None:
        """Send without delaying messages of other turns."""
        if len(self._answers) >= MAX_UNSENT_ANSWERS:
            raise BadMessage("too many answers have not been read")
        task = asyncio.create_task(_quietly(self, message), name="orpheus-native-answer")
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    # ---- out

    async def _send(self, message: protocol.ServerMessage) -> None:
        await self._socket.send(protocol.pack(message))

    async def _refuse(self, error: BadMessage) -> None:
        try:
            async with asyncio.timeout(1):
                await self._send(protocol.error_message(error))
                await self._socket.close(1008, error.code)
        except (TimeoutError, ConnectionError):
            pass

    def _retire(self, turn_id: str) -> None:
        self._streams.pop(turn_id, None)
        self._idle_since = time.monotonic()
        if self._service.draining.is_set() and not self._streams:
            self._last_retired.set()

    async def _tell_news(self) -> None:
        """Send the health when it changes; close a connection that is not used."""
        told = self._health()
        while True:
            await asyncio.sleep(HEALTH_EVERY_S)
            idle = time.monotonic() - self._idle_since
            if not self._streams and idle > self._service.limits.connection_idle_s:
                await self._socket.ask_to_close(1000, "idle")
                return
            health = self._health()
            if health != told:
                told = health
                await self._send(health)

    async def _say_goodbye(self) -> None:
        """When the server shuts down: tell the client to open new turns at another server; close
        after its last turn."""
        await self._service.draining.wait()
        await self._send(protocol.Goodbye())
        if self._streams:
            await self._last_retired.wait()
        await self._socket.ask_to_close(1001, "shutting down")


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
        self._unflushed = False
        self._ended = False
        self._last: protocol.ServerMessage | None = None
        self.task = asyncio.create_task(self._run(), name=f"orpheus-native-{turn.id}")

    def take(self, message: protocol.ClientMessage) -> bool:
        """False for a message that changes nothing: the same again, or empty."""
        match message:
            case protocol.Text(_, text):
                useful = bool(text)
                self._unflushed |= useful
                self._push_text(text)
            case protocol.Consumed(_, samples):
                useful = samples > 0 and self._unread > 0
                self._consumed(samples)
            case protocol.Flush():
                useful, self._unflushed = self._unflushed, False
                self.turn.flush()
            case protocol.End():
                useful, self._ended = not self._ended, True
                self.turn.end()
            case _:
                useful = self._last is None
                self._stop(
                    protocol.event_to_message(self._id, TurnEnd("cancelled", self.turn.stats))
                )
        return useful

    def _push_text(self, text: str) -> None:
        try:
            self.turn.push_text(text)
        except OrpheusError as error:
            self._stop(protocol.error_message(error, self._id))

    def _consumed(self, samples: int) -> None:
        self._unread = max(0, self._unread - samples)
        self.turn.touch()
        if self._window is None or self._unread < self._window:
            self._room.set()

    def _stop(self, last: protocol.ServerMessage) -> None:
        if self._last is None:
            self._last = last
            if self._began:  # cancelling a task that has not begun would skip its cleanup
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
            self._last = protocol.error_message(error, self._id)
        except ConnectionError:
            return  # the connection handles its end
        except Exception:
            logger.exception("a turn failed", extra={"turn": self.turn.id})
            unknown = OrpheusError("internal error; the server's log has it")
            self._last = protocol.error_message(unknown, self._id)
        finally:
            self.turn.release()
        await self.turn.freed()
        connection._retire(self._id)
        await _quietly(connection, self._last)

    async def _speak(self) -> protocol.ServerMessage:
        converter = self._converter
        async with self.turn as turn:
            await turn.admitted()
            await self._connection._send(protocol.Opened(self._id))
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
        message = protocol.Audio(self._id, self._position, utterance, data)
        self._position += samples
        await self._connection._send(message)


async def _quietly(connection: _Connection, message: protocol.ServerMessage) -> None:
    try:
        await connection._send(message)
    except ConnectionError:
        logger.debug("a client left before its turn's last message")
