"""`RemoteEngine`: the interface of LocalEngine, for a server (`orpheus-tts serve`) or several.

One websocket to each server carries all turns of a process. They have a thread and a loop of their
own, so that turns may be opened from any number of event loops, a busy agent loop does not delay
the audio of others, and a connection stays when the loop that first used it ends. `connection.py`
has what goes over it, `keeper.py` what keeps it open, `loop.py` the thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace

from orpheus_plugin.errors import (
    AtCapacity,
    ConnectionFailed,
    EngineDied,
    OrpheusError,
    ShuttingDown,
)
from orpheus_plugin.models.voices import pick_voice
from orpheus_plugin.options import MAX_TEXT_CHARS, MAX_WAIT_S, SpeechOptions, check_number
from orpheus_plugin.protocol import Hello
from orpheus_plugin.remote.connection import NO_HEALTH, Address, Connection, websocket_url
from orpheus_plugin.remote.keeper import Keeper, always
from orpheus_plugin.remote.link import Link
from orpheus_plugin.remote.loop import LoopThread
from orpheus_plugin.remote.several import added_health, addresses, one_error, room
from orpheus_plugin.speech_engine import EngineHealth, EngineLoad
from orpheus_plugin.turn import Turn

logger = logging.getLogger(__name__)

RESUME_WITHIN_S = 5.0
"""The longest pause within a sentence that still sounds like hesitation."""

RESUME_WITH_ANOTHER_S = 20.0
"""The same if the client starts a new server. The bundled voice is ready after 7 s on two idle
cores."""


class RemoteEngine:
    """Speaks through a server. Connects once, ahead of need, and again whenever the connection
    breaks.

    A turn whose connection breaks continues on the next one, or raises ConnectionFailed. A server
    that shuts down in order lets running turns end while new ones wait for its successor. If there
    is no answer at the address, `start` and turns wait only for a server that answered less than
    `connect_timeout_s` ago.

    With several addresses, all with the same model and key, a turn goes to the server with the most
    free places. If that one is full, the next is tried; if all are full, the turn waits in the
    shortest line. If its server is lost or its engine fails, the turn continues on another one.

    Args:
        url: see `Address`; several are separated by commas or spaces. None needs `locate`.
        api_key: the server's key.
        connect_timeout_s: how long `start` and a turn's first audio may wait for a server that is
            loading or full, or that answered a moment ago.
        resume_within_s: a turn that loses its server while it speaks continues on the server that
            is reached within so many seconds, with the first word that was not handed over. With 0
            it fails at once, unless nothing was handed over. By default 5, and 20 with `locate`,
            which may have to start a server.
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
        if url is not None:
            for address in addresses(url):
                websocket_url(address)  # raises for a bad address
            locators = [always(Address(address, api_key)) for address in addresses(url)]
        elif locate is not None:
            locators = [locate]
        else:
            raise ValueError("RemoteEngine needs a url, or locate")
        self._connect_timeout_s = connect_timeout_s
        if resume_within_s is None:
            resume_within_s = RESUME_WITHIN_S if url is not None else RESUME_WITH_ANOTHER_S
        self._resume_within_s = resume_within_s
        self._loop = LoopThread()
        # The rest belongs to that loop.
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: set[Link] = set()
        self._resuming: set[Link] = set()
        self._changed = asyncio.Event()
        self._keepers = [
            Keeper(
                find,
                may_start_one=url is None,
                timeout_s=connect_timeout_s,
                changed=self._changed,
                connected=self._adopt,
                failed=self._give_up_all,
            )
            for find in locators
        ]

    # ---- life

    async def start(self) -> None:
        """Connect. Returns at once when connected. Raises ConnectionFailed, Unauthorized, and what
        `locate` raises.

        Takes at most `connect_timeout_s`, and as long as `locate` needs.
        """
        await self._loop.run(self._first())

    def prewarm(self) -> None:
        """Begin to connect, without waiting and without errors. From any thread."""
        self._loop.post(self._keep_connected)

    @property
    def closed(self) -> bool:
        """Whether it was closed. A closed engine cannot be started again."""
        return self._loop.closed

    async def aclose(self) -> None:
        await self._loop.aclose(self._shut)

    async def _shut(self) -> None:
        await asyncio.gather(*(keeper.aclose() for keeper in self._keepers))
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
        limit = min((hello.max_text_chars for hello in self._hellos()), default=MAX_TEXT_CHARS)
        link = Link(
            uuid.uuid4().hex[:12], options, self._loop.post, max_wait_s=max_wait_s, lost=self._go_on
        )
        turn = link.make_turn(max_chars=limit)
        self._loop.post(self._open, link)
        return turn

    def _open(self, link: Link) -> None:
        self._keep_connected()
        if self._live():
            self._place(link)
        else:
            self._waiting.add(link)
            asyncio.get_running_loop().call_later(
                self._connect_timeout_s, self._give_up_waiting, link
            )

    def _place(self, link: Link) -> None:
        """Send it to the server with the most room that has not refused it; it may wait in line
        at the last one only."""
        live = self._live()
        fresh = [connection for connection in live if connection not in link.refused_by]
        last_one = len(live) == 1 or not fresh
        max(fresh or live, key=room).open_turn(link, may_wait=last_one)

    def _go_on(self, link: Link, error: OrpheusError) -> None:
        """Place a turn again that its server refused, that failed there, or that lost its
        connection."""
        live = self._live()
        untried = any(connection not in link.refused_by for connection in live)
        gone = isinstance(error, ConnectionFailed | ShuttingDown)
        if self._loop.closed or not (untried or gone or isinstance(error, AtCapacity)):
            link.finish(error)
        elif isinstance(error, AtCapacity):
            if live and (untried or (link.max_wait_s and not link.has_waited)):
                self._place(link)
            else:
                link.finish(error)
        elif live and (self._resume_within_s > 0 or not link.heard):
            link.max_wait_s = max(link.max_wait_s, self._resume_within_s)
            self._place(link)
        elif self._resume_within_s > 0 or not link.heard:  # the keepers connect again
            self._resuming.add(link)
            within_s = self._resume_within_s
            if not link.heard:  # nobody has heard the pause
                within_s = max(within_s, self._connect_timeout_s)
            asyncio.get_running_loop().call_later(within_s, self._give_up, link, error)
        else:
            link.finish(error)

    def _give_up(self, link: Link, error: OrpheusError) -> None:
        if link in self._resuming:
            self._resuming.discard(link)
            link.finish(error)

    def _give_up_waiting(self, link: Link) -> None:
        if link in self._waiting:
            self._waiting.discard(link)
            link.finish(self._why_not())

    # ---- facts

    @property
    def voices(self) -> tuple[str, ...]:
        """The server's voices; empty until the first connection."""
        return next((hello.voices for hello in self._hellos()), ())

    @property
    def adapters(self) -> tuple[str, ...]:
        """The server's voices that are adapters; empty until the first connection."""
        return next((hello.adapters for hello in self._hellos()), ())

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of the server's model; empty until the first connection."""
        return next((hello.languages for hello in self._hellos()), ())

    @property
    def tags(self) -> tuple[str, ...]:
        """The emotion tags of the server's model; empty until the first connection."""
        return next((hello.tags for hello in self._hellos()), ())

    def check_voice(self, voice: str | None) -> str | None:
        """The voice that will speak. Before the first connection any name passes; the server then
        decides."""
        strict = any(hello.strict_voices for hello in self._hellos())
        return pick_voice(self.voices, voice, model="the server's model", strict=strict)

    def health(self) -> EngineHealth:
        """Sum of what the servers reported at most a second ago; not ready without a connection."""
        if live := self._live():
            return added_health([connection.health for connection in live])
        last = [keeper.connection.health for keeper in self._keepers if keeper.connection]
        errors = self._errors()
        return replace(
            last[0] if last else NO_HEALTH,
            ready=False,
            error=str(one_error(errors)) if errors else None,
        )

    def load(self) -> EngineLoad:
        """Sum of what the servers reported at most a second ago; all zero without a connection."""
        return EngineLoad.of_all([connection.load for connection in self._live()])

    def _live(self) -> list[Connection]:
        """The connections that new turns go to, in the order of the addresses."""
        return [live for keeper in self._keepers if (live := keeper.live) is not None]

    def _hellos(self) -> list[Hello]:
        """The `hello` of each server, connected ones first."""
        last = [keeper.connection for keeper in self._keepers if keeper.connection is not None]
        return [c.hello for c in sorted(last, key=lambda connection: connection.retired.is_set())]

    def _errors(self) -> list[OrpheusError]:
        return [keeper.error for keeper in self._keepers if keeper.error is not None]

    def _why_not(self) -> OrpheusError:
        """Why there is no connection."""
        if errors := self._errors():
            return one_error(errors)
        return ConnectionFailed(f"{self._keepers[0].name} did not answer in time")

    # ---- the connection's loop

    async def _first(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._hold(task)
        try:
            await self._until_connected()
        except asyncio.CancelledError:
            if self._loop.closed:
                task.add_done_callback(asyncio.Task.exception)  # perhaps nobody waits for it
                raise EngineDied("this engine was closed") from None
            raise

    async def _until_connected(self) -> None:
        self._keep_connected()
        left, before = self._connect_timeout_s, [keeper.attempts for keeper in self._keepers]
        while not self._live():
            in_vain = [
                keeper.error is not None
                and (not keeper.error.retryable or (keeper.attempts > tried and keeper.unreachable))
                for keeper, tried in zip(self._keepers, before, strict=True)
            ]
            if all(in_vain) or left <= 0:
                raise self._why_not()
            self._changed.clear()
            counts, began = not any(keeper.locating for keeper in self._keepers), time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left if counts else None)
            if counts:
                left -= time.monotonic() - began

    def _hold(self, task: asyncio.Task[None]) -> None:
        """Keep the task; `aclose` cancels it."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _keep_connected(self) -> None:
        for keeper in self._keepers:
            keeper.keep()

    def _adopt(self, connection: Connection) -> None:
        self._hold(asyncio.get_running_loop().create_task(connection.run(), name="orpheus-client"))
        waiting, self._waiting = self._waiting | self._resuming, set()
        self._resuming = set()
        for link in waiting:
            if not link.over:
                self._place(link)

    def _give_up_all(self) -> None:
        """After a failed attempt: if no server is worth waiting for, waiting turns fail."""
        if not all(keeper.unreachable for keeper in self._keepers):
            return
        waiting, self._waiting = self._waiting, set()
        if not any(error.retryable for error in self._errors()):
            waiting, self._resuming = waiting | self._resuming, set()
        for link in waiting:
            link.finish(self._why_not())
