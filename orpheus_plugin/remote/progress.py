"""How much of a turn its caller has, so that it can continue on another server."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from orpheus_plugin.events import SAMPLE_RATE, AudioChunk, TurnEnd, TurnEvent, Word

_NEAR = 200
"""The most characters of tags, markdown and the like between two words."""


class Progress:
    """The text of one turn, and how much of it has been handed to the caller.

    What was handed over counts as heard. A word is handed over with the audio that contains its
    start, so no word comes twice. An event costs about a microsecond.

    Attributes:
        resumed: times it continued on another server.
        stuck: whether nothing was handed over since then: its text may be what makes servers fail.
    """

    def __init__(self) -> None:
        self.resumed = 0
        self.stuck = False
        self._text = ""
        self._flushed_at = 0  # characters up to which it does not wait for more text
        self._ended = False
        self._spoken_to = 0  # characters whose words were handed over
        self._words: deque[Word] = deque()  # not handed over
        self._samples = 0
        self._utterance = -1
        # Where the audio and the utterances of the present server begin.
        self._begins_at = 0
        self._first_utterance = 0

    @property
    def heard(self) -> bool:
        return self._samples > 0

    # ---- text

    def add(self, text: str) -> None:
        self._text += text

    def flush(self) -> None:
        self._flushed_at = len(self._text)

    def end(self) -> None:
        self._ended = True

    # ---- events

    def hand_over(self, event: TurnEvent) -> list[TurnEvent]:
        """The events that the caller gets now, placed in the whole turn."""
        if isinstance(event, Word):
            offset_s = self._begins_at / SAMPLE_RATE
            self._words.append(
                replace(
                    event,
                    start_s=event.start_s + offset_s,
                    end_s=event.end_s + offset_s,
                    utterance=event.utterance + self._first_utterance,
                )
            )
            return []
        if isinstance(event, TurnEnd):
            events: list[TurnEvent] = [self._spoken(word) for word in self._words]
            self._words.clear()
            stats = event.stats
            if self.resumed:
                stats = replace(
                    stats,
                    text_chars=len(self._text),
                    audio_s=self._samples / SAMPLE_RATE,
                    utterances=stats.utterances + self._first_utterance,
                    resumed=self.resumed,
                )
            return [*events, TurnEnd(event.reason, stats)]
        self.stuck = False
        self._samples += event.samples
        self._utterance = event.utterance + self._first_utterance
        events = []
        while self._words and self._words[0].start_s * SAMPLE_RATE < self._samples:
            events.append(self._spoken(self._words.popleft()))
        position = event.position + self._begins_at
        return [*events, AudioChunk(event.pcm, position, self._utterance)]

    def _spoken(self, word: Word) -> Word:
        at = self._text.find(word.text, self._spoken_to, self._spoken_to + _NEAR + len(word.text))
        if at >= 0:
            self._spoken_to = at + len(word.text)
        return word

    # ---- another server

    def resume(self) -> None:
        """The turn continues on another server, which has not spoken any of it."""
        self.resumed += self.heard
        self.stuck = True
        self._words.clear()
        self._begins_at = self._samples
        self._first_utterance = self._utterance + 1

    def left(self) -> tuple[str, str, bool]:
        """The text to speak next: what may be spoken at once, what may wait for more, and whether
        that is all.

        Both are empty if the caller has heard everything.
        """
        middle = max(self._spoken_to, self._flushed_at)
        ready = self._text[self._spoken_to : middle]
        if self._spoken_to:
            ready = ready.lstrip()
        return ready, self._text[middle:], self._ended
