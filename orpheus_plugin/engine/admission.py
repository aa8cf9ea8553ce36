"""How many turns may speak at once without anyone running dry: measured when the engine warms up, corrected while it runs.

The engine's speed is what counts: seconds of audio it makes per second, all turns together, at a number of turns. It is
known at the numbers that were seen; between them it is taken to be a straight line, beyond them flat. And one step at a time:
only so many are taken as were seen to do well together, and one more (or a quarter more).
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)

SPARE = 1.25
"""Every turn must have this many times real time."""

TICK_S = 0.5
"""How often the running turns are looked at."""

TIGHT_S = 0.15
"""A listener with less audio than this before him, who has been hearing some for a second, is about to hear a gap."""

RECOVER_S = 2.0
"""After such a moment one more turn is taken for every so many seconds without another."""

_RISE, _FALL = 0.1, 0.5
"""Of a new figure in what is known. A machine that wavers is judged by its slow moments: those are what a listener hears."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One turn as it is looked at.

    Attributes:
        stretch_s: seconds of audio since its listener last had nothing to hear for want of text.
        ahead_s: seconds of it not heard yet.
        generating: whether more of it is being generated.
    """

    stretch_s: float
    ahead_s: float
    generating: bool


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine did so far, all turns together, those that ended included.

    Attributes:
        audio_s: seconds of audio it made.
        busy_s: seconds its turns were being generated, each counted by itself; what they waited for text is not in it.
    """

    audio_s: float
    busy_s: float


class Admission:
    """The number of turns that are taken. Not thread-safe but for reading `limit`.

    Args:
        ceiling: what the engine has room for; also the limit while nothing is known.
    """

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self._limit = ceiling
        self._speed: dict[int, float] = {}
        self._proven = 0
        self._brake = math.inf
        self._last_tight = 0.0
        self._done = Work(0.0, 0.0)
        self._seen_at = -math.inf

    @property
    def limit(self) -> int:
        return self._limit

    def learn(self, turns: int, speed: float) -> None:
        """`turns` at once came to `speed` seconds of audio per second, all together."""
        known = self._speed.get(turns, speed)
        speed = known + (_RISE if speed > known else _FALL) * (speed - known)
        self._speed[turns] = speed
        # More at once are never slower altogether. What says so is of another hour of this machine.
        for other, then in self._speed.items():
            self._speed[other] = max(then, speed) if other > turns else min(then, speed)
        if speed >= SPARE * turns:
            self._proven = max(self._proven, turns)
        else:
            self._proven = min(self._proven, turns - 1)
        self._settle()

    def suffices(self, turns: int) -> bool:
        """Whether this many are expected to stay in real time."""
        return self.speed(turns) >= SPARE * turns

    def speed(self, turns: int) -> float:
        """Expected seconds of audio per second with this many turns; infinite while nothing is known."""
        if not self._speed:
            return math.inf
        points = [(0, 0.0), *sorted(self._speed.items())]
        for (below, low), (above, high) in itertools.pairwise(points):
            if turns <= above:
                return low + (high - low) * (turns - below) / (above - below)
        return points[-1][1]

    def look(self, turns: Sequence[Progress], done: Work, *, now: float | None = None) -> None:
        """Compare with the last look: learn the speed, and hold back where a listener is about to run dry."""
        now = time.monotonic() if now is None else now
        passed = now - self._seen_at
        audio_s, busy_s = done.audio_s - self._done.audio_s, done.busy_s - self._done.busy_s
        self._done, self._seen_at = done, now
        if passed < 4 * TICK_S and busy_s >= passed / 2:
            spoke = round(busy_s / passed) or 1  # on the average of that time
            self.learn(spoke, audio_s / busy_s * spoke)
        if any(t.generating and t.stretch_s > 1.0 and t.ahead_s < TIGHT_S for t in turns):
            self._last_tight = now
            self._brake = max(1, len(turns) - 1)
        elif self._brake < self.ceiling and now - self._last_tight >= RECOVER_S:
            self._last_tight = now
            self._brake += 1
        self._settle()

    def _settle(self) -> None:
        enough = itertools.takewhile(self.suffices, range(1, self.ceiling + 1))
        limit = int(min(max(enough, default=1), self._brake))
        if self._speed:
            limit = min(limit, max(self._proven + 1, self._proven * 5 // 4))
        if limit != self._limit:
            logger.info("%d turns at once (%d before)", limit, self._limit)
            self._limit = limit
