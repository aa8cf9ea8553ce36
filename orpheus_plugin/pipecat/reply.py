"""One audio context's speech: sentences in, audio and timed words out. It knows turns of an engine and nothing of Pipecat."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import replace

from orpheus_plugin.errors import AtCapacity, TextTooLong, TurnClosed
from orpheus_plugin.turn import SAMPLE_RATE, AudioChunk, Turn, TurnEnd, Word

FLUSH_AHEAD_S = 2.0
"""A sentence waits for a neighbour to be spoken with until this long before the listener would run dry."""

CHARS_PER_S = 25.0
"""No voice speaks faster: the least audio to expect from text that is being generated."""

SILENCE = bytes(2 * (SAMPLE_RATE // 10))
"""What text without a speakable word sounds like. Pipecat takes a context without audio for a failure."""

SpeechEvent = AudioChunk | Word | TurnEnd | Exception
"""An exception is a turn that failed; the speech goes on with the next one."""


class Turns:
    """The open turns of one listener. Where the engine has room for no more of them, one waits for another."""

    def __init__(self) -> None:
        self._owners: dict[Turn, Speech] = {}
        self._one_over = asyncio.Event()

    def opened(self, turn: Turn, owner: Speech) -> None:
        self._owners[turn] = owner

    def over(self, turn: Turn) -> None:
        """The engine holds nothing of it."""
        if self._owners.pop(turn, None) is not None:
            self._one_over.set()
            self._one_over = asyncio.Event()

    async def another_over(self, owner: Speech) -> bool:
        """Wait for the end of a turn that is not this owner's. False at once if there is none."""
        if all(other is owner for other in self._owners.values()):
            return False
        await self._one_over.wait()
        return True


class _Part:
    """Text for one turn. It is kept, so that it can be said anew where there was no room for the turn at first."""

    def __init__(self) -> None:
        self.turn: Turn | None = None
        self.over = False
        self._texts: list[str] = []
        self._flushed = self._ended = False

    def give_to(self, turn: Turn) -> None:
        self.turn = turn
        for text in self._texts:
            turn.push_text(text)
        if self._flushed:
            turn.flush()
        if self._ended:
            turn.end()

    def push(self, text: str) -> None:
        if self.over:
            raise TurnClosed
        if self.turn is not None:
            with suppress(
                TurnClosed
            ):  # it has just failed; who reads its events says what comes of that
                self.turn.push_text(text)
        self._texts.append(text)

    def flush(self) -> None:
        self._flushed = True
        if self.turn is not None:
            self.turn.flush()

    def end(self) -> None:
        self._ended = True
        if self.turn is not None:
            self.turn.end()


class Speech:
    """What one audio context says.

    Usually one turn. Another follows it when settings change in mid-reply, or when the turn is full or has failed.

    Args:
        turns: all of this listener.
        open_turn: a turn with the settings of the moment.
    """

    def __init__(
        self,
        turns: Turns,
        open_turn: Callable[[], Turn],
    ) -> None:
        self._turns = turns
        self._open_turn = open_turn
        self._part: _Part | None = None  # takes text
        self._parts: asyncio.Queue[_Part | None] = asyncio.Queue()
        self._unfinished: list[_Part] = []
        self._finished = False
        self._refused = False
        self._failed = False
        self._timer: asyncio.TimerHandle | None = None
        # When its audio is heard, in seconds of time.monotonic().
        self._begins_at: float | None = None
        self._audio_s = 0.0
        self._pauses_s = 0.0
        self._held_chars = 0  # text of the turn that may still wait for more
        self._flushed_chars = 0

    # ---- text in

    def say(self, text: str, *, complete: bool) -> bool:
        """Add text; `complete`: it is a sentence, and may be spoken when the listener runs dry without more of it.

        Returns whether it will be said: the rest of a refused reply is not. Raises what opening a turn raises, but
        for AtCapacity.
        """
        if self._refused:
            return False
        try:
            self._push(text)
        except Exception as error:
            self._note(error)
            raise
        self._held_chars += len(text)
        if complete:
            self._flush_in_time()
        return True

    def _push(self, text: str) -> None:
        try:
            if self._part is None:
                raise TurnClosed
            self._part.push(text)
        except (TurnClosed, TextTooLong):
            # None yet; or it failed, or is full, and this sentence gets another one.
            self.end_turn()
            part = _Part()
            with suppress(AtCapacity):  # it is tried again when its time has come
                self._open(part)
            self._part = part
            self._unfinished.append(part)
            self._parts.put_nowait(part)
            part.push(text)

    def _open(self, part: _Part) -> Turn:
        turn = self._open_turn()
        self._turns.opened(turn, self)
        part.give_to(turn)
        return turn

    def end_turn(self) -> None:
        """No more text for the turn; later text begins another one."""
        self._stop_timer()
        if self._part is not None:
            self._part.end()
            self._part = None

    def finish(self) -> None:
        """No more text for the context."""
        if not self._finished:
            self._finished = True
            self.end_turn()
            self._parts.put_nowait(None)

    def abandon(self) -> list[Turn]:
        """Nobody listens any more. Returns the turns that the engine may still be busy with."""
        self._stop_timer()
        return [part.turn for part in self._unfinished if part.turn is not None]

    # ---- speech out

    def begins(self, in_s: float) -> None:
        """Its first audio will be heard so many seconds from now."""
        self._begins_at = time.monotonic() + in_s

    async def events(self) -> AsyncGenerator[SpeechEvent, None]:
        """Audio, words, and the end of each turn, in order, until `finish`. Words' times are the context's."""
        while (part := await self._parts.get()) is not None:
            try:
                async with aclosing(self._events_of(part)) as events:
                    async for event in events:
                        yield event
            except Exception as error:
                self._note(error)
                part.over = True
                yield error
            self._unfinished.remove(part)
        if not self._audio_s and not self._failed:
            yield AudioChunk(SILENCE, 0, 0)

    async def _events_of(self, part: _Part) -> AsyncGenerator[SpeechEvent, None]:
        """Of its turn; where there was no room for it, of another one once this listener's own speech has made room."""
        while True:
            try:
                turn = part.turn or self._open(part)
                async with aclosing(self._turn_events(turn)) as events:
                    async for event in events:
                        yield event
                return
            except AtCapacity:
                part.turn = None
                if not await self._turns.another_over(self):
                    raise

    async def _turn_events(self, turn: Turn) -> AsyncGenerator[SpeechEvent, None]:
        """A word follows the audio in which it begins."""
        offset = self._audio_s
        words: deque[Word] = deque()
        try:
            async with aclosing(aiter(turn)) as events:
                async for event in events:
                    if isinstance(event, Word):
                        words.append(event)
                        continue
                    if isinstance(event, AudioChunk):
                        # Silence the listener has heard, because text or audio came too late, moves the words.
                        if self._begins_at is not None:
                            self._pauses_s += max(0.0, -self._ahead_s)
                        yield event
                        self._audio_s += event.duration_s
                    over = isinstance(event, TurnEnd)
                    while words and (over or offset + words[0].start_s < self._audio_s):
                        word = words.popleft()
                        yield replace(word, start_s=offset + word.start_s + self._pauses_s)
                    if over:
                        yield event
        except Exception:
            self._turns.over(turn)
            raise
        self._turns.over(turn)

    def _note(self, error: Exception) -> None:
        self._failed = True
        # The rest of a reply without its beginning helps nobody.
        self._refused = self._refused or isinstance(error, AtCapacity)

    # ---- when to speak what may wait

    @property
    def _ahead_s(self) -> float:
        """Seconds of audio the listener still has."""
        if self._begins_at is None:
            return self._audio_s
        return self._begins_at + self._audio_s + self._pauses_s - time.monotonic()

    def _flush_in_time(self) -> None:
        """Have the text pushed so far spoken before the listener runs dry, and not earlier."""
        self._stop_timer()
        coming_s = max(0.0, self._flushed_chars / CHARS_PER_S - self._audio_s)
        delay = self._ahead_s + coming_s - FLUSH_AHEAD_S
        if delay <= 0:
            self._flush()
        else:
            self._timer = asyncio.get_running_loop().call_later(delay, self._flush)

    def _flush(self) -> None:
        if self._part is not None:
            self._flushed_chars += self._held_chars
            self._held_chars = 0
            self._part.flush()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


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
