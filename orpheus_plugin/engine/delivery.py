"""Speed and loudness of a turn's audio, and the times of its words in it."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from orpheus_plugin.engine.pauses import SpeakingRate
from orpheus_plugin.engine.trim import Samples, to_pcm16
from orpheus_plugin.engine.word_timing import WordTimer
from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.events import SAMPLE_RATE, AudioChunk, TurnEvent, Word
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.text.utterance import SpokenWord

KNEE = 0.8
"""Samples above this amplitude are compressed, so that none reaches full scale."""

_NOTHING: Samples = np.zeros(0, np.float32)


def check_speed(options: SpeechOptions) -> None:
    """Raises InvalidOptions if a speed is asked for and PyAV is not installed. Loads nothing."""
    if options.speed in (None, 1) or "av" in sys.modules:
        return
    if importlib.util.find_spec("av") is None:
        raise InvalidOptions("another speed than 1 needs PyAV: pip install av")


async def load_tempo(options: SpeechOptions) -> None:
    """Load FFmpeg if it is needed: some 0.3 s the first time, on another thread."""
    if options.speed not in (None, 1) and "av" not in sys.modules:
        await asyncio.to_thread(importlib.import_module, "av")


class Delivery:
    """The audio and the words of one utterance, at the speed and loudness of its turn.

    Without a speed and a gain the samples stay as they are. A speed costs some 0.7 ms for each
    second of audio, and up to 0.2 s of audio waits in the filter.

    Args:
        words: of the utterance.
        options: of the turn.
        rate: the speed of the voice, without that of the options; `last_words` updates it.
        utterance: its index.
        position: of its first sample in the turn's audio.
    """

    def __init__(
        self,
        words: Sequence[SpokenWord],
        options: SpeechOptions,
        *,
        rate: SpeakingRate,
        utterance: int,
        position: int,
    ) -> None:
        self._begins_s = position / SAMPLE_RATE
        self._timer = WordTimer(words, rate=rate, utterance=utterance, begins_s=self._begins_s)
        self._speed = options.speed or 1.0
        self._tempo = Tempo(self._speed) if self._speed != 1 else None
        self._gain_db = options.gain_db or 0.0
        self._utterance = utterance
        self._position = position
        self._waiting: list[TurnEvent] = []  # words whose audio waits

    def push(self, samples: Samples) -> list[TurnEvent]:
        """Words, then the chunk of audio they belong to; nothing while the audio waits."""
        self._waiting += self._placed(self._timer.push(samples))
        return self._chunk(samples if self._tempo is None else self._tempo.push(samples))

    def finish(self) -> list[TurnEvent]:
        """As `push`, of the audio that still waits."""
        return [] if self._tempo is None else self._chunk(self._tempo.finish())

    def last_words(self) -> list[Word]:
        """The words that came with no chunk; after `finish`."""
        return [
            *(word for word in self._waiting if isinstance(word, Word)),
            *self._placed(self._timer.finish()),
        ]

    def close(self) -> None:
        """Free what it holds. Idempotent."""
        if self._tempo is not None:
            self._tempo.close()

    def _chunk(self, samples: Samples) -> list[TurnEvent]:
        if not samples.size:
            return []
        pcm = to_pcm16(with_gain(samples, self._gain_db))
        chunk = AudioChunk(pcm, self._position, self._utterance)
        self._position += samples.size
        events, self._waiting = [*self._waiting, chunk], []
        return events

    def _placed(self, words: list[Word]) -> list[Word]:
        if self._tempo is None:
            return words
        begins, speed = self._begins_s, self._speed
        return [
            replace(
                word,
                start_s=begins + (word.start_s - begins) / speed,
                end_s=begins + (word.end_s - begins) / speed,
            )
            for word in words
        ]


def with_gain(samples: Samples, gain_db: float) -> Samples:
    """float32 samples, louder by `gain_db`; they stay below full scale without clipping."""
    if not gain_db:
        return samples
    louder = samples * np.float32(10 ** (gain_db / 20))
    if gain_db > 0:
        over = np.abs(louder) - np.float32(KNEE)
        bent = np.float32(KNEE) + (1 - KNEE) * np.tanh(over / np.float32(1 - KNEE))
        louder = np.where(over > 0, np.copysign(bent, louder), louder)
    return louder.astype(np.float32, copy=False)


class Tempo:
    """Speech faster or slower at the same pitch, in a stream: FFmpeg's `atempo` (WSOLA)."""

    def __init__(self, speed: float) -> None:
        import av

        self._av = av
        self._graph: Any = av.filter.Graph()
        source = self._graph.add_abuffer(
            format="flt", sample_rate=SAMPLE_RATE, layout="mono", time_base=Fraction(1, SAMPLE_RATE)
        )
        # One atempo goes down to a half only; above two it skips samples.
        steps = [max(0.5, min(2.0, speed))]
        if steps[0] != speed:
            steps.append(speed / steps[0])
        chain = [source, *(self._graph.add("atempo", f"{step:.6f}") for step in steps)]
        chain += [
            self._graph.add("aformat", "sample_fmts=flt:channel_layouts=mono"),
            self._graph.add("abuffersink"),
        ]
        for left, right in itertools.pairwise(chain):
            left.link_to(right)
        self._graph.configure()
        self._samples = 0

    def push(self, samples: Samples) -> Samples:
        """float32 [n] in, float32 [m] out; m may be 0."""
        if not samples.size:
            return _NOTHING
        plane = np.ascontiguousarray(samples[np.newaxis, :], np.float32)
        frame = self._av.AudioFrame.from_ndarray(plane, format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.pts = self._samples
        self._samples += samples.size
        self._graph.push(frame)
        return self._pull()

    def finish(self) -> Samples:
        """What is left; nothing may be pushed any more."""
        if not self._samples:
            return _NOTHING
        self._graph.push(None)
        return self._pull()

    def close(self) -> None:
        """Free FFmpeg's memory, which the garbage collector does not see."""
        self._graph = None

    def _pull(self) -> Samples:
        pieces: list[Samples] = []
        while True:
            try:
                frame = self._graph.pull()
            except (BlockingIOError, EOFError):
                return np.concatenate(pieces) if pieces else _NOTHING
            pieces.append(frame.to_ndarray().reshape(-1).astype(np.float32, copy=False))
