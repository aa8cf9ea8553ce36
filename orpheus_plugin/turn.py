"""The Turn: text deltas in, ordered events of speech out. Every adapter and protocol
uses it.

A Pipecat audio context, a LiveKit segment, a websocket context, an HTTP request and
`orpheus-tts say` are each one Turn. The Turn is only the caller's end. The engine's end, in this
process or in a server, is reached through its `TurnLink`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Protocol, Self

from orpheus_plugin.errors import OrpheusError, TextTooLong, TurnClosed
from orpheus_plugin.events import AudioChunk, TurnEnd, TurnEvent, TurnStats
from orpheus_plugin.options import MAX_TEXT_CHARS
from orpheus_plugin.text.think import Reading, without_thoughts

_BURST = 8
"""Events read without letting the caller's loop run: two thousand words that are ready at once must
not hold it for as long as it takes to send them all."""


class TurnLink(Protocol):
    """The engine's end of a turn. Its methods are called on the caller's loop and never block
    it."""

    def send_text(self, text: str) -> None: ...
    def send_flush(self) -> None: ...
    def send_end(self) -> None: ...

    def send_cancel(self) -> Future[None]:
        """Drop everything of this turn. The future is done when the engine has released it (a step
        in flight may still run)."""
        ...

    def consumed(self, samples: int) -> None:
        """The caller took this many samples out of the turn: back-pressure for the engine."""
        ...


class Turn:
    """One turn of speech.

        turn = engine.open_turn(SpeechOptions(voice="tara"))
        turn.push_text("Hello "); turn.push_text("there."); turn.end()
        async for event in turn: ...     # AudioChunk | Word | TurnEnd, in order

    Used on the event loop that opened it. Leaving the iterator early, `cancel`, or leaving
    `async with turn` frees the engine at once. Iterating raises the OrpheusError that ended the
    turn, if one did. A turn is iterated once.
    """

    def __init__(self, turn_id: str, link: TurnLink, *, max_chars: int = MAX_TEXT_CHARS) -> None:
        self.id = turn_id
        self.stats = TurnStats()
        self._link = link
        self._max_chars = max_chars
        self._chars = 0
        self._reading = Reading()
        self._closed_for_text = False
        self._finished = False
        self._let_go: Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[TurnEvent | OrpheusError] = asyncio.Queue()
        self._place = asyncio.Event()
        self._error: OrpheusError | None = None

    # ---- text in

    @property
    def max_chars(self) -> int:
        """Characters of text the turn takes."""
        return self._max_chars

    def push_text(self, text: str) -> None:
        """Add a piece of text; pieces are joined as they come, so spaces between words must be in
        them.

        Text between `<think>` and `</think>` is left out and does not count.

        Raises:
            TextTooLong: the turn's text would exceed the limit; nothing of this piece is taken.
            TurnClosed: after `end` or `cancel`.
        """
        if self._closed_for_text:
            raise TurnClosed("this turn has been ended; open another one for more text")
        spoken, reading = without_thoughts(text, self._reading)
        chars = self._chars + len(spoken) + len(reading.pending)
        if chars > self._max_chars:
            raise TextTooLong(
                f"a turn takes at most {self._max_chars} characters, and this text would make"
                f" {chars}; split it over several turns"
            )
        self._reading = reading
        self._send(spoken)

    def flush(self) -> None:
        """Speak all text pushed so far without waiting for the end of its sentence."""
        if not self._closed_for_text:
            self._send_pending()
            self._link.send_flush()

    def end(self) -> None:
        """No more text will come. Idempotent."""
        if not self._closed_for_text:
            self._send_pending()
            self._closed_for_text = True
            self._link.send_end()

    def _send(self, text: str) -> None:
        if text:
            self._chars += len(text)
            self._link.send_text(text)

    def _send_pending(self) -> None:
        if pending := self._reading.pending:
            self._reading = Reading()
            self._send(pending)

    # ---- events out

    async def admitted(self) -> None:
        """Returns when the turn has its place, or was cancelled. Raises the OrpheusError that ended
        it before that.

        Needed only to report it to a client: text may be pushed and events read before.
        """
        await self._place.wait()
        if self._error is not None:
            raise self._error

    async def __aiter__(self) -> AsyncGenerator[TurnEvent, None]:
        read = 0
        try:
            while not self._finished:
                read += 1
                if not read % _BURST:
                    await asyncio.sleep(0)
                event = await self._events.get()
                if isinstance(event, OrpheusError):
                    self._finished = True
                    raise event
                if isinstance(event, AudioChunk):
                    self._link.consumed(event.samples)
                elif isinstance(event, TurnEnd):
                    self._finished = True
                yield event
        finally:
            if not self._finished:
                self.abandon()

    async def cancel(self) -> None:
        """Stop speaking; returns when the engine has released this turn (a step in flight may still
        run). Idempotent."""
        self.abandon()
        if self._let_go is not None:
            await asyncio.shield(asyncio.wrap_future(self._let_go))

    def abandon(self) -> Future[None] | None:
        """As `cancel`, without waiting: for cleanup that must not be interrupted. Idempotent.

        Returns a future that is done when the engine has released this turn; None for a turn that
        has ended.
        """
        self._closed_for_text = True
        self._place.set()
        if self._finished:
            return self._let_go
        self._finished = True
        # Wake an iterator that waits in another task.
        self._events.put_nowait(TurnEnd("cancelled", self.stats))
        self._let_go = self._link.send_cancel()
        return self._let_go

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.cancel()

    @property
    def ended(self) -> bool:
        """Whether its last event was read, or it was cancelled."""
        return self._finished

    # ---- called by the link

    @property
    def orphaned(self) -> bool:
        """Whether its loop is closed, so that it cannot be read any more."""
        return self._loop.is_closed()

    def admit(self) -> None:
        """The turn has a place. From any thread."""
        with contextlib.suppress(RuntimeError):  # the caller's loop is gone
            self._loop.call_soon_threadsafe(self._place.set)

    def deliver(self, *events: TurnEvent | OrpheusError) -> bool:
        """Hand events to the caller, from any thread. False if the caller's loop is closed: the
        turn should be dropped.

        Each call wakes the caller's loop, so events that are ready together should come in one
        call.
        """
        try:
            self._loop.call_soon_threadsafe(self._take, events)
        except RuntimeError:
            return False
        return True

    def _take(self, events: Sequence[TurnEvent | OrpheusError]) -> None:
        for event in events:
            if isinstance(event, TurnEnd):
                self.stats = event.stats
            if isinstance(event, OrpheusError):
                self._error = event
            if isinstance(event, TurnEnd | OrpheusError):
                self._closed_for_text = True
                self._place.set()
            if not self._finished:
                self._events.put_nowait(event)
