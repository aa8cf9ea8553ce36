"""How long to wait for speech that is due. The language model's time does not count."""

from __future__ import annotations

import asyncio

from orpheus_plugin.engine.playout import PlayoutClock


class StallTimeout:
    """Moves the deadline of an `asyncio.timeout`.

    Speech is due from the first text that can be spoken until the first sound, and again from the
    end of the text until the end of the speech. The time counts from when the text is there, or
    from when a listener who plays at once has heard all that was delivered: an engine may pause
    while it is far ahead of the listener.
    """

    def __init__(self, limit: asyncio.Timeout, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._now = asyncio.get_running_loop().time
        self._playback = PlayoutClock(self._now)
        self._ended = False

    def connecting(self) -> None:
        self._from(self._now())

    def connected(self) -> None:
        """From now on only text starts the timeout."""
        self._limit.reschedule(None)

    def speakable(self) -> None:
        """There is text that can be spoken."""
        if not self._playback.begun and self._limit.when() is None:
            self._from(self._now())

    def ended(self) -> None:
        """There is no more text."""
        self._ended = True
        if self._limit.when() is None:
            self._from(max(self._now(), self._playback.ends_at))

    def audio(self, seconds: float) -> None:
        self._playback.play(seconds)
        if self._ended:
            self._from(self._playback.ends_at)
        else:
            self._limit.reschedule(None)

    def _from(self, start: float) -> None:
        self._limit.reschedule(start + self._seconds)
