"""The speech of one audio context: when its text is spoken, and words after their audio."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from orpheus_plugin.engine.playout import PlayoutClock
from orpheus_plugin.events import AudioChunk, Word
from orpheus_plugin.reply import Reply, ReplyEvent
from orpheus_plugin.turn import Turn

FLUSH_AHEAD_S = 2.0
"""A sentence waits for the next one, to be spoken together with it, until the listener has this
much audio left."""

CHARS_PER_S = 25.0
"""Characters a second: no voice speaks faster. Gives the least audio to expect from text that is
being generated."""


class ContextReply(Reply):
    """A reply whose sentences are spoken shortly before the listener has heard all audio.

    The engine joins short sentences if it may wait for the next one. `begins` sets when its audio
    is heard.
    """

    _timer: asyncio.TimerHandle | None = None
    _clock: PlayoutClock | None = None  # set when its first audio is about to be heard
    _pauses_s = 0.0
    _held_chars = 0  # characters of text that may wait for more
    _flushed_chars = 0

    # ---- text in

    def say(self, text: str, *, complete: bool) -> bool:
        """Add text; `complete`: it is a sentence, which does not wait for more text. Returns
        whether it will be spoken."""
        if self.refused:
            return False
        self.push_text(text)
        self._held_chars += len(text)
        if complete:
            self._flush_in_time()
        return True

    def next_turn(self) -> None:
        self._stop_timer()
        super().next_turn()

    def abandon(self) -> list[Turn]:
        self._stop_timer()
        return super().abandon()

    # ---- speech out

    def begins(self, in_s: float) -> None:
        """Its first audio will be heard so many seconds from now."""
        self._clock = PlayoutClock(_now)
        self._clock.play(self.audio_s)
        self._clock.delay(in_s)

    async def events(self) -> AsyncGenerator[ReplyEvent, None]:
        """As in Reply, but a word follows the audio in which it begins, and its time includes the
        pauses.

        A pause is silence that the listener heard because text or audio came late.
        """
        words: deque[Word] = deque()
        async with aclosing(super().events()) as events:
            async for event in events:
                if isinstance(event, Word):
                    words.append(event)
                    continue
                if isinstance(event, AudioChunk):
                    if self._clock is not None:
                        self._pauses_s += self._clock.play(event.duration_s)
                    yield event
                elif isinstance(event, Exception):
                    words.clear()
                over = not isinstance(event, AudioChunk)
                while words and (over or words[0].start_s < self.audio_s):
                    word = words.popleft()
                    yield replace(word, start_s=word.start_s + self._pauses_s)
                if over:
                    yield event

    # ---- when to speak what may wait

    def _flush_in_time(self) -> None:
        self._stop_timer()
        ahead_s = self.audio_s if self._clock is None else self._clock.ahead_s
        coming_s = max(0.0, self._flushed_chars / CHARS_PER_S - self.audio_s)
        delay = ahead_s + coming_s - FLUSH_AHEAD_S
        if delay <= 0:
            self._flush_held()
        else:
            self._timer = asyncio.get_running_loop().call_later(delay, self._flush_held)

    def _flush_held(self) -> None:
        self._flushed_chars += self._held_chars
        self._held_chars = 0
        self.flush()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Playback:
    """The audio of all contexts that a listener who plays at once still has to hear."""

    def __init__(self) -> None:
        self._clock = PlayoutClock(_now)
        # From when to when audio is heard that an interruption does not drop.
        self._kept: deque[tuple[float, float]] = deque()

    def ahead_s(self) -> float:
        """Its length in seconds."""
        return max(0.0, self._clock.ahead_s)

    def add(self, seconds: float, *, kept: bool) -> None:
        """Add audio at the end. `kept`: an interruption does not drop it."""
        self._clock.play(seconds)
        while self._kept and self._kept[0][1] <= _now():
            self._kept.popleft()
        if kept:
            self._kept.append((self._clock.ends_at - seconds, self._clock.ends_at))

    def interrupt(self) -> None:
        """Drop audio that is not kept; the rest moves up."""
        now = _now()
        left = [end - max(begin, now) for begin, end in self._kept if end > now]
        self._clock.stop()
        self._kept.clear()
        for seconds in left:
            self.add(seconds, kept=True)


def _now() -> float:
    return time.monotonic()  # looked up at each call, so that a test may set the time
