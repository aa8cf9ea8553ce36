"""When each word is spoken: an estimate that follows the audio while it streams.

Orpheus gives no alignment, so times are estimated: every word has an expected length from its syllables and
letters, the clock runs only while there is speech, pauses are matched to punctuation and pull the estimate back in
place, and the end of speech is the end of the last word. Nothing is delayed: a word is reported with the chunk in
which it is believed to start.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from orpheus_plugin.text.utterance import SpokenWord

FRAME_S = 0.01
_PAUSE_FRAMES = 10  # silence this long is a pause; closures inside words are shorter
_SKIP_COST = (0.0, 1.2, 5.0)  # of a boundary without a pause: no mark, comma, full stop
_IGNORED = (1.6, 8.0)  # cost of taking a pause for none, and more for each second over 0.1 s
_BARE = (3.0, 20.0)  # the same for a pause between words without a mark
_MARKED = (0.0, 0.4, 0.0)  # of a pause at a comma, at a full stop
_TRUST_S = 2.5  # expected speech that the rate known beforehand is worth
_RATE_OFF = 0.15  # how far a voice not heard yet is from the default rate, relatively
_MEMORY = 4  # pauses looked back at
_BEAM = 8
_HURRY = 0.6  # words that were held back too long follow this fast
_SOUND_S = 0.9  # a laugh or a sigh
_RANGE_DB = 30.0  # what is this far below the loudest speech is silence
_QUIET_DB = -60.0

_VOWELS = re.compile(r"[aeiouyаеёиоуыэюя]+")
_UNSTRESSED_LIST = (
    "the a an of to in and is it i you he his her for that was on at with as or but be are my your their she they we by "
    "from"
)
_UNSTRESSED = frozenset(_UNSTRESSED_LIST.split())
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

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.heard_s = 0.0

    def learn(self, expected_s: float, real_s: float) -> None:
        """Take in an utterance whose speech was expected to last `expected_s` and lasted `real_s`."""
        if expected_s < 0.5 or not 0.4 < real_s / expected_s < 2.5:
            return
        known = self.heard_s + _TRUST_S
        self.factor = (self.factor * known + real_s) / (known + expected_s)
        self.heard_s = min(self.heard_s + expected_s, 30.0)


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
        self._speech = _SpeechFrames(sample_rate)
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
        self._last_clock = 0.0  # when the newest word started
        self._quiet = 0  # frames of silence up to now
        self._frame = 0
        self._start_s = 0.0  # of the newest started word
        self._speech_end_s = 0.0

    def push(self, samples: npt.NDArray[np.float32]) -> list[TimedWord]:
        """Words that start within these samples, the next of the utterance's audio."""
        out: list[TimedWord] = []
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

    def finish(self) -> list[TimedWord]:
        """The words still to come, the last one ending where the speech ends. No more audio will be pushed."""
        end_s = self._speech_end_s or self._frame * FRAME_S
        out = self._spread(len(self._spoken), end_s, closing=True)
        out += self._report_until(len(self._words), max(end_s, self._start_s), 0.0)
        self._rate.learn(self._onsets[-1], self._clock)
        return out

    def _due(self) -> float:
        """What the speech clock shows when the next word starts; words held back do not come in a burst."""
        due = self._pauses.due(self._next)
        if not self._next or self._pauses.starts_at(self._next):
            return due
        after_last = self._lengths[self._next - 1] * self._pauses.factor * _HURRY
        return max(due, self._last_clock + after_last)

    def _match_pause(self, *, again: bool) -> list[TimedWord]:
        """Set the clock by a pause that has begun or, `again`, has ended and is known whole."""
        if not self._speech_end_s:
            return []
        anchor = self._pauses.pause(self._clock, self._quiet * FRAME_S, again=again)
        return self._spread(anchor, self._speech_end_s)

    # ---- reporting ----------------------------------------------------------------------------------------------

    def _start(self, start_s: float) -> list[TimedWord]:
        self._start_s = start_s
        self._last_clock = self._clock
        length = self._lengths[self._next] * self._pauses.factor
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
            self._last_clock = self._clock
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


class _Anchor(NamedTuple):
    """A guess: this spoken word started when the speech clock stood so."""

    cost: float
    word: int
    clock: float
    factor: float


class PauseMatcher:
    """Finds where in the text the pauses of the audio stand: the cheapest assignment of pauses to word boundaries.

    A boundary without a mark seldom has a pause, a full stop seldom lacks one, and the speech between two pauses
    takes about as long as the words between two boundaries are expected to.
    """

    def __init__(self, onsets: Sequence[float], pauses: Sequence[int], rate: SpeakingRate) -> None:
        self._onsets = onsets
        self._kinds = pauses  # before each spoken word: 2 full stop, 1 comma, 0 nothing
        self._prior = rate.factor
        self._trust_s = _TRUST_S + min(rate.heard_s, 8.0)
        self._skipped = list(accumulate((_SKIP_COST[kind] for kind in pauses), initial=0.0))
        self._layers: list[list[_Anchor]] = [[_Anchor(0.0, 0, 0.0, rate.factor)]]
        self._ignored: list[float] = [0.0]  # cost of taking each pause for none
        self._best = self._layers[0][0]

    @property
    def factor(self) -> float:
        """Real seconds of speech for each expected second, as heard so far."""
        return self._best.factor

    def starts_at(self, word: int) -> bool:
        """Whether the last pause stands directly before this word."""
        return word == self._best.word

    def due(self, word: int) -> float:
        """What the speech clock shows when this word starts. Behind a mark a pause is waited for, within reason."""
        best = self._best
        span = best.factor * (self._onsets[word] - self._onsets[best.word])
        if word == best.word:
            return best.clock
        kind = self._kinds[word]
        wait = min(0.4 + 0.5 * span, 1.5) if kind == 2 else min(0.25 * span, 0.3) if kind else 0.0
        return best.clock + span + wait

    def pause(self, clock: float, length_s: float, *, again: bool) -> int:
        """Take in a pause, or `again` the last one with its final length; returns the word that comes behind it.

        If the pause is best taken for none, that is the word of the last pause that was one.
        """
        if again and len(self._layers) > 1:
            self._layers.pop()
            self._ignored.pop()
        layer: dict[int, _Anchor] = {}
        passed = 0.0
        for earlier, ignored in zip(
            reversed(self._layers[-_MEMORY:]), reversed(self._ignored[-_MEMORY:]), strict=True
        ):
            for anchor in earlier:
                self._reach(anchor, passed, clock, length_s, layer)
            passed += ignored
        self._layers.append(sorted(layer.values())[:_BEAM])
        self._ignored.append(_IGNORED[0] + min(_IGNORED[1] * max(0.0, length_s - 0.1), 10.0))
        self._best = self._cheapest()
        return self._best.word

    def _reach(
        self,
        anchor: _Anchor,
        passed: float,
        clock: float,
        length_s: float,
        layer: dict[int, _Anchor],
    ) -> None:
        """Extend a guess by each word that may stand behind a pause at this clock."""
        real = clock - anchor.clock
        rate_off = _RATE_OFF * math.sqrt(_TRUST_S / (self._trust_s + self._onsets[anchor.word]))
        for word in range(anchor.word + 1, len(self._onsets) - 1):
            expected = anchor.factor * (self._onsets[word] - self._onsets[anchor.word])
            deviation = math.hypot(0.05, 0.075 * math.sqrt(word - anchor.word), rate_off * expected)
            off = (real - expected) / deviation
            if off > 3.5:
                continue
            if off < -3.5:
                break
            kind = self._kinds[word]
            cost = anchor.cost + passed + 0.5 * off * off + math.log(deviation / 0.05)
            cost += self._skipped[word] - self._skipped[anchor.word + 1]
            cost += (
                2.0 + min(8.0 * max(0.0, length_s - 0.12), 5.0) if not kind else 0.3 * (2 - kind)
            )
            if word not in layer or cost < layer[word].cost:
                factor = (self._prior * self._trust_s + clock) / (
                    self._trust_s + self._onsets[word]
                )
                layer[word] = _Anchor(cost, word, clock, factor)

    def _cheapest(self) -> _Anchor:
        passed = 0.0
        best = self._best
        best_cost = math.inf
        for layer, ignored in zip(
            reversed(self._layers[-_MEMORY:]), reversed(self._ignored[-_MEMORY:]), strict=True
        ):
            for anchor in layer[:1]:
                if anchor.cost + passed < best_cost:
                    best, best_cost = anchor, anchor.cost + passed
            passed += ignored
        return best


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
        if syllables > 1 and re.search(r"[^td]ed$", plain):
            syllables -= 1
        seconds += 0.06 + 0.07 * max(1, syllables) + 0.03 * len(latin)
        if latin in _UNSTRESSED:
            seconds -= 0.075
    return seconds


def pause_after(spoken: str) -> int:
    """2 for the pause of a full stop, 1 for that of a comma, else 0."""
    if _BIG_PAUSE.search(spoken):
        return 2
    return 1 if _SMALL_PAUSE.search(spoken) else 0
