"""How long to wait for speech that is due. Waiting for the language model is no fault of the engine's."""

from __future__ import annotations

import asyncio
import re

from orpheus_plugin.turn import SAMPLE_RATE

_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*\s|[。！？\n]")
_LONG = 200


class Patience:
    """Moves the deadline of an `asyncio.timeout`.

    Speech is due from the first sentence (or flush) until the first sound, and again from the end of the text until the
    end of the speech. The clock starts when the text is there, or when a listener who plays at once has heard all that
    was delivered: an engine may pause while it is far ahead of the listener.
    """

    def __init__(self, limit: asyncio.Timeout, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._heard_until = 0.0
        self._ended = False
        self._tail = ""
        self._chars = 0

    def connecting(self) -> None:
        self._from(self._loop.time())

    def text(self, piece: str) -> None:
        if self._heard_until or self._limit.when() is not None:
            return
        self._tail = self._tail[-3:] + piece
        self._chars += len(piece)
        if self._chars >= _LONG or _SENTENCE_END.search(self._tail):
            self._from(self._loop.time())

    def flushed(self) -> None:
        if not self._heard_until and self._limit.when() is None:
            self._from(self._loop.time())

    def ended(self) -> None:
        self._ended = True
        if self._limit.when() is None:
            self._from(max(self._loop.time(), self._heard_until))

    def opened(self) -> None:
        """Connected: from here on only text starts the clock."""
        self._limit.reschedule(None)

    def audio(self, samples: int) -> None:
        now = self._loop.time()
        self._heard_until = max(self._heard_until, now) + samples / SAMPLE_RATE
        if self._ended:
            self._from(self._heard_until)
        else:
            self._limit.reschedule(None)

    def _from(self, start: float) -> None:
        self._limit.reschedule(start + self._seconds)
