"""A speech engine without a model: every word is 0.3 s of tone. The turns are real ones."""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from orpheus_plugin.errors import OrpheusError
from orpheus_plugin.events import SAMPLE_RATE, AudioChunk, TurnEnd, TurnStats, Word
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.speech_engine import EngineHealth, EngineLoad
from orpheus_plugin.text.cutter import UtteranceCutter
from orpheus_plugin.turn import Turn
from tests.support.tones import Tones

WORD_S = 0.3
TOKENS_PER_WORD = 17
PROMPT_TOKENS_PER_CHAR = 2


@dataclass
class ToneEngine(Tones):
    """What happens in it is written down, and what it should do is told beforehand.

    Attributes:
        speed: seconds of audio made per second.
        first_s: seconds before an utterance's first audio.
        refusals: raised by the next calls of open_turn, in order.
        failures: raised by the next turns in place of speech, in order.
        failing_after: words spoken before a failure.
        mute: turns take text and say nothing.
    """

    speed: float = 100.0
    first_s: float = 0.0
    refusals: list[Exception] = field(default_factory=list)
    failures: list[OrpheusError] = field(default_factory=list)
    failing_after: int = 0
    mute: bool = False
    cancelled: list[str] = field(default_factory=list)
    live: set[str] = field(default_factory=set)
    running: bool = False
    state: EngineHealth | None = None

    async def start(self) -> None:
        if not self.running:
            await asyncio.sleep(self.start_s)
            self.running = True

    def open_turn(self, options: SpeechOptions | None = None, *, max_wait_s: float = 0.0) -> Turn:
        options = options or SpeechOptions()
        self.check_voice(options.voice)
        if self.refusals:
            raise self.refusals.pop(0)
        self.opened.append(options)
        link = _Link(self, self.failures.pop(0) if self.failures else None)
        turn = Turn(uuid.uuid4().hex[:8], link, max_chars=self.max_chars)
        link.begin(turn)
        return turn

    def health(self) -> EngineHealth:
        if self.state is not None:
            return self.state
        return EngineHealth(self.running, "tones", "ToneEngine", len(self.live), 8, 0)

    def load(self) -> EngineLoad:
        return EngineLoad(generating=len(self.live))


class _Link:
    def __init__(self, engine: ToneEngine, failure: OrpheusError | None) -> None:
        self._engine = engine
        self._failure = failure
        self._cutter = UtteranceCutter()
        self._utterances: asyncio.Queue[list[str] | None] = asyncio.Queue()
        self._stats = TurnStats()

    def begin(self, turn: Turn) -> None:
        self._turn = turn
        self._engine.live.add(turn.id)
        self._task = asyncio.create_task(self._run())

    def send_text(self, text: str) -> None:
        self._stats.text_chars += len(text)
        self._stats.prompt_tokens += PROMPT_TOKENS_PER_CHAR * len(text)
        for utterance in self._cutter.push(text):
            self._utterances.put_nowait([word.written for word in utterance.words])

    def send_flush(self) -> None:
        for utterance in self._cutter.flush():
            self._utterances.put_nowait([word.written for word in utterance.words])

    def send_end(self) -> None:
        self.send_flush()
        self._utterances.put_nowait(None)

    def send_cancel(self) -> Future[None]:
        self._engine.cancelled.append(self._turn.id)
        self._task.cancel()
        done: Future[None] = Future()
        self._task.add_done_callback(lambda _: done.set_result(None))
        return done

    def consumed(self, samples: int) -> None:
        pass

    async def _run(self) -> None:
        try:
            await self._speak()
        except OrpheusError as error:
            self._turn.deliver(error)
        finally:
            self._engine.live.discard(self._turn.id)

    async def _speak(self) -> None:
        said = 0
        if self._failure is not None and not self._engine.failing_after:
            raise self._failure
        while (words := await self._utterances.get()) is not None:
            if self._engine.mute:
                await asyncio.Event().wait()
            await asyncio.sleep(self._engine.first_s)
            self._engine.spoken.append(" ".join(words))
            for text in words:
                if self._failure is not None and said == self._engine.failing_after:
                    raise self._failure
                self._say(text, said)
                said += 1
                await asyncio.sleep(WORD_S / self._engine.speed)
        self._turn.deliver(TurnEnd("done", self._stats))

    def _say(self, text: str, index: int) -> None:
        start = index * WORD_S
        self._turn.deliver(Word(text, start, start + WORD_S, 0))
        self._turn.deliver(AudioChunk(tone(index), int(start * SAMPLE_RATE), 0))
        self._stats.tokens += TOKENS_PER_WORD
        self._stats.audio_s += WORD_S


def tone(index: int) -> bytes:
    """A word's time of sound whose pitch tells which word of the turn it is."""
    at = np.arange(int(WORD_S * SAMPLE_RATE)) / SAMPLE_RATE
    return (8000 * np.sin(2 * np.pi * (200 + 20 * index) * at)).astype("<i2").tobytes()
