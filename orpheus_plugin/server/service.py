"""The service with which every protocol opens its turns: it limits and counts them, ends turns that
hang, and frees each one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from orpheus_plugin.errors import AtCapacity, EngineDied, OrpheusError, ShuttingDown
from orpheus_plugin.options import MAX_WAIT_S, SpeechOptions, check_number
from orpheus_plugin.server.config import Limits
from orpheus_plugin.server.metrics import Metrics, Snapshot
from orpheus_plugin.server.served_turn import ServedTurn
from orpheus_plugin.server.voice_map import VoiceMap
from orpheus_plugin.speech_engine import SpeechEngine

logger = logging.getLogger(__name__)

FREEING_S = 0.25
"""Seconds every turn waits before it is refused: when a client interrupts and opens the next turn
at once, its place is not free yet. unmute leaves a server that does not answer for half a
second."""

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

    def left(self, served: ServedTurn) -> None:
        """Its task ended without freeing it."""
        self.abandoned += 1
        self.metrics.abandoned(served.protocol)
        logger.error(
            "a turn was left by its task", extra={"turn": served.id, "protocol": served.protocol}
        )

    def closed(self, served: ServedTurn, outcome: str) -> None:
        """It is released."""
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
