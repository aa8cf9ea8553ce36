"""The service with which every protocol opens its turns: it limits and counts them, ends turns that
hang, and frees each one.

A task that serves a turn may be cancelled at any await, also in its cleanup. So freeing a turn
never awaits, and a turn belongs to the task that opened it: a turn that is open when that task ends
is freed, counted and logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from orpheus_plugin.errors import AtCapacity, EngineDied, OrpheusError, ShuttingDown, TurnTimedOut
from orpheus_plugin.server.config import Limits
from orpheus_plugin.server.metrics import Metrics, Snapshot
from orpheus_plugin.server.voicemap import VoiceMap
from orpheus_plugin.turn import (
    MAX_WAIT_S,
    SAMPLE_RATE,
    AudioChunk,
    SpeechEngine,
    SpeechOptions,
    Turn,
    TurnEnd,
    TurnEvent,
    TurnStats,
    check_number,
)

logger = logging.getLogger(__name__)

FREEING_S = 0.25
"""Seconds every turn waits before it is refused: when a client interrupts and opens the next turn
at once, its place is not free yet. unmute leaves a server that does not answer for half a
second."""

SILENCE = bytes(2 * SAMPLE_RATE // 10)
"""0.1 s."""


RECENT = 100
"""Number of last turns whose figures are kept."""


@dataclass(frozen=True, slots=True)
class Recent:
    """A turn with audio: when it ended (monotonic), its time to first audio in seconds, its
    RTFx."""

    at: float
    ttfa_s: float
    rtfx: float | None


class SpeechService:
    """The engine for the protocols.

    Attributes:
        ready: whether the engine is warm; before that every endpoint answers 503.
        draining: whether the server is about to end: running turns go on, new ones are refused.
        recent: the last turns with audio.
        abandoned: turns whose task ended without freeing them: 0, unless there is an error in this
            server.
    """

    def __init__(
        self,
        engine: SpeechEngine,
        *,
        limits: Limits | None = None,
        max_text_chars: int,
        voices: VoiceMap | None = None,
        strict_voices: bool = False,
        log_text: bool = False,
    ) -> None:
        self.engine = engine
        self.limits = limits or Limits()
        self.metrics = Metrics(self._now)
        self.max_text_chars = max_text_chars
        self.voices = voices or VoiceMap()
        self.strict_voices = strict_voices
        self.ready = False
        self.draining = asyncio.Event()
        self.last_used = time.monotonic()
        self.recent: deque[Recent] = deque(maxlen=RECENT)
        self.abandoned = 0
        self._log_text = log_text
        self._turns: set[ServedTurn] = set()
        self._connections = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def _now(self) -> Snapshot:
        health = self.engine.health()
        turns = dict(Counter(served.protocol for served in self._turns))
        return Snapshot(
            self.ready and health.ready and not self.draining.is_set(),
            turns,
            self.connections,
            health,
            self.engine.load(),
        )

    # ---- connections

    @property
    def connections(self) -> int:
        return self._connections

    @contextlib.contextmanager
    def connection(self) -> Iterator[None]:
        """Count a client while the block runs. Raises AtCapacity when there are too many,
        ShuttingDown, or EngineDied before it is ready."""
        if self.draining.is_set():
            raise ShuttingDown("the server is shutting down")
        if not self.ready:
            raise EngineDied("the model is still being loaded; try again in a moment")
        if self._connections >= self.limits.connections:
            raise AtCapacity(f"all {self.limits.connections} connections of this server are in use")
        self._connections += 1
        try:
            yield
        finally:
            self._connections -= 1
            self.last_used = time.monotonic()

    # ---- turns

    def open(self, protocol: str, options: SpeechOptions, *, max_wait_s: float = 0.0) -> ServedTurn:
        """A turn for one client, which belongs to the calling task. Use it inside `async with`, in
        this task or another.

        It waits in line for a place for `max_wait_s`, at least for FREEING_S. Raises what the
        engine raises, and ShuttingDown; later errors (AtCapacity) are raised by `admitted` and by
        iterating it.
        """
        try:
            check_number("max_wait_s", max_wait_s, 0.0, MAX_WAIT_S)
            if self.draining.is_set():
                raise ShuttingDown("the server is shutting down")
            options = replace(options, voice=self.voices(options.voice))
            turn = self.engine.open_turn(options, max_wait_s=max(max_wait_s, FREEING_S))
        except OrpheusError as error:
            self.metrics.refused(protocol, error.code)
            raise
        served = ServedTurn(self, turn, protocol)
        self._turns.add(served)
        self._empty.clear()
        owner = asyncio.current_task()
        assert owner is not None
        owner.add_done_callback(served.lost_owner)
        return served

    def _abandoned(self, served: ServedTurn) -> None:
        self.abandoned += 1
        self.metrics.abandoned(served.protocol)
        logger.error(
            "a turn was left by its task", extra={"turn": served.id, "protocol": served.protocol}
        )

    def _closed(self, served: ServedTurn, outcome: str) -> None:
        self._turns.discard(served)
        if not self._turns:
            self._empty.set()
        self.last_used = time.monotonic()
        if served.ttfa_s is not None:
            self.recent.append(Recent(self.last_used, served.ttfa_s, served.stats.rtfx))
        if outcome == AtCapacity.code:
            self.metrics.refused(served.protocol, outcome)
        else:
            self.metrics.finished(served.protocol, outcome, served.ttfa_s, served.stats)
        logger.info(
            "turn ended",
            extra={
                "turn": served.id,
                "protocol": served.protocol,
                "outcome": outcome,
                "ttfa_s": served.ttfa_s,
                "audio_s": served.stats.audio_s,
                "chars": served.chars,
                **({"text": served.text} if self._log_text else {}),
            },
        )

    @property
    def log_text(self) -> bool:
        return self._log_text

    @property
    def active_turns(self) -> int:
        return len(self._turns)

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new turns and wait for the running ones. False if some still speak after
        `timeout_s`."""
        self.draining.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def cut_off(self) -> None:
        """End the turns that still speak. Their clients get the reason and may go on at another
        server."""
        for served in list(self._turns):
            served.cut_off(ShuttingDown("the server ended before this turn did"))


class ServedTurn:
    """A turn on the server. One task uses it inside `async with`, where it reads its events and
    sends them.

    If there is no text in or audio out for too long, that task is interrupted, and `async with`
    raises TurnTimedOut. Leaving the block frees the engine.
    """

    def __init__(self, service: SpeechService, turn: Turn, protocol: str) -> None:
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
            self._service._closed(self, self._outcome)

    async def freed(self) -> None:
        """Returns when the engine has freed a turn that was released."""
        if self._freed is not None:
            await asyncio.shield(asyncio.wrap_future(self._freed))

    def lost_owner(self, owner: asyncio.Task[Any]) -> None:
        """The task that opened it has ended."""
        if self._open:
            self._service._abandoned(self)
            self.release()
