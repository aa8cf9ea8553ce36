"""What a listener who plays audio as it comes has yet to hear: the one clock of playback."""

from __future__ import annotations

import time
from collections.abc import Callable


class PlayoutClock:
    """Playback by a listener who plays each piece of audio at once, or behind what still plays.

    It computes; it plays nothing. A call costs less than a microsecond. Write from one thread; any
    thread may read.

    Args:
        now: the time source, in seconds: time.monotonic, a loop's `time`, or a test's own.

    Attributes:
        begun: whether any audio came.
        ends_at: when, by `now`, all audio that came has been heard: the past while the listener
            waits. Before the first audio it is the time at which the clock was made.
    """

    __slots__ = ("_now", "begun", "ends_at")

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.begun = False
        self.ends_at = now()

    @property
    def ahead_s(self) -> float:
        """Seconds of audio that are not heard yet; negative: so long the listener has waited. 0
        before any audio."""
        return self.ends_at - self._now() if self.begun else 0.0

    def play(self, seconds: float) -> float:
        """So much audio comes. Returns the seconds of silence the listener heard right before it; 0
        before any audio."""
        now = self._now()
        gap = now - self.ends_at if self.begun else 0.0
        self.begun = True
        self.ends_at = max(self.ends_at, now) + seconds
        return max(0.0, gap)

    def delay(self, seconds: float) -> None:
        """The listener hears what there is later by so much: other audio plays first, or playback
        pauses."""
        self.begun = True
        self.ends_at = max(self.ends_at, self._now()) + seconds

    def stop(self) -> float:
        """Playback is interrupted: what is not heard yet is dropped. Returns the seconds of it."""
        dropped = max(0.0, self.ahead_s)
        self.ends_at -= dropped
        return dropped
