"""The engine's side of a turn: cuts its text, generates utterances ahead, delivers their audio."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from orpheus_plugin.engine.delivery import Delivery, load_tempo
from orpheus_plugin.engine.pauses import SpeakingRate
from orpheus_plugin.engine.prebuffer import Outlet, Prebuffer
from orpheus_plugin.engine.turn_meter import TurnMeter
from orpheus_plugin.engine.utterance_job import EngineParts, UtteranceJob
from orpheus_plugin.errors import GenerationFailed, OrpheusError
from orpheus_plugin.events import SAMPLE_RATE, AudioChunk, TurnEnd, TurnEvent, Word
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.text.cutter import TextOptions, Utterance, UtteranceCutter
from orpheus_plugin.turn import Turn

logger = logging.getLogger(__name__)

MARGIN_S = 1.0
"""The newest utterance must be this far ahead of the listener (or fully generated) before the next
one starts: on a slow machine the sentence that plays comes first."""

UNREAD_S = 60.0
"""Seconds of audio delivered but not taken by the caller. With more, no further utterance starts,
so memory stays bounded."""


class Scheduler:
    """Speaks one turn, on the engine's loop. It never waits for the caller.

    Args:
        parts: awaited before each utterance, so that a turn waits for a restart of the engine.
        look_ahead: utterances of this turn that may be generated at once.
        ahead_s: how far generation may be ahead of a listener who plays at once; None is no limit.
        rate: the speed of the voice, shared by its turns.
        prebuffer: of the engine.
        on_end: called once when nothing of the turn is left in the engine, before the caller gets
            the end; with the error that ended it, if one did.

    Attributes:
        caller: gives the Turn, None once it was dropped. Set before `start`.
        cancelled: whether its caller has cancelled it. Set from the caller's loop.
        meter: of what it costs; its stats are the turn's.
        admitted: set when the turn has its place; nothing of it is in the engine before that.
        orphaned: whether it was ended because its caller dropped the Turn, or its loop is closed.
    """

    def __init__(
        self,
        turn_id: str,
        *,
        parts: Callable[[], Awaitable[EngineParts]],
        voice: str | None,
        options: SpeechOptions,
        text_options: TextOptions,
        look_ahead: int,
        ahead_s: float | None,
        rate: SpeakingRate,
        prebuffer: Prebuffer,
        on_end: Callable[[OrpheusError | None], None],
    ) -> None:
        self.id = turn_id
        self.meter = TurnMeter()
        self.caller: Callable[[], Turn | None] = lambda: None
        self.cancelled = False
        self.admitted = asyncio.Event()
        self.orphaned = False
        self._parts = parts
        self._voice = voice
        self._options = options
        self._cutter = UtteranceCutter(text_options)
        self._look_ahead = look_ahead
        self._ahead_s = ahead_s
        self._rate = rate
        self._outlet = Outlet(prebuffer, self.meter.clock, self._hand_on)
        self._on_end = on_end
        self._queued: deque[tuple[Utterance, float]] = deque()  # with the time of its text
        self._live: deque[UtteranceJob] = deque()  # in the engine, or not yet delivered whole
        self._started: asyncio.Queue[UtteranceJob | None] = asyncio.Queue()
        self._text_ended = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._final: TurnEnd | OrpheusError | None = None
        self._failures: list[OrpheusError] = []
        self._position = 0
        self._unread = 0

    # ---- life

    def start(self) -> None:
        """Before any other call on this loop."""
        self._task = asyncio.create_task(self._run(), name=f"orpheus-turn-{self.id}")
        self._task.add_done_callback(self._retire)

    def admit(self) -> None:
        """The turn has its place. On the engine's loop, or before `start`."""
        self.admitted.set()
        if (turn := self.caller()) is not None:
            turn.admit()

    def stop(self, reason: OrpheusError | None = None) -> None:
        """End the turn without waiting for work in flight. Idempotent.

        `reason` is the error that the caller gets; None if the caller asked for the end.
        """
        if self._task is not None and not self._task.done() and not self._task.cancelling():
            self._final = reason
            self._task.cancel()

    async def aclose(self, reason: OrpheusError | None = None) -> None:
        """`stop`; returns when the turn has no place in the engine."""
        self.stop(reason)
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        starting = asyncio.create_task(self._start_utterances(), name=f"orpheus-start-{self.id}")
        try:
            while (job := await self._started.get()) is not None:
                await self._speak(job)
            await starting  # raises what stopped it from starting all utterances
            if self._failures and not self._position:
                raise self._failures[0]
            now_s = self._position / SAMPLE_RATE
            index = self.meter.stats.utterances
            if words := [Word(w.written, now_s, now_s, index) for w in self._cutter.leftover]:
                self._hand_on(words, 0.0)
            self._final = TurnEnd("done", self.meter.stats)
        except OrpheusError as error:
            # The frames of its traceback hold the engine's parts; a caller may keep it for long.
            self._final = error.with_traceback(None)
        except Exception as error:
            logger.exception("turn %s failed", self.id)
            self._final = OrpheusError(f"internal error: {error!r}")
            self._final.__cause__ = error
        finally:
            starting.cancel()
            self._outlet.close()
            live = list(self._live)
            for job in live:
                job.stop()
            await asyncio.gather(starting, *(job.aclose() for job in live), return_exceptions=True)
            for job in live:
                self.meter.stats.add(job.stats)
            self._live.clear()
            self.meter.busy(False)

    def _retire(self, task: asyncio.Task[None]) -> None:
        final = self._final
        self._on_end(final if isinstance(final, OrpheusError) else None)
        if final is not None:
            self._deliver(final)

    # ---- text

    def push_text(self, text: str) -> None:
        self.meter.text(len(text))
        self._cutter.add(text)
        self._wake.set()

    def flush(self) -> None:
        self._cutter.end_piece()
        self._wake.set()

    def end(self) -> None:
        self._text_ended = True
        self.flush()

    def _cut(self) -> bool:
        """Cut the next utterance if it is needed soon. Whether to come back for more: reading more
        at once would block the loop of all turns."""
        if len(self._queued) > self._look_ahead:
            return False
        if utterance := self._cutter.take():
            self._queued.append((utterance, time.monotonic()))
            return True
        return self._cutter.unread  # much text with nothing to speak in it

    def note_consumed(self, samples: int) -> None:
        before, self._unread = self._unread, self._unread - samples
        if before >= UNREAD_S * SAMPLE_RATE > self._unread:
            self._wake.set()

    # ---- starting utterances in time

    async def _start_utterances(self) -> None:
        try:
            while True:
                self._wake.clear()
                more = self._cut()
                if self._text_ended and not self._queued and not more:
                    return
                pause = self._pause_s() if self._queued or not more else None
                if pause == 0.0:
                    await self.admitted.wait()
                    self._start_utterance(await self._parts())
                elif not more:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause):  # wait_for would make a task each time
                            await self._wake.wait()
                if more:
                    await asyncio.sleep(0)  # let other turns go on
        finally:
            self._started.put_nowait(None)

    def _pause_s(self) -> float | None:
        """Seconds until the next utterance may start; None if it has to wait for a change in this
        turn."""
        ahead_s = self.meter.clock.ahead_s
        if not self._queued:
            # Sentences that wait to be joined with the next one are spoken before the listener has
            # no audio.
            if not self.meter.stats.utterances or not all(
                job.generated.done() for job in self._live
            ):
                return None
            if ahead_s > MARGIN_S:
                return ahead_s - MARGIN_S
            now = time.monotonic()
            self._queued.extend((utterance, now) for utterance in self._cutter.release())
            return 0.0 if self._queued else None
        if len(self._live) >= self._look_ahead or self._unread >= UNREAD_S * SAMPLE_RATE:
            return None
        if self._live and not self._live[-1].generated.done() and ahead_s < MARGIN_S:
            return None
        if self._ahead_s is not None and ahead_s > self._ahead_s:
            return ahead_s - self._ahead_s
        return 0.0

    def _start_utterance(self, parts: EngineParts) -> None:
        utterance, ready_at = self._queued.popleft()
        index = self.meter.stats.utterances
        self.meter.stats.utterances += 1
        job = UtteranceJob(
            parts,
            utterance,
            request_id=f"{self.id}-{index}",
            voice=self._voice,
            options=self._options,
            index=index,
            ready_at=ready_at,
            # An utterance for which a listener waits comes before one that is generated ahead.
            priority=0 if self.meter.clock.ahead_s <= 0 and not self._live else 1,
            deadline=self._deadline,
        )
        job.generated.add_done_callback(lambda _: self._wake.set())
        self.meter.busy(True)
        self._live.append(job)
        self._started.put_nowait(job)

    def _deadline(self) -> float:
        """When the listener needs the next audio. Called by the codec's thread, too."""
        held_s = self._outlet.held_s
        return time.monotonic() + held_s if held_s else self.meter.clock.ends_at

    # ---- audio

    async def _speak(self, job: UtteranceJob) -> None:
        """Deliver the audio of the first live utterance as it comes, and its words."""
        begins, options = self._position, self._options
        await load_tempo(options)
        delivery = Delivery(
            job.utterance.words, options, rate=self._rate, utterance=job.index, position=begins
        )
        try:
            async for samples in job:
                self._play(delivery.push(samples))
                if self._queued and len(self._live) < self._look_ahead:
                    self._wake.set()
            self._play(delivery.finish())
        except GenerationFailed as error:
            self._failures.append(error)  # the other sentences are still spoken
        finally:
            delivery.close()
            self._outlet.flush()
        self._live.popleft()
        self.meter.stats.add(job.stats)
        if not self._live:
            self.meter.busy(False)
        self._wake.set()
        if self._position > begins and (words := delivery.last_words()):
            self._hand_on(words, 0.0)

    def _play(self, events: Sequence[TurnEvent]) -> None:
        """Words and, last, the audio they come before."""
        if events and isinstance(chunk := events[-1], AudioChunk):
            self._position += chunk.samples
            self._outlet.push(events, chunk.duration_s, chunk.utterance)

    def _hand_on(self, events: Sequence[TurnEvent], seconds: float) -> None:
        """Deliver events of the utterance that plays, with so much audio."""
        if seconds:
            self.meter.audio(seconds, self._live[0].ready_at)
            self._unread += round(seconds * SAMPLE_RATE)
        if not self._deliver(*events):
            self._end_orphan()

    def _deliver(self, *events: TurnEvent | OrpheusError) -> bool:
        """False if they can no longer be read."""
        turn = self.caller()
        return turn is not None and turn.deliver(*events)

    def look_for_caller(self) -> None:
        """End the turn if it can no longer be read: the caller has dropped the Turn, or its loop
        is closed."""
        turn = self.caller()
        if not self.cancelled and (turn is None or turn.orphaned):
            self._end_orphan()

    def _end_orphan(self) -> None:
        if self._task is not None and not self._task.done() and not self._task.cancelling():
            self.orphaned = True
            logger.warning("turn %s: its caller has dropped it; it is ended", self.id)
            self.stop()

    # ---- how it goes

    @property
    def generating(self) -> bool:
        """Whether an utterance of it is in the engine."""
        return bool(self._live)

    @property
    def queued(self) -> int:
        """Utterances that wait to be generated; of a long text the next few."""
        return len(self._queued)
