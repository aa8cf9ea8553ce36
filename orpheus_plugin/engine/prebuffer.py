"""Holds back the beginning of speech where the engine is barely faster than its listener, so that it does not stutter.

Players and transports play audio the moment it comes. An engine with speed to spare is always ahead of that; one that makes 1.2
seconds of audio a second is behind it at every hiccup, most of all in a reply's first second. So a reply begins when
some audio is there, as much as the last replies needed: next to nothing on a GPU.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from orpheus_plugin.turn import AudioChunk, TurnEvent

AGAIN_S = 0.1
"""Held back after running dry within a sentence: one gap instead of many."""

REMEMBERED = 8
"""Replies whose needs count."""


class Prebuffer:
    """What the replies of one service needed, and so what the next one begins with.

    Costs a few microseconds an event. For one event loop.

    Args:
        first_s: needed as far as is known before the first reply. It is counted in audio: a fast engine has it in no
            time.
        grain_s: on top of what was needed, because the player takes audio in pieces.
        most_s: beyond it waiting is worse than stuttering.
    """

    def __init__(self, *, first_s: float = 0.2, grain_s: float = 0.06, most_s: float = 0.5) -> None:
        self.first_s, self.grain_s, self.most_s = first_s, grain_s, most_s
        self._needs: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def size_s(self) -> float:
        """Seconds of audio a reply begins with."""
        return min(self.most_s, max(self._needs, default=self.first_s) + self.grain_s)

    def learn(self, need_s: float) -> None:
        """A reply that had begun with this much audio would just not have run dry."""
        self._needs.append(max(0.0, need_s))

    async def pace(
        self, events: AsyncIterator[TurnEvent], lead_s: Callable[[], float] = lambda: 0.0
    ) -> AsyncGenerator[TurnEvent, None]:
        """The same events, some of them later.

        Audio is held back where the listener has none, until there is enough, or has been waited for as long as that
        would last.

        Args:
            events: of a turn, as they come.
            lead_s: seconds of audio, of whatever was said before, that the listener has yet to hear.
        """
        listener = _Listener(self, lead_s)
        held: list[TurnEvent] = []
        coming = asyncio.ensure_future(anext(events))
        try:
            while True:
                await asyncio.wait({coming}, timeout=listener.patience_s)
                over = coming.exception() if coming.done() else None
                if coming.done() and over is None:
                    event = coming.result()
                    coming = asyncio.ensure_future(anext(events))
                    held.append(event)
                    if isinstance(event, AudioChunk):
                        listener.offer(event)
                    if listener.waits:
                        continue
                listener.take()
                handing_on = _now()
                for event in held:
                    yield event
                listener.pause(_now() - handing_on)
                held.clear()
                if isinstance(over, StopAsyncIteration):
                    return
                if over is not None:
                    raise over
        finally:
            coming.cancel()
            if listener.need_s is not None:
                self.learn(listener.need_s)


class _Listener:
    """Plays what it takes at once, at the speed of life."""

    def __init__(self, prebuffer: Prebuffer, lead_s: Callable[[], float]) -> None:
        self.need_s: float | None = None
        self._prebuffer = prebuffer
        self._lead_s = lead_s
        self._dry_at: float | None = None  # of the loop's clock: when all that was taken has played
        self._offered_s = 0.0
        self._enough_s = 0.0
        self._patient_until: float | None = None
        self._utterance = -1
        self._began_with_s = 0.0  # what it had when the utterance began, or went on after a gap

    @property
    def waits(self) -> bool:
        """For more audio, before it takes any."""
        return self._patient_until is not None and self._offered_s < self._enough_s

    @property
    def patience_s(self) -> float | None:
        """How much longer it waits."""
        if self._patient_until is None:
            return None
        return max(0.0, self._patient_until - _now())

    def offer(self, chunk: AudioChunk) -> None:
        now = _now()
        if self._dry_at is None:
            self._dry_at = now + max(0.0, self._lead_s())
        spare_s = self._dry_at - now
        goes_on = chunk.utterance == self._utterance
        self._utterance = chunk.utterance
        if self._patient_until is None:
            if goes_on:
                self.need_s = max(self.need_s or 0.0, self._began_with_s - spare_s)
            if spare_s <= 0:
                self._enough_s = AGAIN_S if goes_on else self._prebuffer.size_s
                self._patient_until = now + self._enough_s
            elif not goes_on:
                self._began_with_s = spare_s + chunk.duration_s
        self._offered_s += chunk.duration_s

    def take(self) -> None:
        """All that was offered."""
        if self._patient_until is not None:
            self._began_with_s = self._offered_s
        if self._offered_s and self._dry_at is not None:
            self._dry_at = max(self._dry_at, _now()) + self._offered_s
        self._offered_s, self._patient_until = 0.0, None

    def pause(self, seconds: float) -> None:
        """What was taken could not be handed on for so long: who does not read has enough, and the engine no part in it."""
        if self._dry_at is not None:
            self._dry_at += seconds


def _now() -> float:
    return asyncio.get_running_loop().time()
