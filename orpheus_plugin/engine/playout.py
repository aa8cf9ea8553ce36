"""The playout clock: how much audio a listener who plays it as it comes still has to play."""

from __future__ import annotations

import time
from collections.abc import Callable


class PlayoutClock:
    """Playback by a listener who plays each piece of audio at once, or after the audio that still
    plays.

    It only computes. A call costs less than a microsecond. One thread writes; any thread may read.

    Args:
        now: the time source, in seconds: time.monotonic, a loop's `time`, or a test's own.

    Attributes:
        begun: whether any audio has come.
        ends_at: when, by `now`, all audio is played: in the past while the listener waits. Before
            the first audio it is the time at which the clock was made.
    """

    __slots__ = ("_now", "begun", "ends_at")

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.begun = False
        self.ends_at = now()

    @property
    def ahead_s(self) -> float:
        """Seconds of audio that are not played yet; negative if the listener has waited for so
        long. 0 before any audio."""
        return self.ends_at - self._now() if self.begun else 0.0

    def play(self, seconds: float) -> float:
        """Add audio. Returns the seconds of silence right before it; 0 for the first audio."""
        now = self._now()
        gap = now - self.ends_at if self.begun else 0.0
        self.begun = True
        self.ends_at = max(self.ends_at, now) + seconds
        return max(0.0, gap)

    def delay(self, seconds: float) -> None:
        """Delay the audio that is not played yet: other audio plays first, or playback pauses."""
        self.begun = True
        self.ends_at = max(self.ends_at, self._now()) + seconds

    def stop(self) -> float:
        """Drop the audio that is not played yet. Returns its length in seconds."""
        dropped = max(0.0, self.ahead_s)
        self.ends_at -= dropped
        return dropped
