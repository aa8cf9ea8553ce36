"""One audio context's speech: the turns it is made of and the clock of its listener; and what a listener has yet to hear."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from orpheus_plugin.turn import Turn

FLUSH_AHEAD_S = 2.0
"""A sentence waits for a neighbour to be spoken with until this long before the listener would run dry."""

CHARS_PER_S = 25.0
"""No voice speaks faster: the least audio to expect from text that is being generated."""


class Speech:
    """What one audio context says.

    Usually one turn. Another follows it when settings change in mid-reply, or when the turn is full or has failed.
    """

    def __init__(self, context_id: str) -> None:
        self.context_id = context_id
        self.turn: Turn | None = None  # takes text
        self.turns: asyncio.Queue[Turn | None] = asyncio.Queue()
        self.unfinished: list[Turn] = []
        self.refused = False
        self.finished = False
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        # When its audio is heard, in seconds of time.monotonic().
        self.begins_at: float | None = None
        self.audio_s = 0.0
        self.pauses_s = 0.0
        self.held_chars = 0  # text of the turn that may still wait for more
        self._flushed_chars = 0

    @property
    def ahead_s(self) -> float:
        """Seconds of audio the listener still has."""
        if self.begins_at is None:
            return self.audio_s
        return self.begins_at + self.audio_s + self.pauses_s - time.monotonic()

    def next_turn(self, turn: Turn) -> None:
        self.turn = turn
        self.unfinished.append(turn)
        self.turns.put_nowait(turn)

    def end_turn(self) -> None:
        """No more text for the turn; later text begins another one."""
        self.stop_timer()
        if self.turn is not None:
            self.turn.end()
            self.turn = None

    def finish(self) -> None:
        """No more text for the context."""
        if not self.finished:
            self.finished = True
            self.end_turn()
            self.turns.put_nowait(None)

    def flush_in_time(self) -> None:
        """Have the text pushed so far spoken before the listener runs dry, and not earlier."""
        self.stop_timer()
        coming_s = max(0.0, self._flushed_chars / CHARS_PER_S - self.audio_s)
        delay = self.ahead_s + coming_s - FLUSH_AHEAD_S
        if delay <= 0:
            self.flush()
        else:
            self.timer = asyncio.get_running_loop().call_later(delay, self.flush)

    def flush(self) -> None:
        if self.turn is not None:
            self._flushed_chars += self.held_chars
            self.held_chars = 0
            self.turn.flush()

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Playing:
    """What a listener who plays at once has yet to hear, of all contexts."""

    def __init__(self) -> None:
        self._coming: deque[tuple[float, float, bool]] = deque()  # from, to, kept when interrupted

    def ahead_s(self) -> float:
        """Seconds of it."""
        self._forget()
        return self._coming[-1][1] - time.monotonic() if self._coming else 0.0

    def add(self, seconds: float, *, kept: bool) -> None:
        """Audio goes behind what is there. `kept`: an interruption does not drop it."""
        begin = time.monotonic() + self.ahead_s()
        self._coming.append((begin, begin + seconds, kept))

    def interrupt(self) -> None:
        """What is not kept is dropped, and the rest moves up."""
        self._forget()
        left = [end - max(begin, time.monotonic()) for begin, end, kept in self._coming if kept]
        self._coming.clear()
        for seconds in left:
            self.add(seconds, kept=True)

    def _forget(self) -> None:
        while self._coming and self._coming[0][1] <= time.monotonic():
            self._coming.popleft()
