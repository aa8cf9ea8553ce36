"""A speech engine without a model: every word is 0.25 s of tone. The turns are real ones."""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np

from orpheus_plugin.errors import AtCapacity, OrpheusError
from orpheus_plugin.events import SAMPLE_RATE, AudioChunk, TurnEnd, TurnStats, Word
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.speech_engine import EngineHealth, EngineLoad
from orpheus_plugin.text.cutter import Utterance, UtteranceCutter
from orpheus_plugin.turn import Turn
from tests.support.tones import Tones

WORD_S = 0.25
CHUNK = 2048  # samples
LOOK_AHEAD = 2


@dataclass
class ToneEngine(Tones):
    """It records what happens in it.

    Attributes:
        first_s: seconds from an utterance's start to its first audio.
        speed: seconds of audio per second.
        release_s: seconds until a cancelled turn has given up its place.
        refuses_late: there is no room for a turn only after it was opened, as on a server.
        fail: an utterance that contains a key raises its value, after `fail_after_s` of its audio.
    """

    first_s: float = 0.01
    speed: float = 50.0
    max_turns: int = 8
    release_s: float = 0.0
    refuses_late: bool = False
    fail: dict[str, Exception] = field(default_factory=dict)
    fail_after_s: float = 0.0
    start_error: OrpheusError | None = None
    cut_off: list[str] = field(default_factory=list)
    turns: set[str] = field(default_factory=set)
    live: int = 0
    most_live: int = 0
    starts: int = 0

    async def start(self) -> None:
        self.starts += 1
        await asyncio.sleep(self.start_s)
        if self.start_error is not None:
            raise self.start_error

    def open_turn(self, options: SpeechOptions | None = None, *, max_wait_s: float = 0.0) -> Turn:
        options = options or SpeechOptions()
        self.check_voice(options.voice)
        full = len(self.turns) >= self.max_turns
        if full and not self.refuses_late:
            raise AtCapacity("all turns are speaking")
        link = ToneLink(self)
        turn = Turn(uuid.uuid4().hex[:8], link, max_chars=self.max_chars)
        if full:
            turn.deliver(AtCapacity("all turns are speaking"))
        else:
            self.opened.append(options)
            link.begin(turn)
        return turn

    def health(self) -> EngineHealth:
        return EngineHealth(True, "tones", "ToneEngine", len(self.turns), self.max_turns, 0)

    def load(self) -> EngineLoad:
        return EngineLoad(generating=self.live)


class ToneLink:
    """Generates a few utterances of a turn at once and delivers them in order."""

    def __init__(self, engine: ToneEngine) -> None:
        self.engine = engine
        self.cutter = UtteranceCutter()
        self.utterances: asyncio.Queue[Utterance | None] = asyncio.Queue()
        self.stats = TurnStats()

    def begin(self, turn: Turn) -> None:
        self.turn = turn
        self.engine.turns.add(turn.id)
        self.task = asyncio.create_task(self.run())

    def put(self, utterances: list[Utterance]) -> None:
        for utterance in utterances:
            self.utterances.put_nowait(utterance)

    def send_text(self, text: str) -> None:
        self.stats.text_chars += len(text)
        self.put(self.cutter.push(text))

    def send_flush(self) -> None:
        self.put(self.cutter.flush())

    def send_end(self) -> None:
        self.send_flush()
        self.utterances.put_nowait(None)

    def send_cancel(self) -> Future[None]:
        done: Future[None] = Future()

        async def stop() -> None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            done.set_result(None)

        self.stopping = asyncio.create_task(stop())
        return done

    def consumed(self, samples: int) -> None:
        pass

    async def run(self) -> None:
        order: asyncio.Queue[Out | None] = asyncio.Queue()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.generate_all(order, group))
                await self.deliver_all(order)
            self.engine.turns.discard(self.turn.id)
            self.turn.deliver(TurnEnd("done", self.stats))
        except* OrpheusError as errors:
            failure = errors.exceptions[0]
            assert isinstance(failure, OrpheusError)
            self.engine.turns.discard(self.turn.id)
            self.turn.deliver(failure)
        except* asyncio.CancelledError:
            await asyncio.sleep(self.engine.release_s)
        finally:
            self.engine.turns.discard(self.turn.id)

    async def generate_all(
        self, order: asyncio.Queue[Out | None], group: asyncio.TaskGroup
    ) -> None:
        places = asyncio.Semaphore(LOOK_AHEAD)
        while (utterance := await self.utterances.get()) is not None:
            await places.acquire()
            out: Out = asyncio.Queue()
            order.put_nowait(out)
            task = group.create_task(self.generate(utterance, self.stats.utterances, out))
            task.add_done_callback(lambda _: places.release())
            self.stats.utterances += 1
        order.put_nowait(None)

    async def generate(self, utterance: Utterance, index: int, out: Out) -> None:
        """Words and audio of one utterance, placed from its own start."""
        engine, text = self.engine, utterance.text
        engine.spoken.append(text)
        engine.live += 1
        engine.most_live = max(engine.most_live, engine.live)
        try:
            await asyncio.sleep(engine.first_s)
            words = [word.written for word in utterance.words]
            samples = int(max(1, len(words)) * WORD_S * SAMPLE_RATE)
            begun = 0
            for position in range(0, samples, CHUNK):
                for key, error in engine.fail.items():
                    if key in text and position >= engine.fail_after_s * SAMPLE_RATE:
                        raise error
                size = min(CHUNK, samples - position)
                while begun < len(words) and begun * WORD_S * SAMPLE_RATE < position + size:
                    at = begun * WORD_S
                    out.put_nowait(Word(words[begun], at, at + WORD_S, index))
                    begun += 1
                out.put_nowait(AudioChunk(tone(position, size), position, index))
                await asyncio.sleep(size / SAMPLE_RATE / engine.speed)
            out.put_nowait(None)
        except asyncio.CancelledError:
            engine.cut_off.append(text)
            raise
        finally:
            engine.live -= 1

    async def deliver_all(self, order: asyncio.Queue[Out | None]) -> None:
        start = 0
        while (out := await order.get()) is not None:
            position = start
            while (event := await out.get()) is not None:
                if isinstance(event, AudioChunk):
                    position += event.samples
                    self.stats.audio_s = position / SAMPLE_RATE
                    self.turn.deliver(replace(event, position=start + event.position))
                else:
                    at = start / SAMPLE_RATE
                    self.turn.deliver(
                        replace(event, start_s=at + event.start_s, end_s=at + event.end_s)
                    )
            start = position


Out = asyncio.Queue[AudioChunk | Word | None]


def tone(position: int, size: int) -> bytes:
    at = np.arange(position, position + size)
    return (8000 * np.sin(2 * np.pi * 440 * at / SAMPLE_RATE)).astype("<i2").tobytes()
