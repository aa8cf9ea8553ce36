"""A reply: speech that a listener hears as one, in as many turns as it needs. Both adapters use
it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import replace

from orpheus_plugin.errors import AtCapacity, TurnClosed
from orpheus_plugin.events import SAMPLE_RATE, AudioChunk, TurnEvent, Word
from orpheus_plugin.options import MAX_TEXT_CHARS
from orpheus_plugin.text.think import Reading, without_thoughts
from orpheus_plugin.turn import Turn

PLACE_WAIT_S = 10.0
"""Seconds a turn of a conversation waits in line for its place: a late answer is better than
none."""

SILENCE = bytes(2 * (SAMPLE_RATE // 10))
"""The silence that is played for text without a word to speak. Both frameworks take a reply
without audio for a failure."""

ReplyEvent = TurnEvent | Exception
"""An exception means that a turn failed; the reply continues with the next turn."""

_SENTENCE_END = re.compile(r"[.!?…][\"'”’»)\]]*(?=\s)|[。！？।۔\n]")
_SPACE = re.compile(r"(?=\s)")

_SENTENCE_FROM, _SPACE_FROM = 0.8, 0.95
"""A turn's text ends with the first sentence that ends after this share of its limit, else at the
first space."""


class TurnTexts:
    """Divides streamed text over turns that take a limited text: after a sentence, else between
    words.

    Its time is linear in the text. The thoughts of a reasoning model are left out.
    """

    def __init__(self) -> None:
        self._max = MAX_TEXT_CHARS
        self._chars = 0  # of the turn that takes text now
        self._before = ""  # its last characters
        self._reading = Reading()

    def limit(self, max_chars: int) -> None:
        """Set how many characters the turn takes."""
        self._max = max_chars

    def next_turn(self) -> None:
        """Later text belongs to another turn."""
        self._chars, self._before = 0, ""

    def push(self, text: str) -> list[str]:
        """The text in pieces: the first continues the turn's text, each other one begins another
        turn's text."""
        spoken, self._reading = without_thoughts(text, self._reading)
        return self._divide(spoken)

    def flush(self) -> list[str]:
        """As `push`, for text that was held back because it might be the beginning of a tag."""
        if not (pending := self._reading.pending):
            return []
        self._reading = Reading()
        return self._divide(pending)

    def _divide(self, text: str) -> list[str]:
        pieces = []
        while (end := self._end_in(text)) is not None:
            pieces.append(text[:end])
            text = text[end:]
            self.next_turn()
        pieces.append(text)
        self._chars += len(text)
        self._before = (self._before + text)[-3:]
        return pieces

    def _end_in(self, text: str) -> int | None:
        """Where in `text` this turn's text ends; None if the turn takes all of it."""
        room = self._max - self._chars
        for pattern, share in ((_SENTENCE_END, _SENTENCE_FROM), (_SPACE, _SPACE_FROM)):
            begin = max(0, int(share * self._max) - self._chars)
            if len(text) <= begin:
                break
            before = self._before if begin == 0 else ""
            for match in pattern.finditer(before + text[begin : room + 1]):
                end = begin + match.end() - len(before)
                if 0 <= end <= room and self._chars + end > 0:
                    return end
        if len(text) <= room:
            return None
        space = text.rfind(" ", 0, room)
        return space if space > 0 else room


class OpenTurns:
    """The open turns of one listener. A turn for which the engine has no place waits for the end of
    another one."""

    def __init__(self) -> None:
        self._owners: dict[Turn, Reply] = {}
        self._one_over = asyncio.Event()

    def opened(self, turn: Turn, owner: Reply) -> None:
        self._owners[turn] = owner

    def over(self, turn: Turn) -> None:
        """The engine has released the turn."""
        if self._owners.pop(turn, None) is not None:
            self._one_over.set()
            self._one_over = asyncio.Event()

    async def another_over(self, owner: Reply) -> bool:
        """Wait for the end of a turn that is not this owner's. False at once if there is none."""
        if all(other is owner for other in self._owners.values()):
            return False
        await self._one_over.wait()
        return True


class _Section:
    """Text for one turn. It is kept, so that it can be sent again if there is no place for the turn
    at first."""

    def __init__(self) -> None:
        self.turn: Turn | None = None
        self.refusal: Exception | None = None
        self.failed = False
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
        if self.turn is not None:
            with suppress(TurnClosed):  # it has just failed; its events say why
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


class Reply:
    """Text in, audio and timed words out, over as many turns as it takes.

    Usually one turn. Another turn follows if the text is longer than a turn's limit, if `next_turn`
    asks for it, and after a turn that failed. For one event loop, which it does not block.

    Args:
        open_turn: opens a turn with the current options.
        turns: all turns of this listener.

    Attributes:
        audio_s: seconds of audio so far.
        failed: whether one of its turns failed.
        refused: whether the engine had no place for it. The rest of its text is not spoken, because
            it makes no sense without the beginning.
    """

    def __init__(
        self,
        open_turn: Callable[[], Turn],
        turns: OpenTurns | None = None,
    ) -> None:
        self.audio_s = 0.0
        self.failed = False
        self.refused = False
        self._open_turn = open_turn
        self._turns = turns or OpenTurns()
        self._texts = TurnTexts()
        self._section: _Section | None = None  # takes text
        self._sections: asyncio.Queue[_Section | None] = asyncio.Queue()
        self._unfinished: list[_Section] = []
        self._ended = False
        self.id: str | None = None
        """The id of its first turn."""

    # ---- text in

    def push_text(self, text: str) -> None:
        """Add text, as it comes. `events` gives the errors."""
        if self._section is not None and self._section.failed:
            self.next_turn()
        if self._section is None and text and not self.refused:
            self._begin()  # its turn says how much text it takes
        self._push(self._texts.push(text))

    def flush(self) -> None:
        """Speak what was pushed so far without waiting for the end of its sentence."""
        self._push(self._texts.flush())
        if self._section is not None:
            self._section.flush()

    def next_turn(self) -> None:
        """Later text goes into another turn."""
        self._push(self._texts.flush())
        self._texts.next_turn()
        self._end_section()

    def end(self) -> None:
        """No more text. Idempotent."""
        if not self._ended:
            self.next_turn()
            self._ended = True
            self._sections.put_nowait(None)

    def abandon(self) -> list[Turn]:
        """Stop all turns. Returns those that the engine may still be busy with."""
        return [section.turn for section in self._unfinished if section.turn is not None]

    def _push(self, pieces: list[str]) -> None:
        for index, piece in enumerate(pieces):
            if index > 0:
                self._end_section()
            if piece and not self.refused:
                section = self._section or self._begin()
                section.push(piece)

    def _begin(self) -> _Section:
        section = self._section = _Section()
        try:
            turn = self._open(section)
        except Exception as error:
            section.refusal = error
        else:
            self._texts.limit(turn.max_chars)
        self._unfinished.append(section)
        self._sections.put_nowait(section)
        return section

    def _end_section(self) -> None:
        if self._section is not None:
            self._section.end()
            self._section = None

    def _open(self, section: _Section) -> Turn:
        turn = self._open_turn()
        self.id = self.id or turn.id
        self._turns.opened(turn, self)
        section.give_to(turn)
        return turn

    # ---- speech out

    async def events(self) -> AsyncGenerator[ReplyEvent, None]:
        """Audio, words ahead of it, and the end of each turn, in order, until `end`. Times of words
        count from the beginning of the reply."""
        while (section := await self._sections.get()) is not None:
            begins_s = self.audio_s
            try:
                async with aclosing(self._events_of(section)) as events:
                    async for event in events:
                        if isinstance(event, AudioChunk):
                            self.audio_s += event.duration_s
                        elif isinstance(event, Word):
                            start_s, end_s = begins_s + event.start_s, begins_s + event.end_s
                            event = replace(event, start_s=start_s, end_s=end_s)
                        yield event
            except Exception as error:
                self.failed = section.failed = True
                self.refused = self.refused or isinstance(error, AtCapacity)
                yield error
            self._unfinished.remove(section)
        if not self.audio_s and not self.failed:
            yield AudioChunk(SILENCE, 0, 0)

    async def _events_of(self, section: _Section) -> AsyncGenerator[TurnEvent, None]:
        """Events of its turn. If there was no place for that turn, events of another one, opened
        when a turn of the same listener has ended."""
        while True:
            turn: Turn | None = None
            try:
                if section.refusal is not None:
                    refusal, section.refusal = section.refusal, None
                    raise refusal
                turn = section.turn or self._open(section)
                async with aclosing(aiter(turn)) as events:
                    async for event in events:
                        yield event
                self._turns.over(turn)
                return
            except Exception as error:
                if turn is not None:
                    self._turns.over(turn)
                section.turn = None
                if not isinstance(error, AtCapacity) or not await self._turns.another_over(self):
                    raise
