"""The prebuffer: holds back the first audio of a turn if the engine is hardly faster than real
time, so that there are no underruns.

Players and transports play audio when it comes. A fast engine is always ahead of them; one with an
RTFx of 1.2 falls behind at every delay, most of all in a turn's first second. So a turn begins when
there is as much audio as the last turns needed: almost none on a GPU. The engine does this once,
for every protocol and adapter.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from orpheus_plugin.engine.playout import PlayoutClock
from orpheus_plugin.events import TurnEvent

FIRST_S = 0.05
"""Assumed before the first turn, in seconds of audio: a fast engine makes it at once."""

GRAIN_S = 0.03
"""Added to the need, because players take audio in pieces."""

MOST_S = 0.3
"""The most: a longer wait is worse than an underrun."""

AGAIN_S = 0.1
"""Held back after an underrun within a sentence, so that there is one gap instead of many."""

REMEMBERED = 8
"""The number of last turns that count."""


class Prebuffer:
    """How much audio the turns of one engine begin with. For one event loop."""

    def __init__(self) -> None:
        self._needs: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def size_s(self) -> float:
        """Seconds of audio a turn begins with."""
        return min(MOST_S, max(self._needs, default=FIRST_S) + GRAIN_S)

    def learn(self, need_s: float) -> None:
        """A turn needed this much audio at its beginning to have no underrun."""
        self._needs.append(max(0.0, need_s))


class Outlet:
    """Passes the events of one turn on, some of them later. An event costs a few microseconds.

    Audio that comes while the listener has none is held back until there is enough of it, or for as
    long as that would play. Words stay before their audio.

    Args:
        prebuffer: of the engine; it learns at `close` what this turn needed.
        clock: of the turn's listener; the receiver of the events plays their audio there.
        hand_on: called with events to deliver now, and the seconds of audio in them.

    Attributes:
        held_s: seconds of audio held back now.
    """

    def __init__(
        self,
        prebuffer: Prebuffer,
        clock: PlayoutClock,
        hand_on: Callable[[Sequence[TurnEvent], float], None],
    ) -> None:
        self._prebuffer = prebuffer
        self._clock = clock
        self._hand_on = hand_on
        self._held: list[TurnEvent] = []
        self.held_s = 0.0
        self._enough_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._utterance = -1
        self._began_with_s = 0.0  # when the utterance began, or continued after a gap
        self._need_s: float | None = None

    def push(self, events: Sequence[TurnEvent], seconds: float, utterance: int) -> None:
        """Events with so much audio of an utterance."""
        ahead_s = self._clock.ahead_s
        goes_on = utterance == self._utterance
        self._utterance = utterance
        if self._timer is None:
            if goes_on:
                self._need_s = max(self._need_s or 0.0, self._began_with_s - ahead_s)
            if ahead_s <= 0:
                self._enough_s = AGAIN_S if goes_on else self._prebuffer.size_s
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(self._enough_s, self.flush)
            elif not goes_on:
                self._began_with_s = ahead_s + seconds
        self._held += events
        self.held_s += seconds
        if self._timer is None or self.held_s >= self._enough_s:
            self.flush()

    def flush(self) -> None:
        """Pass on what is held back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._began_with_s = self.held_s
        if self._held:
            events, seconds = self._held, self.held_s
            self._held, self.held_s = [], 0.0
            self._hand_on(events, seconds)

    def close(self) -> None:
        """Drop what is held back. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._held.clear()
        if self._need_s is not None:
            self._prebuffer.learn(self._need_s)
            self._need_s = None
