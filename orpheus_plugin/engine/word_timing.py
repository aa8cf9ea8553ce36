"""Word times: an estimate that follows the audio while it streams.

Orpheus gives no alignment, so times are estimated: every word has an expected length from its
syllables and letters, the clock runs only while there is speech, pauses are matched to punctuation
and correct the estimate, and the end of speech is the end of the last word. Nothing is delayed: a
word is reported with the chunk in which it starts by this estimate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from orpheus_plugin.engine.pauses import PauseMatcher, SpeakingRate
from orpheus_plugin.engine.word_lengths import pause_after, spoken_length
from orpheus_plugin.events import SAMPLE_RATE, Word
from orpheus_plugin.text.utterance import SpokenWord

FRAME_S = 0.01
_PAUSE_FRAMES = 10  # silence this long is a pause; closures inside words are shorter
_SOUND_S = 0.9  # a laugh or a sigh
_RANGE_DB = 30.0  # sound this far below the loudest speech is silence
_QUIET_DB = -60.0


class WordTimer:
    """Estimated times of the words of one utterance, while its audio streams.

    Args:
        words: the words of the utterance, in order. Words with nothing to speak get the times of
            their neighbours.
        rate: the speed of the voice; `finish` updates it.
        utterance, begins_s: the utterance's index, and where in the turn's audio it begins.
    """

    def __init__(
        self,
        words: Sequence[SpokenWord],
        *,
        rate: SpeakingRate | None = None,
        utterance: int = 0,
        begins_s: float = 0.0,
    ) -> None:
        self._words = list(words)
        self._rate = rate or SpeakingRate()
        self._utterance = utterance
        self._begins_s = begins_s
        self._speech = _SpeechFrames()
        self._spoken = [index for index, word in enumerate(self._words) if word.spoken]
        self._lengths = [spoken_length(self._words[index]) for index in self._spoken]
        self._onsets = [0.0]  # expected speech seconds before each spoken word, and before the end
        for index, length in zip(self._spoken, self._lengths, strict=True):
            self._onsets[-1] += _SOUND_S * self._words[index].sounds_before
            self._onsets.append(self._onsets[-1] + length)
        pauses = [0, *(pause_after(self._words[index].spoken) for index in self._spoken)]
        self._pauses = PauseMatcher(self._onsets, pauses, self._rate)
        self._next = 0  # next spoken word to start
        self._out = 0  # next word to report
        self._clock = 0.0  # seconds of speech so far, pauses left out
        self._quiet = 0  # frames of silence up to now
        self._frame = 0
        self._start_s = 0.0  # of the newest started word
        self._speech_end_s = 0.0

    def push(self, samples: npt.NDArray[np.float32]) -> list[Word]:
        """Words that start within these samples, the next of the utterance's audio."""
        out: list[Word] = []
        for loud in self._speech.push(samples):
            self._frame += 1
            if loud:
                now = self._frame * FRAME_S
                if self._quiet >= _PAUSE_FRAMES:
                    out += self._match_pause(again=True)
                elif self._speech_end_s:
                    self._clock += self._quiet * FRAME_S
                self._quiet = 0
                self._clock += FRAME_S
                self._speech_end_s = now
                while self._next < len(self._spoken) and self._clock >= self._pauses.due(
                    self._next
                ):
                    out += self._start(max(now - FRAME_S, self._start_s))
            else:
                self._quiet += 1
                if self._speech_end_s and self._quiet == _PAUSE_FRAMES:
                    out += self._match_pause(again=False)
        return out

    def finish(self) -> list[Word]:
        """The remaining words; the last one ends where the speech ends. Call it after all audio."""
        end_s = self._speech_end_s or self._frame * FRAME_S
        out = self._spread(len(self._spoken), end_s, closing=True)
        out += self._report_until(len(self._words), max(end_s, self._start_s), 0.0)
        self._rate.learn(self._onsets[-1], self._clock)
        return out

    def _match_pause(self, *, again: bool) -> list[Word]:
        """Correct the clock by a pause that has begun or, with `again`, has ended, so that its
        length is known."""
        if not self._speech_end_s:
            return []
        anchor = self._pauses.pause(self._clock, self._quiet * FRAME_S, again=again)
        return self._spread(anchor, self._speech_end_s)

    # ---- reporting

    def _start(self, start_s: float) -> list[Word]:
        self._start_s = start_s
        length = self._lengths[self._next] * self._pauses.factor
        index = self._spoken[self._next]
        self._next += 1
        return self._report_until(index + 1, start_s, length)

    def _spread(self, until: int, end_s: float, *, closing: bool = False) -> list[Word]:
        """Start the words before `until` between the newest started word and `end_s`, by their
        lengths."""
        first = self._next
        if first >= until:
            return []
        base = max(0, first - 1)
        begin_s = min(self._start_s, end_s)
        span = self._onsets[until] - self._onsets[base]
        scale = (end_s - begin_s) / span if span > 0 else 0.0
        out: list[Word] = []
        for spoken in range(first, until):
            start_s = begin_s + (self._onsets[spoken] - self._onsets[base]) * scale
            self._start_s = max(self._start_s, start_s)
            self._next = spoken + 1
            length = max(0.0, min(self._lengths[spoken] * scale, end_s - self._start_s))
            if closing and spoken == until - 1:
                length = max(0.0, end_s - self._start_s)
            out += self._report_until(self._spoken[spoken] + 1, self._start_s, length)
        return out

    def _report_until(self, until: int, start_s: float, length: float) -> list[Word]:
        """Report the words up to `until`: the last of them has the length, silent ones before it
        have none."""
        out = []
        for index in range(self._out, until):
            word = self._words[index]
            end_s = start_s + (length if index == until - 1 and word.spoken else 0.0)
            out.append(
                Word(
                    word.written,
                    self._begins_s + start_s,
                    self._begins_s + max(start_s, end_s),
                    self._utterance,
                    word.space_after,
                )
            )
        self._out = max(self._out, until)
        return out


class _SpeechFrames:
    """Separates speech from silence, 10 ms at a time, by energy below the loudest so far."""

    def __init__(self) -> None:
        self._size = round(SAMPLE_RATE * FRAME_S)
        self._rest = np.zeros(0, np.float32)
        self._peak = -30.0

    def push(self, samples: npt.NDArray[np.float32]) -> list[bool]:
        if self._rest.size:
            samples = np.concatenate([self._rest, samples])
        count = samples.size // self._size
        self._rest = np.array(samples[count * self._size :], np.float32)
        if not count:
            return []
        frames = samples[: count * self._size].reshape(count, self._size)
        power = np.einsum("ij,ij->i", frames, frames) / self._size
        out = []
        for level in (10.0 * np.log10(power + 1e-10)).tolist():
            self._peak = max(self._peak, level)
            out.append(level > max(self._peak - _RANGE_DB, _QUIET_DB))
        return out
