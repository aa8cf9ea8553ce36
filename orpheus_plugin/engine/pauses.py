"""Where in the text the pauses of the audio are, and how fast a voice speaks: the arithmetic of
word times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

_SKIP_COST = (0.0, 1.2, 5.0)  # cost of a boundary without a pause: no mark, comma, full stop
_IGNORED = (1.6, 8.0)  # cost of ignoring a pause, and more for each second over 0.1 s
_TRUST_S = 2.5  # weight of the rate known beforehand, in seconds of expected speech
_RATE_OFF = 0.15  # typical relative difference of a new voice from the default rate
_MEMORY = 4  # earlier pauses that are considered
_BEAM = 8


class SpeakingRate:
    """How fast a voice speaks, learned from its utterances: real seconds for each expected second.

    Shared by the timers of a voice, so that the first words of the next utterance are more exact.
    """

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.heard_s = 0.0

    def learn(self, expected_s: float, real_s: float) -> None:
        """Learn from an utterance whose speech was expected to last `expected_s` and lasted
        `real_s`."""
        if expected_s < 0.5 or not 0.4 < real_s / expected_s < 2.5:
            return
        known = self.heard_s + _TRUST_S
        self.factor = (self.factor * known + real_s) / (known + expected_s)
        self.heard_s = min(self.heard_s + expected_s, 30.0)


class _Anchor(NamedTuple):
    """A hypothesis: this spoken word started at this time of the speech clock."""

    cost: float
    word: int
    clock: float
    factor: float


class PauseMatcher:
    """Finds where in the text the pauses of the audio are: the cheapest assignment of pauses to
    word boundaries.

    A boundary without a mark seldom has a pause, a full stop seldom lacks one, and the speech
    between two pauses takes about as long as the words between two boundaries are expected to.
    """

    def __init__(self, onsets: Sequence[float], pauses: Sequence[int], rate: SpeakingRate) -> None:
        self._onsets = onsets
        self._kinds = pauses  # before each spoken word: 2 full stop, 1 comma, 0 nothing
        self._prior = rate.factor
        self._trust_s = _TRUST_S + min(rate.heard_s, 8.0)
        self._skipped = list(accumulate((_SKIP_COST[kind] for kind in pauses), initial=0.0))
        self._layers: list[list[_Anchor]] = [[_Anchor(0.0, 0, 0.0, rate.factor)]]
        self._ignored: list[float] = [0.0]  # cost of ignoring each pause
        self._best = self._layers[0][0]

    @property
    def factor(self) -> float:
        """Real seconds of speech for each expected second, so far."""
        return self._best.factor

    def due(self, word: int) -> float:
        """Time of the speech clock when this word starts. After a mark a pause is waited for, up to
        a limit."""
        best = self._best
        span = best.factor * (self._onsets[word] - self._onsets[best.word])
        if word == best.word:
            return best.clock
        kind = self._kinds[word]
        wait = min(0.4 + 0.5 * span, 1.5) if kind == 2 else min(0.25 * span, 0.3) if kind else 0.0
        return best.clock + span + wait

    def pause(self, clock: float, length_s: float, *, again: bool) -> int:
        """Add a pause, or with `again` the last one with its final length; returns the word that
        comes after it.

        If the pause is best ignored, that is the word of the last pause that was not.
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
        """Extend a hypothesis by each word that may follow a pause at this time."""
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
