"""A turn on the server: its limits, its figures, and its end.

A task that serves a turn may be cancelled at any await, also in its cleanup. So freeing a turn
never awaits, and a turn belongs to the task that opened it: a turn that is open when that task ends
is freed, counted and logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol, Self

from orpheus_plugin.errors import OrpheusError, TurnTimedOut
from orpheus_plugin.events import SAMPLE_RATE, AudioChunk, TurnEnd, TurnEvent, TurnStats
from orpheus_plugin.server.config import Limits
from orpheus_plugin.turn import Turn

SILENCE = bytes(2 * SAMPLE_RATE // 10)
"""0.1 s."""


class Service(Protocol):
    """What a turn needs of its service."""

    limits: Limits

    @property
    def log_text(self) -> bool: ...

    def closed(self, served: ServedTurn, outcome: str) -> None: ...

    def left(self, served: ServedTurn) -> None: ...


class ServedTurn:
    """A turn on the server. One task uses it inside `async with`, where it reads its events and
    sends them.

    If there is no text in or audio out for too long, that task is interrupted, and `async with`
    raises TurnTimedOut. Leaving the block frees the engine.
    """

    def __init__(self, service: Service, turn: Turn, protocol: str) -> None:
        self.id = turn.id
        self.protocol = protocol
        self.stats = TurnStats()
        self.ttfa_s: float | None = None
        self.chars = 0
        self._pieces: list[str] | None = [] if service.log_text else None
        self._service = service
        self._turn = turn
        self._first_text_at: float | None = None
        self._ends_at = asyncio.get_running_loop().time() + service.limits.turn_total_s
        self._scope: asyncio.Timeout | None = None
        self._outcome = "cancelled"
        self._samples = 0
        self._open = True
        self._freed: Future[None] | None = None
        self._cut_off: OrpheusError | None = None

    @property
    def text(self) -> str:
        return "".join(self._pieces or ())

    # ---- in

    def push_text(self, text: str) -> None:
        self._turn.push_text(text)
        if self._first_text_at is None and text:
            self._first_text_at = time.monotonic()
        self.chars += len(text)
        if self._pieces is not None:
            self._pieces.append(text)
        self.touch()

    def flush(self) -> None:
        self._turn.flush()
        self.touch()

    def end(self) -> None:
        self._turn.end()
        self.touch()

    def cut_off(self, reason: OrpheusError) -> None:
        """Interrupt the task that uses the turn; its `async with` raises the reason."""
        self._cut_off = reason
        if self._scope is None:
            self.release()
        elif not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    def touch(self) -> None:
        """There was text in or audio out: restart the idle time."""
        if self._scope is not None and self._cut_off is None and not self._scope.expired():
            idle = asyncio.get_running_loop().time() + self._service.limits.turn_idle_s
            self._scope.reschedule(min(idle, self._ends_at))

    # ---- out

    async def admitted(self) -> None:
        """Returns when the turn has a place. Raises the error that ended it before that."""
        await self._turn.admitted()

    async def pcm(self) -> AsyncIterator[bytes]:
        """The turn's audio. For a text without anything to speak, such as "...", it is 0.1 s of
        silence: many clients take an answer without audio for a failure."""
        async for event in self:
            if isinstance(event, AudioChunk):
                yield event.pcm
        if self.chars and not self._samples:
            yield SILENCE

    async def __aiter__(self) -> AsyncIterator[TurnEvent]:
        async with contextlib.aclosing(aiter(self._turn)) as events:
            async for event in events:
                self.touch()
                if isinstance(event, AudioChunk):
                    self._note_audio(event)
                elif isinstance(event, TurnEnd):
                    self.stats = event.stats
                    self._outcome = event.reason
                yield event

    def _note_audio(self, chunk: AudioChunk) -> None:
        if self.ttfa_s is None and self._first_text_at is not None:
            self.ttfa_s = time.monotonic() - self._first_text_at
        self._samples += chunk.samples
        self.stats.audio_s = self._samples / SAMPLE_RATE

    # ---- life

    async def __aenter__(self) -> Self:
        self._scope = asyncio.timeout(self._service.limits.turn_idle_s)
        await self._scope.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._scope is not None
        try:
            await self._scope.__aexit__(kind, error, trace)
        except TimeoutError:
            limits = self._service.limits
            reason = self._cut_off or TurnTimedOut(
                f"nothing moved for {limits.turn_idle_s:g} s, or the turn lasted"
                f" {limits.turn_total_s:g} s"
            )
            self._outcome = reason.code
            raise reason from None
        finally:
            if isinstance(error, OrpheusError):
                self._outcome = error.code
            self.release()

    def release(self) -> None:
        """Free the engine, without waiting. Idempotent."""
        if self._open:
            self._open = False
            self._freed = self._turn.abandon()
            self._service.closed(self, self._outcome)

    async def freed(self) -> None:
        """Returns when the engine has freed a turn that was released."""
        if self._freed is not None:
            await asyncio.shield(asyncio.wrap_future(self._freed))

    def lost_owner(self, owner: asyncio.Task[Any]) -> None:
        """The task that opened it has ended."""
        if self._open:
            self._service.left(self)
            self.release()
