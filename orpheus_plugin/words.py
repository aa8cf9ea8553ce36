"""When each word is spoken: an estimate that follows the audio while it streams.

Orpheus gives no alignment, so times are estimated: every word has an expected length from its syllables and
letters, the clock runs only while there is speech, pauses are matched to punctuation and pull the estimate back in
place, and the end of speech is the end of the last word. Nothing is delayed: a word is reported with the chunk in
which it is believed to start.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orpheus_plugin.utterance import SpokenWord

FRAME_S = 0.01
_PAUSE_FRAMES = 12  # silence this long is a pause; closures inside words are shorter
_SNAP_FRAMES = 25  # silence this long lies between words even where nothing is written
_SNAP_S = 0.2
_SOUND_S = 0.9  # a laugh or a sigh
_RANGE_DB = 30.0  # what is this far below the loudest speech is silence
_QUIET_DB = -60.0

_VOWELS = re.compile(r"[aeiouyаеёиоуыэюя]+")
_BIG_PAUSE = re.compile(r"[.!?…。！？｡؟।॥][\"'”’)\]]*$")
_SMALL_PAUSE = re.compile(r"[,;:，；：、،؛][\"'”’)\]]*$")


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word as it was written and its estimated time, in seconds from the start of the utterance's audio."""

    text: str
    start_s: float
    end_s: float
    space_after: bool = True


class SpeakingRate:
    """How fast a voice speaks, learnt from its utterances: real seconds for each expected second.

    Share one among the timers of a voice; it makes the first words of the next utterance more exact.
    """

    def __init__(self, factor: float = 1.0, *, trust_s: float = 4.0) -> None:
        self.factor = factor
        self._trust_s = trust_s

    def learn(self, expected_s: float, real_s: float) -> None:
        """Take in an utterance whose speech was expected to last `expected_s` and lasted `real_s`."""
        if expected_s < 0.5 or not 0.4 < real_s / expected_s < 2.5:
            return
        total = self._trust_s + expected_s
        self.factor = (self.factor * self._trust_s + real_s) / total
        self._trust_s = min(total, 30.0)


class WordTimer:
    """Estimated times of the words of one utterance, while its audio streams by.

    Args:
        words: the words of the utterance, in order. Those with nothing to speak ride along with their neighbour.
        sample_rate: of the audio that is pushed.
        rate: what is known of the voice's speed; learnt further at `finish`.
    """

    def __init__(
        self,
        words: Sequence[SpokenWord],
        *,
        sample_rate: int = 24000,
        rate: SpeakingRate | None = None,
    ) -> None:
        self._words = list(words)
        self._rate = rate or SpeakingRate()
        self._factor = self._rate.factor
        self._speech = _SpeechFrames(sample_rate)
        self._spoken = [index for index, word in enumerate(self._words) if word.spoken]
        self._lengths = [spoken_length(self._words[index]) for index in self._spoken]
        self._pauses = [_pause_after(self._words[index].spoken) for index in self._spoken]
        self._onsets = [0.0]  # expected speech seconds before each spoken word, and before the end
        for index, length in zip(self._spoken, self._lengths, strict=True):
            self._onsets[-1] += _SOUND_S * self._words[index].sounds_before
            self._onsets.append(self._onsets[-1] + length)
        self._next = 0  # next spoken word to start
        self._out = 0  # next word to report
        self._clock = 0.0  # seconds of speech so far, pauses left out
        self._anchor = 0  # a spoken word whose start is known ...
        self._anchor_clock = 0.0  # ... and the speech clock at that start
        self._anchored = True
        self._start_s = 0.0  # of the newest started word
        self._quiet = 0  # frames of silence up to now
        self._expected_s = 0.0  # matched so far: expected and real speech seconds
        self._real_s = 0.0
        self._trust_s = 2.5
        self._frame = 0
        self._speech_end_s = 0.0

    def push(self, samples: npt.NDArray[np.float32]) -> list[TimedWord]:
        """Words that start within these samples, the next of the utterance's audio."""
        out: list[TimedWord] = []
        for loud in self._speech.push(samples):
            self._frame += 1
            now = self._frame * FRAME_S
            if loud:
                if self._quiet < _PAUSE_FRAMES and self._speech_end_s:
                    self._clock += self._quiet * FRAME_S
                self._quiet = 0
                self._clock += FRAME_S
                self._speech_end_s = now
                while self._next < len(self._spoken) and self._due():
                    out += self._start(max(now - FRAME_S, self._start_s), final=False)
            else:
                self._quiet += 1
                if self._speech_end_s and self._quiet in (_PAUSE_FRAMES, _SNAP_FRAMES):
                    out += self._match_pause(snap=self._quiet == _SNAP_FRAMES)
        return out

    def finish(self) -> list[TimedWord]:
        """The words still to come, the last one ending where the speech ends. No more audio will be pushed."""
        end_s = self._speech_end_s or self._frame * FRAME_S
        out = self._spread(len(self._spoken), end_s, closing=True)
        out += self._report_until(len(self._words), max(end_s, self._start_s), 0.0)
        if self._onsets and self._clock:
            self._rate.learn(self._onsets[-1], self._clock)
        return out

    # ---- the clock ----------------------------------------------------------------------------------------------

    def _expected_clock(self, spoken: int) -> float:
        return self._anchor_clock + self._factor * (
            self._onsets[spoken] - self._onsets[self._anchor]
        )

    def _due(self) -> bool:
        """Whether the next word starts now. Behind punctuation a pause is waited for, within reason."""
        expected = self._expected_clock(self._next)
        if self._next != self._anchor and self._next:
            pause = self._pauses[self._next - 1]
            if pause:
                span = expected - self._anchor_clock
                expected += min(0.1 + 0.3 * span, 0.5) if pause == 2 else min(0.2 * span, 0.15)
        return self._clock >= expected

    def _match_pause(self, *, snap: bool) -> list[TimedWord]:
        """A pause has begun: find the word before which it stands and set the clock by it."""
        best, best_miss = 0, 1.0
        for spoken in range(max(self._anchor + 1, self._next - 1), len(self._spoken)):
            expected = self._expected_clock(spoken)
            miss = abs(expected - self._clock)
            span = expected - self._anchor_clock
            pause = self._pauses[spoken - 1]
            reach = 0.15 + 0.4 * span if pause == 2 else 0.1 + 0.25 * span if pause else _SNAP_S
            if (pause or snap) and miss / reach < best_miss:
                best, best_miss = spoken, miss / reach
            if expected > self._clock + 3.0:
                break
        if not best:
            return []
        expected = self._onsets[best] - self._onsets[self._anchor]
        if self._pauses[best - 1]:
            self._expected_s += expected
            self._real_s += self._clock - self._anchor_clock
            self._factor = (self._rate.factor * self._trust_s + self._real_s) / (
                self._trust_s + self._expected_s
            )
        out = self._spread(best, self._speech_end_s) if best > self._next else []
        self._anchor, self._anchor_clock = best, self._clock
        return out

    # ---- reporting ----------------------------------------------------------------------------------------------

    def _start(self, start_s: float, *, final: bool) -> list[TimedWord]:
        self._start_s = start_s
        length = self._lengths[self._next] * self._factor
        index = self._spoken[self._next]
        self._next += 1
        return self._report_until(index + 1, start_s, length)

    def _spread(self, until: int, end_s: float, *, closing: bool = False) -> list[TimedWord]:
        """Start the words before `until` between the newest started word and `end_s`, by their lengths."""
        first = self._next
        if first >= until:
            return []
        base = max(0, first - 1)
        begin_s = min(self._start_s, end_s)
        span = self._onsets[until] - self._onsets[base]
        scale = (end_s - begin_s) / span if span > 0 else 0.0
        out: list[TimedWord] = []
        for spoken in range(first, until):
            start_s = begin_s + (self._onsets[spoken] - self._onsets[base]) * scale
            self._start_s = max(self._start_s, start_s)
            self._next = spoken + 1
            length = max(0.0, min(self._lengths[spoken] * scale, end_s - self._start_s))
            if closing and spoken == until - 1:
                length = max(0.0, end_s - self._start_s)
            out += self._report_until(self._spoken[spoken] + 1, self._start_s, length)
        return out

    def _report_until(self, until: int, start_s: float, length: float) -> list[TimedWord]:
        """Report the words up to `until`: the last of them has the length, silent ones before it have none."""
        out = []
        for index in range(self._out, until):
            word = self._words[index]
            end_s = start_s + (length if index == until - 1 and word.spoken else 0.0)
            out.append(TimedWord(word.written, start_s, end_s, word.space_after))
        self._out = max(self._out, until)
        return out


class _SpeechFrames:
    """Tells speech from silence, 10 ms at a time, by energy below the loudest so far."""

    def __init__(self, sample_rate: int) -> None:
        self._size = round(sample_rate * FRAME_S)
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


def spoken_length(word: SpokenWord) -> float:
    """Seconds a word is expected to take, pauses left out, at the default speaking rate."""
    return sum(_part_length(part) for part in word.spoken.split()) or 0.05


def _part_length(part: str) -> float:
    seconds = 0.0
    latin = ""
    for c in part.lower():
        if not c.isalnum():
            continue
        if "\u3040" <= c <= "\u30ff" or "\u3400" <= c <= "\u9fff":
            seconds += 0.2
        elif "\uac00" <= c <= "\ud7a3":
            seconds += 0.17
        elif c.isdigit():
            seconds += 0.3
        elif "\u0900" <= c <= "\u0dff":
            seconds += 0.11
        else:
            latin += c
    if latin:
        plain = unicodedata.normalize("NFD", latin) if not latin.isascii() else latin
        syllables = len(_VOWELS.findall(plain))
        if syllables > 1 and plain.endswith("e") and not plain.endswith(("le", "ee")):
            syllables -= 1
        seconds += 0.02 + 0.11 * max(1, syllables) + 0.027 * len(latin)
    return seconds


def _pause_after(spoken: str) -> int:
    if _BIG_PAUSE.search(spoken):
        return 2
    return 1 if _SMALL_PAUSE.search(spoken) else 0
