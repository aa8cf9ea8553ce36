"""How many turns may speak at once without an underrun in any of them, estimated from the engine's
work.

What counts is the speed of one turn when n are being generated: seconds of audio a second. A step
of the engine has a part that does not grow with n and one that does, so a second of audio takes a
turn `cost * (1 + slope * (n - 1))` seconds. `slope` depends on the model and the machine and is
averaged over minutes. `cost` changes with other programs on this machine: it follows slow moments
at once and fast ones within seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

SPARE = 1.12
"""The RTFx that every turn must be expected to have."""

TICK_S = 0.5
"""Seconds between two observations of the running turns."""

TIGHT_S = 0.1
"""No turn is admitted while a listener who has played audio for a second has less than this
left."""

SLOW = 1.05
SLOWER, FASTER = 0.5, 0.06
"""Weight of a new figure in `cost`, if it is higher by more than SLOW, and otherwise: slow moments
count more, because they are audible, but chance alone must not."""

MEMORY = 0.997
"""Weight that older observations keep in `slope` with each new one: half of it after two
minutes."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One turn at the time of an observation.

    Attributes:
        stretch_s: seconds of audio since its listener last had no audio because there was no text.
        ahead_s: seconds of it that are not played yet.
        generating: whether more of it is being generated.
    """

    stretch_s: float
    ahead_s: float
    generating: bool


@dataclass(frozen=True, slots=True)
class Work:
    """The work of an engine so far, of all turns, including those that ended.

    Attributes:
        audio_s: seconds of audio it made.
        busy_s: sum over the turns of the seconds in which they were generated, without waiting for
            text.
    """

    audio_s: float
    busy_s: float


class Admission:
    """The number of turns that are admitted. Not thread-safe, except for reading `limit`.

    Args:
        ceiling: the engine's places; also the limit while nothing is measured or observed.
    """

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.limit = ceiling
        self._cost: float | None = None
        self._slope = 1.0  # as if n turns took n times as long
        # Weighted sums over the observations, with y the seconds for a second of audio: 1, n, y,
        # and of the steps from one observation to the next dn * dn, dn * dy. A machine that becomes
        # slower meanwhile is not taken for one with a large slope.
        self._sums = [0.0] * 5
        self._last: tuple[float, float] | None = None
        self._most = 1.0  # turns seen at once
        self._tight = False
        self._done = Work(0.0, 0.0)
        self._seen_at = -math.inf

    def learn(self, turns: float, speed: float) -> None:
        """On average `turns` at once made `speed` seconds of audio a second, all together."""
        y = turns / max(speed, 1e-3)
        n0, y0 = self._last or (turns, y)
        self._last = turns, y
        step = turns - n0
        for index, value in enumerate((1.0, turns, y, step * step, step * (y - y0))):
            self._sums[index] = MEMORY * self._sums[index] + value
        self._most = max(self._most, turns)
        self._fit_slope()
        cost = y / self._growth(turns)
        known = cost if self._cost is None else self._cost
        self._cost = known + (SLOWER if cost > SLOW * known else FASTER) * (cost - known)
        self._settle()

    def suffices(self, turns: int) -> bool:
        """Whether this many are expected to stay in real time."""
        return self._cost is None or self._cost * self._growth(turns) * SPARE <= 1

    def look(self, turns: Sequence[Progress], done: Work, *, now: float | None = None) -> None:
        """Learn from the engine's work since the last observation. Admit no turn while a listener
        is about to have an underrun."""
        now = time.monotonic() if now is None else now
        passed = now - self._seen_at
        audio_s, busy_s = done.audio_s - self._done.audio_s, done.busy_s - self._done.busy_s
        self._done, self._seen_at = done, now
        if passed < 4 * TICK_S and busy_s >= passed / 2:
            spoke = max(1.0, busy_s / passed)  # on the average of that time
            self.learn(spoke, audio_s / busy_s * spoke)
        self._tight = any(t.generating and t.stretch_s > 1.0 and t.ahead_s < TIGHT_S for t in turns)
        self._settle()
        if self._tight:
            self.limit = min(self.limit, len(turns))

    def _growth(self, turns: float) -> float:
        return 1 + self._slope * (turns - 1)

    def _fit_slope(self) -> None:
        """By least squares, if there is enough data."""
        weight, n, y, spread, rise = self._sums
        if spread < 0.5:
            return
        rise /= spread
        alone = y / weight - rise * (n / weight - 1)
        self._slope = min(1.0, max(0.0, rise / alone)) if alone > 0 else 1.0

    def _settle(self) -> None:
        limit = max(1, self.ceiling)
        if self._cost is not None:
            room = 1 / (self._cost * SPARE)  # times as long as one turn alone may take
            if self._slope * (limit - 1) > room - 1:
                limit = 1 + int(max(0.0, room - 1) / self._slope)
        # More would be extrapolated too far.
        self.limit = min(limit, max(2, round(2 * self._most)))
