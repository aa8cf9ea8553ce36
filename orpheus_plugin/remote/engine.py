"""`RemoteEngine`: the interface of LocalEngine, for a server (`orpheus-tts serve`).

One websocket carries all turns of a process. It has a thread and a loop of its own, so that turns
may be opened from any number of event loops, a busy agent loop does not delay the audio of others,
and the connection stays when the loop that first used it ends. `connection.py` has what goes over
it.
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
from dataclasses import replace

from orpheus_plugin.errors import (
    ConnectionFailed,
    EngineDied,
    OrpheusError,
    without_login,
)
from orpheus_plugin.models.voices import pick_voice
from orpheus_plugin.remote.connection import (
    NO_HEALTH,
    Address,
    Connection,
    NotYet,
    open_connection,
    websocket_url,
)
from orpheus_plugin.remote.link import Link
from orpheus_plugin.turn import (
    MAX_TEXT_CHARS,
    MAX_WAIT_S,
    EngineHealth,
    EngineLoad,
    SpeechOptions,
    Turn,
    check_number,
)

logger = logging.getLogger(__name__)

RESUME_WITHIN_S = 5.0
"""The longest pause in mid-sentence that sounds like thinking."""

RESUME_WITH_ANOTHER_S = 20.0
"""The same if the client starts a new server. The bundled voice is ready after 7 s on two idle
cores."""


class RemoteEngine:
    """Speaks through a server. Connects once, ahead of need, and again whenever the connection
    breaks.

    A turn whose connection breaks goes on over the next one, or raises ConnectionFailed. A server
    that shuts down in order lets running turns end while new ones wait for its successor. If there
    is no answer at the address, `start` and turns wait only for a server that answered less than
    `connect_timeout_s` ago.

    Args:
        url: see `Address`. None needs `locate`.
        api_key: the server's key.
        connect_timeout_s: how long `start` and a turn's first audio may wait for a server that is
            loading or full, or that answered a moment ago.
        resume_within_s: a turn that loses its server in mid-speech goes on at the server that is
            reached within so many seconds, with the first word that was not handed over. With 0 it
            fails at once. By default 5, and 20 with `locate`, which may have to start a server.
        locate: gives the address before each attempt to connect, in place of `url`. It may start a
            server, so a failed attempt is always followed by another.
    """

    def __init__(
        self,
        url: str | None,
        *,
        api_key: str | None = None,
        connect_timeout_s: float = 10.0,
        resume_within_s: float | None = None,
        locate: Callable[[], Awaitable[Address]] | None = None,
    ) -> None:
        self._may_start_one = url is None
        if url is not None:
            address = Address(url, api_key)
            websocket_url(url)  # raises for a bad address
            self._locate: Callable[[], Awaitable[Address]] = _always(address)
        elif locate is not None:
            self._locate = locate
        else:
            raise ValueError("RemoteEngine needs a url, or locate")
        self._connect_timeout_s = connect_timeout_s
        if resume_within_s is None:
            resume_within_s = RESUME_WITHIN_S if url is not None else RESUME_WITH_ANOTHER_S
        self._resume_within_s = resume_within_s
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        # The last connection. Replaced as a whole, so that every thread can read what the server
        # reported.
        self._connection: Connection | None = None
        # The rest belongs to the connection's loop.
        self._keeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: set[Link] = set()
        self._resuming: set[Link] = set()
        self._changed: asyncio.Event = asyncio.Event()
        # A caller waits: no more pause between attempts.
        self._asked: asyncio.Event = asyncio.Event()
        self._attempts = 0
        # time.monotonic() when the last connection was known to work.
        self._there_at: float | None = None
        self._error: OrpheusError | None = None
        self._locating = False
        self._trying = "the speech server"  # its name in messages

    # ---- life

    async def start(self) -> None:
        """Connect. Returns at once when connected. Raises ConnectionFailed, Unauthorized, and what
        `locate` raises.

        Takes at most `connect_timeout_s`, and as long as `locate` needs.
        """
        with self._lock:
            started = asyncio.run_coroutine_threadsafe(self._first(), self._running_loop())
        await asyncio.wrap_future(started)

    def prewarm(self) -> None:
        """Begin to connect, without waiting and without errors. From any thread."""
        self._post(self._keep_connected)

    @property
    def closed(self) -> bool:
        """Whether it was closed. A closed engine cannot be started again."""
        return self._closed

    async def aclose(self) -> None:
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            self._closed = True
            if loop is None or thread is None:
                return
            # Under the lock: it runs after everything that was posted, and nothing is posted after
            # it.
            shut: Future[None] = asyncio.run_coroutine_threadsafe(self._shut(), loop)
        await asyncio.wrap_future(shut)
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """Under the lock."""
        if self._closed:
            raise EngineDied("this engine was closed")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_run_loop, args=(self._loop,), name="orpheus-client", daemon=True
            )
            self._thread.start()
        return self._loop

    def _post(self, callback: Callable[..., object], *args: object) -> None:
        with self._lock:
            self._running_loop().call_soon_threadsafe(callback, *args)

    async def _shut(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        closed = EngineDied("this engine was closed")
        for link in self._waiting | self._resuming:
            link.finish(closed)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- turns

    def open_turn(self, options: SpeechOptions | None = None, *, max_wait_s: float = 0.0) -> Turn:
        """A new turn on the calling loop. A refusal by the server (AtCapacity...) is raised where
        it is iterated.

        Raises UnknownVoice when the server's voices are known already, and EngineDied after
        `aclose`.
        """
        options = options or SpeechOptions()
        check_number("max_wait_s", max_wait_s, 0.0, MAX_WAIT_S)
        if options.voice is not None:
            options = replace(options, voice=self.check_voice(options.voice))
        last = self._connection
        limit = MAX_TEXT_CHARS if last is None else last.hello.max_text_chars
        link = Link(
            uuid.uuid4().hex[:12],
            options,
            self._post,
            max_wait_s=max_wait_s,
            lost=self._resume if self._resume_within_s > 0 else None,
        )
        turn = link.make_turn(max_chars=limit)
        self._post(self._open, link)
        return turn

    def _open(self, link: Link) -> None:
        self._keep_connected()
        if (connection := self._connected()) is not None:
            connection.adopt(link)
        else:
            self._waiting.add(link)
            asyncio.get_running_loop().call_later(
                self._connect_timeout_s, self._give_up_waiting, link
            )

    def _resume(self, link: Link, error: OrpheusError) -> None:
        """The turn waits for the next connection, which the keeper makes."""
        if self._closed:
            link.finish(error)
            return
        self._resuming.add(link)
        asyncio.get_running_loop().call_later(self._resume_within_s, self._give_up, link, error)

    def _give_up(self, link: Link, error: OrpheusError) -> None:
        if link in self._resuming:
            self._resuming.discard(link)
            link.finish(error)

    def _give_up_waiting(self, link: Link) -> None:
        if link in self._waiting:
            self._waiting.discard(link)
            link.finish(self._error or self._silent())

    def _silent(self) -> ConnectionFailed:
        return ConnectionFailed(f"{self._trying} did not answer in time")

    # ---- facts

    @property
    def voices(self) -> tuple[str, ...]:
        """The server's voices; empty until the first connection."""
        return () if self._connection is None else self._connection.hello.voices

    @property
    def adapters(self) -> tuple[str, ...]:
        """The server's voices that are adapters; empty until the first connection."""
        return () if self._connection is None else self._connection.hello.adapters

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of the server's model; empty until the first connection."""
        return () if self._connection is None else self._connection.hello.languages

    @property
    def tags(self) -> tuple[str, ...]:
        """The emotion tags of the server's model; empty until the first connection."""
        return () if self._connection is None else self._connection.hello.tags

    def check_voice(self, voice: str | None) -> str | None:
        """The voice that will speak. Before the first connection any name passes; the server then
        decides."""
        last = self._connection
        strict = last is not None and last.hello.strict_voices
        return pick_voice(self.voices, voice, model="the server's model", strict=strict)

    def health(self) -> EngineHealth:
        """As the server reported it, at most a second ago; not ready while there is no
        connection."""
        if (connection := self._connected()) is not None:
            return connection.health
        last = self._connection
        return replace(
            NO_HEALTH if last is None else last.health,
            ready=False,
            error=str(self._error) if self._error else None,
        )

    def load(self) -> EngineLoad:
        """As the server reported it, at most a second ago; empty while there is no connection."""
        connection = self._connected()
        return EngineLoad() if connection is None else connection.load

    def _connected(self) -> Connection | None:
        """The connection for new turns."""
        last = self._connection
        return None if last is None or last.retired.is_set() else last

    # ---- the connection's loop

    async def _first(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._hold(task)
        try:
            await self._until_connected()
        except asyncio.CancelledError:
            if self._closed:
                raise EngineDied("this engine was closed") from None
            raise

    async def _until_connected(self) -> None:
        self._keep_connected()
        left, attempts = self._connect_timeout_s, self._attempts
        while self._connected() is None:
            if self._error is not None:
                tried = self._attempts > attempts
                if not self._error.retryable or (tried and not self._may_come_back(self._error)):
                    raise self._error
            if left <= 0:
                raise self._error or self._silent()
            self._changed.clear()
            counts, began = not self._locating, time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left if counts else None)
            if counts:
                left -= time.monotonic() - began

    def _may_come_back(self, error: OrpheusError) -> bool:
        """Whether it is worth waiting for the server after this failure."""
        if self._may_start_one or isinstance(error, NotYet):
            return True
        if self._there_at is None:
            return False
        return time.monotonic() - self._there_at < self._connect_timeout_s

    def _hold(self, task: asyncio.Task[None]) -> None:
        """Keep the task; `aclose` cancels it."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _keep_connected(self) -> None:
        self._asked.set()
        if self._keeper is None:
            self._error = None
            self._keeper = asyncio.get_running_loop().create_task(
                self._keep(), name="orpheus-client-connection"
            )

    async def _keep(self) -> None:
        pause = 0.1
        while True:
            self._asked.clear()
            try:
                connection = await self._connect()
            except OrpheusError as error:
                self._refused(error)
                if not error.retryable:
                    self._keeper = None  # the next caller tries again
                    return
                await self._pause(pause * random.uniform(0.7, 1.3))
                pause = min(2 * pause, 2.0)
                continue
            pause = 0.1
            self._adopt(connection)
            await connection.retired.wait()
            self._there_at = time.monotonic()

    async def _pause(self, seconds: float) -> None:
        """The pause before the next attempt: `seconds`, or a tenth of a second if a caller waits
        for it."""
        await asyncio.sleep(0.1)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._asked.wait(), max(0.0, seconds - 0.1))

    async def _connect(self) -> Connection:
        self._locating = True
        self._changed.set()
        try:
            address = await self._locate()
        except OrpheusError:
            raise
        except Exception as error:
            raise ConnectionFailed(f"no speech server was found: {error!r}") from error
        finally:
            self._locating = False
            self._changed.set()
        self._trying = without_login(address.url)
        return await open_connection(address, timeout_s=self._connect_timeout_s)

    def _refused(self, error: OrpheusError) -> None:
        if self._error is None or str(self._error) != str(error):
            logger.warning("no connection to the speech server: %s", error)
        if isinstance(error, ConnectionFailed) and not isinstance(error, NotYet):
            error.never_reached = self._there_at is None and not self._may_start_one
        self._error = error
        self._attempts += 1
        if not error.retryable or not self._may_come_back(error):
            waiting, self._waiting = self._waiting, set()
            if not error.retryable:
                waiting, self._resuming = waiting | self._resuming, set()
            for link in waiting:
                link.finish(error)
        self._changed.set()

    def _adopt(self, connection: Connection) -> None:
        self._connection, self._error = connection, None
        self._hold(asyncio.get_running_loop().create_task(connection.run(), name="orpheus-client"))
        waiting, self._waiting = self._waiting | self._resuming, set()
        self._resuming = set()
        for link in waiting:
            if not link.over:
                connection.adopt(link)
        self._changed.set()


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
