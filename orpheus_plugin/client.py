"""`RemoteEngine`: the same interface as LocalEngine, spoken by a server (`orpheus-tts serve`) elsewhere.

One websocket carries all turns of a process. It lives on a thread of its own with its own loop, so that turns may be
opened from any number of event loops, a busy agent loop holds up nobody else's audio, and the connection outlives the
loop that first asked for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from orpheus_plugin import wire
from orpheus_plugin.engine import EngineHealth
from orpheus_plugin.errors import (
    ConnectionFailed,
    EngineDied,
    OrpheusError,
    UnknownVoice,
    without_login,
)
from orpheus_plugin.turn import MAX_TEXT_CHARS, SAMPLE_RATE, SpeechOptions, Turn, TurnEnd

logger = logging.getLogger(__name__)

MAX_SERVER_MESSAGE = 4 * 1024 * 1024
HEARTBEAT_S = 5.0
"""A server that answers no ping is given up after one and a half of this."""

REPORT_S = 0.5
"""How often, in seconds of audio, the server is told what the caller took."""

CANCEL_S = 5.0
"""How long `cancel` waits for a server's word that it holds nothing more."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is: http(s)://host[:port][/prefix], ws(s)://..., host:port, or unix:///path."""

    url: str
    api_key: str | None = field(default=None, repr=False)


class RemoteEngine:
    """Speaks through a server. Connects once, ahead of need, and again whenever the connection breaks.

    A turn whose connection breaks raises ConnectionFailed; the next one is spoken over a new connection. A server that
    shuts down in order lets running turns end while new ones wait for its successor.

    Args:
        url: see `Address`. None needs `locate`.
        api_key: the server's key.
        connect_timeout_s: how long `start` and a turn's first audio may wait for a connection.
        locate: asked for the address before each attempt to connect, in place of `url`; it may start a server.
    """

    def __init__(
        self,
        url: str | None,
        *,
        api_key: str | None = None,
        connect_timeout_s: float = 10.0,
        locate: Callable[[], Awaitable[Address]] | None = None,
    ) -> None:
        if url is not None:
            address = Address(url, api_key)
            websocket_url(url)  # a bad address is a mistake to hear of now
            self._locate: Callable[[], Awaitable[Address]] = _always(address)
        elif locate is not None:
            self._locate = locate
        else:
            raise ValueError("RemoteEngine needs a url, or locate")
        self._connect_timeout_s = connect_timeout_s
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        # What the server said of itself last; replaced whole, so readable from every thread.
        self._hello: wire.Message = {}
        self._health: EngineHealth = _NO_HEALTH
        # The rest belongs to the connection's loop.
        self._connection: _Connection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._waiting: dict[str, _Link] = {}
        self._changed: asyncio.Event = asyncio.Event()
        self._error: OrpheusError | None = None
        self._locating = False
        self._trying = "the speech server"  # as messages may name it

    # ---- life

    async def start(self) -> None:
        """Connect. Returns at once when connected. Raises ConnectionFailed, Unauthorized, and what `locate` raises.

        Takes at most `connect_timeout_s`, and as long as `locate` needs.
        """
        loop = self._ensure_loop()
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._first(), loop))

    def prewarm(self) -> None:
        """Begin to connect, without waiting and without errors. From any thread."""
        self._ensure_loop().call_soon_threadsafe(self._keep_connected)

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called: it cannot be used again."""
        return self._closed

    async def aclose(self) -> None:
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            self._closed = True
        if loop is None or thread is None:
            return
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._shut(), loop))
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)

    def _ensure_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise EngineDied("this engine was closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_run_loop, args=(self._loop,), name="orpheus-client", daemon=True
                )
                self._thread.start()
            return self._loop

    async def _shut(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        closed = EngineDied("this engine was closed")
        for link in list(self._waiting.values()):
            link.finish(closed)
        for task in list(self._retiring):
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)

    # ---- turns

    def open_turn(self, options: SpeechOptions | None = None) -> Turn:
        """A new turn on the calling loop. A refusal by the server (AtCapacity...) is raised where it is iterated.

        Raises UnknownVoice when the server's voices are known already, and EngineDied after `aclose`.
        """
        options = options or SpeechOptions()
        if options.voice is not None:
            options = replace(options, voice=self.check_voice(options.voice))
        loop = self._ensure_loop()
        turn_id = uuid.uuid4().hex[:12]
        link = _Link(self, loop, turn_id, options)
        turn = Turn(turn_id, link, max_chars=self._hello.get("max_text_chars", MAX_TEXT_CHARS))
        link.turn = turn
        loop.call_soon_threadsafe(self._open, link)
        return turn

    def _open(self, link: _Link) -> None:
        self._keep_connected()
        if self._connection is not None:
            self._connection.adopt(link)
        else:
            self._waiting[link.id] = link
            asyncio.get_running_loop().call_later(
                self._connect_timeout_s, self._give_up_waiting, link
            )

    def _give_up_waiting(self, link: _Link) -> None:
        if link.id in self._waiting:
            link.finish(self._error or self._silent())

    def _silent(self) -> ConnectionFailed:
        return ConnectionFailed(f"{self._trying} did not answer in time")

    # ---- facts

    @property
    def voices(self) -> tuple[str, ...]:
        """The server's voices; empty until the first connection."""
        return tuple(self._hello.get("voices", ()))

    def check_voice(self, voice: str | None) -> str | None:
        """The voice as the server spells it. Before the first connection any name passes; the server then decides."""
        voices = self.voices
        if voice is None:
            return voices[0] if voices else None
        if not voices:
            return voice
        for known in voices:
            if known.casefold() == voice.casefold():
                return known
        raise UnknownVoice(f"the server has no voice {voice!r}; its voices are {', '.join(voices)}")

    def health(self) -> EngineHealth:
        """The server's own word of at most a second ago; not ready while there is no connection."""
        if self._connection is not None:
            return self._health
        return replace(self._health, ready=False, error=str(self._error) if self._error else None)

    # ---- the connection's loop

    async def _first(self) -> None:
        self._keep_connected()
        left = self._connect_timeout_s
        while self._connection is None:
            if self._error is not None and not self._error.retryable:
                raise self._error
            if left <= 0:
                raise self._error or self._silent()
            self._changed.clear()
            counts, began = not self._locating, time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left if counts else None)
            if counts:
                left -= time.monotonic() - began

    def _keep_connected(self) -> None:
        if self._keeper is None:
            self._error = None
            self._keeper = asyncio.get_running_loop().create_task(
                self._keep(), name="orpheus-client-connection"
            )

    async def _keep(self) -> None:
        pause = 0.1
        while True:
            try:
                connection = await self._connect()
            except OrpheusError as error:
                self._refused(error)
                if not error.retryable:
                    self._keeper = None  # whoever asks next tries anew
                    return
                await asyncio.sleep(pause * random.uniform(0.7, 1.3))
                pause = min(2 * pause, 2.0)
                continue
            pause = 0.1
            self._adopt(connection)
            await connection.retired.wait()

    def _refused(self, error: OrpheusError) -> None:
        if self._error is None or str(self._error) != str(error):
            logger.warning("no connection to the speech server: %s", error)
        self._error = error
        if not error.retryable:
            for link in list(self._waiting.values()):
                link.finish(error)
        self._changed.set()

    def _adopt(self, connection: _Connection) -> None:
        self._connection, self._error = connection, None
        self._hello = connection.hello
        self.note_health(connection.hello.get("health"))
        task = asyncio.get_running_loop().create_task(connection.run(), name="orpheus-client-read")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        waiting, self._waiting = self._waiting, {}
        for link in waiting.values():
            connection.adopt(link)
        self._changed.set()

    def retire(self, connection: _Connection) -> None:
        """No new turns on this one."""
        if self._connection is connection:
            self._connection = None
        connection.retired.set()

    def forget(self, link: _Link) -> None:
        self._waiting.pop(link.id, None)

    def note_health(self, value: object) -> None:
        if isinstance(value, dict):
            known = _NO_HEALTH.__dataclass_fields__
            try:
                self._health = EngineHealth(**{k: v for k, v in value.items() if k in known})
            except TypeError:
                logger.debug("a health message without all of its fields")

    async def _connect(self) -> _Connection:
        self._locating = True
        self._changed.set()
        try:
            address = await self._locate()
        finally:
            self._locating = False
            self._changed.set()
        name = self._trying = without_login(address.url)
        session: aiohttp.ClientSession | None = None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                url, connector = websocket_url(address.url)
                session = aiohttp.ClientSession(connector=connector() if connector else None)
                ws = await session.ws_connect(
                    url,
                    headers={"Authorization": f"Bearer {address.api_key}"}
                    if address.api_key
                    else {},
                    heartbeat=HEARTBEAT_S,
                    max_msg_size=MAX_SERVER_MESSAGE,
                    compress=0,
                )
                hello = wire.unpack(await ws.receive_bytes(), max_bytes=MAX_SERVER_MESSAGE)
            if hello["type"] != "hello" or hello.get("protocol") != wire.PROTOCOL:
                raise ConnectionFailed(
                    f"{name} speaks another protocol; use the same version of orpheus_plugin on both ends"
                )
            return _Connection(self, session, ws, hello)
        except BaseException as error:
            if session is not None:
                await session.close()
            if isinstance(error, OrpheusError | asyncio.CancelledError) or not isinstance(
                error, Exception
            ):
                raise
            raise _explain(name, error) from None


class _Connection:
    """One websocket and the turns on it."""

    def __init__(
        self,
        engine: RemoteEngine,
        session: aiohttp.ClientSession,
        ws: aiohttp.ClientWebSocketResponse,
        hello: wire.Message,
    ) -> None:
        self.hello = hello
        self.retired = asyncio.Event()
        self._engine = engine
        self._session = session
        self._ws = ws
        self._links: dict[str, _Link] = {}
        self._out: asyncio.Queue[wire.Message] = asyncio.Queue()

    def adopt(self, link: _Link) -> None:
        self._links[link.id] = link
        link.attach(self)

    def send(self, message: wire.Message) -> None:
        self._out.put_nowait(message)

    def release(self, link: _Link) -> None:
        self._links.pop(link.id, None)

    async def run(self) -> None:
        """Until the connection ends; then every turn still on it fails."""
        writer = asyncio.create_task(self._write(), name="orpheus-client-write")
        end: OrpheusError = ConnectionFailed("the connection to the speech server was lost")
        try:
            async for message in self._ws:
                if message.type is aiohttp.WSMsgType.BINARY:
                    self._take(wire.unpack(message.data, max_bytes=MAX_SERVER_MESSAGE))
        except wire.BadMessage as error:
            end = ConnectionFailed(f"the speech server sent what is no message: {error}")
        except asyncio.CancelledError:
            end = EngineDied("this engine was closed")
            raise
        finally:
            writer.cancel()
            self._engine.retire(self)
            for link in list(self._links.values()):
                link.finish(end)
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1):
                    await self._ws.close()
            await self._session.close()

    async def _write(self) -> None:
        try:
            while True:
                await self._ws.send_bytes(wire.pack(await self._out.get()))
        except ConnectionError:
            pass  # the reader sees the end, too

    def _take(self, message: wire.Message) -> None:
        kind = message["type"]
        if kind == "health":
            self._engine.note_health(message)
        elif kind == "goodbye":
            self._engine.retire(self)
        elif kind == "error" and message.get("id") is None:
            logger.warning("the speech server ends the connection: %s", message.get("message"))
        else:
            link = self._links.get(str(message.get("id")))
            if link is not None:
                link.take(message)


class _Link:
    """A turn's way to the server. The TurnLink methods run on the caller's loop, the others on the connection's."""

    turn: Turn

    def __init__(
        self,
        engine: RemoteEngine,
        loop: asyncio.AbstractEventLoop,
        turn_id: str,
        options: SpeechOptions,
    ) -> None:
        self.id = turn_id
        self._engine = engine
        self._loop = loop
        self._options = options
        self._connection: _Connection | None = None
        self._unsent: list[wire.Message] = []
        self._unreported = 0
        self._over = False
        self._cancelled: list[Future[None]] = []

    # ---- TurnLink

    def send_text(self, text: str) -> None:
        self._post({"type": "text", "id": self.id, "text": text})

    def send_flush(self) -> None:
        self._post({"type": "flush", "id": self.id})

    def send_end(self) -> None:
        self._post({"type": "end", "id": self.id})

    def consumed(self, samples: int) -> None:
        self._unreported += samples
        if self._unreported >= REPORT_S * SAMPLE_RATE:
            samples, self._unreported = self._unreported, 0
            with contextlib.suppress(EngineDied):
                self._post({"type": "consumed", "id": self.id, "samples": samples})

    def send_cancel(self) -> Future[None]:
        done: Future[None] = Future()
        try:
            self._loop.call_soon_threadsafe(self._cancel, done)
        except RuntimeError:  # the engine was closed meanwhile: nothing is held
            done.set_result(None)
        return done

    def _post(self, message: wire.Message) -> None:
        try:
            self._loop.call_soon_threadsafe(self._send, message)
        except RuntimeError:
            raise EngineDied("this engine was closed") from None

    # ---- on the connection's loop

    def attach(self, connection: _Connection) -> None:
        self._connection = connection
        connection.send(
            {"type": "open", "id": self.id, "options": wire.options_to_map(self._options)}
        )
        for message in self._unsent:
            connection.send(message)
        self._unsent.clear()

    def take(self, message: wire.Message) -> None:
        try:
            event = wire.event_from_message(message)
        except wire.BadMessage as error:
            event = ConnectionFailed(str(error))
        if event is None:
            return
        if isinstance(event, TurnEnd | OrpheusError):
            self.finish(event)
        elif not self.turn.deliver(event) and not self._cancelled:
            self._cancel(Future())  # the caller's loop is gone

    def finish(self, event: TurnEnd | OrpheusError) -> None:
        """The turn is over; whoever waits for it hears how."""
        if self._over:
            return
        self._over = True
        self._engine.forget(self)
        if self._connection is not None:
            self._connection.release(self)
        self.turn.deliver(event)
        for done in self._cancelled:
            if not done.done():
                done.set_result(None)

    def _send(self, message: wire.Message) -> None:
        if self._over:
            return
        if self._connection is not None:
            self._connection.send(message)
        else:
            self._unsent.append(message)

    def _cancel(self, done: Future[None]) -> None:
        if self._over:
            done.set_result(None)
            return
        self._cancelled.append(done)
        if self._connection is None:
            self.finish(TurnEnd("cancelled"))
            return
        self._connection.send({"type": "cancel", "id": self.id})
        asyncio.get_running_loop().call_later(CANCEL_S, self.finish, TurnEnd("cancelled"))


# ---- addresses


def websocket_url(url: str) -> tuple[str, Callable[[], aiohttp.BaseConnector] | None]:
    """Where to open the websocket, and through which connector. Raises ValueError for what is no address."""
    if "://" not in url:
        url = f"http://{url}"
    schemes = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}
    try:
        parts = urlsplit(url)
        known = parts.path if parts.scheme == "unix" else parts.scheme in schemes and parts.hostname
        _ = parts.port
    except ValueError:  # its text would quote what may be a password
        known = None
    if not known:
        raise ValueError(f"not the address of a speech server: {without_login(url)!r}")
    if parts.scheme == "unix":
        return f"ws://localhost{wire.PATH}", lambda: aiohttp.UnixConnector(parts.path)
    path = parts.path.rstrip("/").removesuffix(wire.PATH)
    return f"{schemes[parts.scheme]}://{parts.netloc}{path}{wire.PATH}", None


def _explain(url: str, error: Exception) -> OrpheusError:
    """What went wrong at `url`, which holds no login."""
    if isinstance(error, aiohttp.WSServerHandshakeError):
        if error.status in (401, 403):
            return wire.Unauthorized(
                f"{url} refused the connection: give it the api_key it was started with"
                if error.status == 401
                else f"{url} refused the connection (403): it answers to other host names only"
            )
        if error.status in (429, 503):
            return ConnectionFailed(f"{url} takes no connections at the moment ({error.status})")
        return ConnectionFailed(
            f"{url} is no Orpheus server of this version (status {error.status})"
        )
    if isinstance(error, TimeoutError):
        return ConnectionFailed(f"{url} did not answer in time")
    reason = without_login(str(error)) or type(error).__name__
    return ConnectionFailed(f"cannot reach {url}: {reason}")


def _always(address: Address) -> Callable[[], Awaitable[Address]]:
    async def locate() -> Address:
        return address

    return locate


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


_NO_HEALTH: Any = EngineHealth(
    ready=False, model="", generator="none", active_turns=0, max_turns=0, restarts=0
)
