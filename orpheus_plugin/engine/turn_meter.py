"""What one turn costs while it speaks, and how far its listener is."""

from __future__ import annotations

import time

from orpheus_plugin.engine.playout import PlayoutClock
from orpheus_plugin.events import TurnStats

UNDERRUN_S = 0.02
"""A shorter gap is not counted: players take audio in pieces of this length."""


class TurnMeter:
    """Fills a turn's stats. On the engine's loop; a call costs about a microsecond.

    Attributes:
        stats: of the turn.
        clock: of a listener who plays at once.
    """

    def __init__(self) -> None:
        self.stats = TurnStats()
        self.clock = PlayoutClock()
        self._first_text_at: float | None = None
        self._busy_since: float | None = None
        self._stretch_began_s = 0.0

    def text(self, chars: int) -> None:
        """Text has come."""
        if self._first_text_at is None:
            self._first_text_at = time.monotonic()
        self.stats.text_chars += chars

    def busy(self, busy: bool) -> None:
        """Whether an utterance of the turn is in the engine from now on."""
        self.stats.busy_s = self.busy_s
        self._busy_since = time.monotonic() if busy else None

    def audio(self, seconds: float, ready_at: float) -> None:
        """So much audio is delivered, of an utterance whose text was there at `ready_at`."""
        silent_since = self.clock.ends_at
        if silence_s := self.clock.play(seconds):
            if silent_since < ready_at:  # there was no text to speak
                self._stretch_began_s = self.stats.audio_s
            elif silence_s >= UNDERRUN_S:
                self.stats.underruns += 1
        if self.stats.ttfa_s is None and self._first_text_at is not None:
            self.stats.ttfa_s = time.monotonic() - self._first_text_at
        self.stats.audio_s += seconds

    @property
    def stretch_s(self) -> float:
        """Seconds of audio since its listener last had no audio because there was no text."""
        return self.stats.audio_s - self._stretch_began_s

    @property
    def busy_s(self) -> float:
        """Seconds during which an utterance of it was in the engine."""
        since = self._busy_since
        return self.stats.busy_s + (time.monotonic() - since if since is not None else 0.0)
