"""The Speaker: the engine's side of a Turn. Cuts the text, keeps utterances in order and a little ahead of the listener.

It lives on the engine's loop; nothing in it waits for the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from orpheus_plugin.engine.trim import Samples, to_pcm16
from orpheus_plugin.engine.utterance_job import Stages, Synthesis
from orpheus_plugin.engine.word_timing import SpeakingRate, TimedWord, WordTimer
from orpheus_plugin.errors import GenerationFailed, OrpheusError
from orpheus_plugin.text.cutter import TextOptions, Utterance, UtteranceCutter
from orpheus_plugin.turn import (
    SAMPLE_RATE,
    AudioChunk,
    Deliver,
    SpeechOptions,
    TurnEnd,
    TurnEvent,
    TurnStats,
    Word,
)

logger = logging.getLogger(__name__)

MARGIN_S = 1.0
"""The newest utterance must be this far ahead of the listener (or fully generated) before the next one starts:
on a slow machine the sentence being heard comes first."""

UNREAD_S = 60.0
"""Audio delivered but not taken by the caller. Beyond it no further utterance starts, so memory stays bounded."""


class Speaker:
    """Speaks one turn.

    Args:
        stages: awaited before each utterance, so that a turn waits out a restart of the engine.
        deliver: hands events to the caller.
        look_ahead: utterances of this turn that may be generated at once.
        ahead_s: how far generation may be ahead of a listener who plays at once; None is no limit.
        rate: how fast the voice speaks, as far as known; its turns learn it together.
        on_end: called once when nothing of the turn is left in the engine, before the caller hears of the end; with
            the error that ended it, if one did.
    """

    def __init__(
        self,
        turn_id: str,
        *,
        stages: Callable[[], Awaitable[Stages]],
        voice: str | None,
        options: SpeechOptions,
        text_options: TextOptions,
        deliver: Deliver,
        look_ahead: int,
        ahead_s: float | None,
        on_end: Callable[[OrpheusError | None], None],
        rate: SpeakingRate,
    ) -> None:
        self.id = turn_id
        self.stats = TurnStats()
        self._stages = stages
        self._voice = voice
        self._options = options
        self._cutter = UtteranceCutter(text_options)
        self._deliver = deliver
        self._look_ahead = look_ahead
        self._ahead_s = ahead_s
        self._on_end = on_end
        self._final: TurnEnd | OrpheusError | None = None
        self._waiting: deque[tuple[Utterance, float]] = deque()
        self._live: deque[Synthesis] = deque()
        self._timer: WordTimer | None = None
        self._rate = rate
        self._utterance_start = 0
        self._stretch_start = 0
        self._position = 0
        self._unread = 0
        self._dry_at: float | None = None
        self._first_text_at: float | None = None
        self._busy_since: float | None = None
        self._failures: list[OrpheusError] = []
        self._ended = False
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"orpheus-turn-{turn_id}")
        self._task.add_done_callback(self._retire)

    # ---- commands

    def push_text(self, text: str) -> None:
        if self._first_text_at is None:
            self._first_text_at = time.monotonic()
        self.stats.text_chars += len(text)
        self._cutter.add(text)
        self._wake.set()

    def flush(self) -> None:
        self._cutter.end_piece()
        self._wake.set()

    def end(self) -> None:
        self.flush()
        self._ended = True
        self._wake.set()

    def consumed(self, samples: int) -> None:
        before, self._unread = self._unread, self._unread - samples
        limit = UNREAD_S * SAMPLE_RATE
        if before >= limit > self._unread:
            self._wake.set()

    def stop(self, reason: OrpheusError | None = None) -> None:
        """End the turn without waiting for what is in flight. Idempotent.

        `reason` is what the caller is told, if it did not ask for this itself.
        """
        if not self._task.done():
            self._final = reason
        self._task.cancel()

    async def aclose(self, reason: OrpheusError | None = None) -> None:
        """`stop`; returns when no slot of the engine is held."""
        self.stop(reason)
        await asyncio.gather(self._task, return_exceptions=True)

    async def wait(self) -> None:
        """Until the turn is over, however it ends."""
        await asyncio.wait({self._task})

    # ---- how it goes

    @property
    def generating(self) -> bool:
        """Whether an utterance of it is in the engine."""
        return bool(self._live)

    @property
    def ahead_s(self) -> float:
        """Seconds of delivered audio that a listener who plays at once has not heard yet; negative when dry."""
        return self._dry_at - time.monotonic() if self._dry_at is not None else 0.0

    @property
    def stretch_s(self) -> float:
        """Seconds of audio since its listener last had nothing to hear for want of text."""
        return (self._position - self._stretch_start) / SAMPLE_RATE

    @property
    def busy_s(self) -> float:
        """Seconds during which an utterance of it was in the engine."""
        since = self._busy_since
        return self.stats.busy_s + (time.monotonic() - since if since is not None else 0.0)

    @property
    def queued(self) -> int:
        """Utterances that wait for their time; of a long text the next few."""
        return len(self._waiting)

    # ---- the loop

    def _fill(self) -> None:
        """Cut as much of the text as is needed soon: a long text is not read in one go on the loop of all turns."""
        while len(self._waiting) <= self._look_ahead and (utterance := self._cutter.take()):
            self._waiting.append((utterance, time.monotonic()))

    async def _run(self) -> None:
        try:
            while True:
                self._wake.clear()
                if not self._emit():
                    return
                self._fill()
                pauses = [self._release(), await self._start_next()]
                if self._ended and not self._waiting and not self._live:
                    break
                pause = min((pause for pause in pauses if pause is not None), default=None)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):  # wait_for would make a task each time
                        await self._wake.wait()
            if self._failures and not self._position:
                raise self._failures[0]
            now_s = self._position / SAMPLE_RATE
            index = self.stats.utterances
            if words := [Word(w.written, now_s, now_s, index) for w in self._cutter.leftover]:
                self._deliver(*words)
            self._final = TurnEnd("done", self.stats)
        except OrpheusError as error:
            self._final = error
        except Exception as error:
            logger.exception("turn %s failed", self.id)
            self._final = OrpheusError(f"internal error: {error!r}")
            self._final.__cause__ = error
        finally:
            live = list(self._live)
            self._live.clear()
            await asyncio.gather(*(synthesis.aclose() for synthesis in live))
            self._clock_busy(busy=False)

    def _retire(self, task: asyncio.Task[None]) -> None:
        final = self._final
        self._on_end(final if isinstance(final, OrpheusError) else None)
        if final is not None:
            self._deliver(final)

    def _release(self) -> float | None:
        """Speak sentences held back to be joined with the next one, if the listener would run dry for them.

        Returns the seconds until that must be looked at again; None: not before there is news.
        """
        if self._ended or self._waiting or not self.stats.utterances:
            return None
        if not all(synthesis.generated for synthesis in self._live):
            return None
        if (spare := self.ahead_s - MARGIN_S) > 0:
            return spare
        if released := self._cutter.release():
            self._waiting.extend((utterance, time.monotonic()) for utterance in released)
            self._wake.set()
        return None

    async def _start_next(self) -> float | None:
        """Start the next utterance if it may run now; else seconds until it may (None: when woken)."""
        while self._waiting and len(self._live) < self._look_ahead:
            ahead = self.ahead_s
            if self._live and not self._live[-1].generated and ahead < MARGIN_S:
                return None  # its own progress wakes us
            if self._unread >= UNREAD_S * SAMPLE_RATE:
                return None
            if self._ahead_s is not None and ahead > self._ahead_s:
                return ahead - self._ahead_s
            stages = await self._stages()
            utterance, ready_at = self._waiting.popleft()
            index = self.stats.utterances
            self.stats.utterances += 1
            synthesis = Synthesis(
                stages,
                utterance,
                request_id=f"{self.id}-{index}",
                voice=self._voice,
                options=self._options,
                index=index,
                # What a listener waits for in silence goes before what is generated ahead of another.
                priority=0 if ahead <= 0 and not self._live else 1,
                ready_at=ready_at,
                stats=self.stats,
                sounds=self._pass_on,
                wake=self._wake.set,
            )
            self._live.append(synthesis)
            self._clock_busy(busy=True)
            self._set_deadlines()
        return None

    def _pass_on(self, synthesis: Synthesis) -> None:
        """New audio: of the utterance being heard it is delivered at once, without waking the task for each piece."""
        if not self._live or synthesis is not self._live[0]:
            return  # its time comes, or the turn is over
        if not self._emit_audio(synthesis):
            self._task.cancel()  # the caller is gone
        elif self._waiting:
            self._wake.set()

    def _emit(self) -> bool:
        """Deliver what is ready, in order. False if the caller is gone."""
        while self._live:
            head = self._live[0]
            if not self._emit_audio(head):
                return False
            if not head.done:
                break
            self._live.popleft()
            if not self._live:
                self._clock_busy(busy=False)
            if isinstance(head.error, GenerationFailed):
                # One sentence that would not come out does not take the others' voice.
                self._failures.append(head.error)
            elif head.error is not None:
                raise head.error
            if self._timer is not None:
                if words := self._placed(self._timer.finish(), head.index):
                    self._deliver(*words)
                self._timer = None
            self._utterance_start = self._position
        return True

    def _emit_audio(self, head: Synthesis) -> bool:
        while head.out:
            if not self._deliver(*self._events(head, head.out.popleft())):
                return False
        return True

    def _events(self, head: Synthesis, samples: Samples) -> list[TurnEvent]:
        """The next audio of the turn as events; the clocks go on."""
        now = time.monotonic()
        if self._timer is None:
            self._timer = WordTimer(head.utterance.words, rate=self._rate)
        words = self._placed(self._timer.push(samples), head.index)
        if self.stats.ttfa_s is None and self._first_text_at is not None:
            self.stats.ttfa_s = now - self._first_text_at
        if self._dry_at is not None and now > self._dry_at:
            if self._dry_at >= head.ready_at:
                self.stats.underruns += 1
            else:
                self._stretch_start = self._position
        self._dry_at = max(self._dry_at or now, now) + samples.size / SAMPLE_RATE
        self._set_deadlines()
        chunk = AudioChunk(to_pcm16(samples), self._position, head.index)
        self._position += samples.size
        self._unread += samples.size
        self.stats.audio_s = self._position / SAMPLE_RATE
        return [*words, chunk]

    def _placed(self, words: Sequence[TimedWord], utterance: int) -> list[Word]:
        """Words of an utterance, at their places in the turn."""
        offset = self._utterance_start / SAMPLE_RATE
        return [
            Word(
                word.text,
                offset + word.start_s,
                offset + max(word.start_s, word.end_s),
                utterance,
                word.space_after,
            )
            for word in words
        ]

    # ---- clocks

    def _set_deadlines(self) -> None:
        """Tell the codec when each live utterance runs dry: the head when delivered audio ends, later ones after it."""
        deadline = self._dry_at if self._dry_at is not None else time.monotonic()
        for synthesis in self._live:
            synthesis.set_deadline(deadline)
            deadline += MARGIN_S

    def _clock_busy(self, *, busy: bool) -> None:
        now = time.monotonic()
        if self._busy_since is not None:
            self.stats.busy_s += now - self._busy_since
        self._busy_since = now if busy else None
