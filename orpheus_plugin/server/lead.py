"""Begins a turn with a little audio in hand where the engine is hardly faster than its listeners.

Players start with the first sample. An engine with speed to spare is ahead of them at once; one that makes 1.4 seconds of
audio a second is late at every hiccup of a busy machine. So a turn begins when as much audio is there as the last turns
needed for not running dry: none at all on a fast machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator

from orpheus_plugin.turn import AudioChunk, TurnEvent

FIRST_S = 0.05
"""What a turn needs as far as is known before the first one. Counted in audio: a fast engine has it in no time."""

SPARE_S = 0.03
"""On top of what was needed, where anything was."""

MOST_S = 0.3
"""Beyond it waiting is worse than a gap."""

REMEMBERED = 8
"""Turns whose needs count."""


class Lead:
    """What the turns of one server needed, and so what the next one begins with."""

    def __init__(self) -> None:
        self._needs: deque[float] = deque([FIRST_S], maxlen=REMEMBERED)

    @property
    def size_s(self) -> float:
        """Seconds of audio."""
        need = max(self._needs)
        return min(MOST_S, need + SPARE_S) if need else 0.0

    def learn(self, need_s: float) -> None:
        """A turn that had begun with this much would just not have run dry."""
        self._needs.append(max(0.0, need_s))

    async def pace(self, events: AsyncIterator[TurnEvent]) -> AsyncGenerator[TurnEvent, None]:
        """The same events; those up to the first audio come when there is enough of it, or it was waited for as long
        as that would last."""
        listener, held = _Listener(), list[TurnEvent]()
        coming = asyncio.ensure_future(anext(events))
        try:
            size_s, until = self.size_s, None
            while listener.held_s < size_s:
                left = None if until is None else max(0.0, until - time.monotonic())
                await asyncio.wait({coming}, timeout=left)
                if not coming.done() or coming.exception() is not None:
                    break
                event = coming.result()
                coming = asyncio.ensure_future(anext(events))
                held.append(event)
                if isinstance(event, AudioChunk):
                    listener.hold(event)
                    until = until or time.monotonic() + size_s
            listener.begin()
            for event in held:
                yield event
            with contextlib.suppress(StopAsyncIteration):
                event = await coming
                listener.take(event)
                yield event
            async for event in events:
                listener.take(event)
                yield event
        finally:
            coming.cancel()
            if listener.need_s is not None:
                self.learn(listener.need_s)


class _Listener:
    """Plays at once what it is given.

    Attributes:
        need_s: the most audio in hand that an utterance used up, if that was more than its first piece. What lacks
            between utterances is no fault of the engine's: the text may not have been there.
        held_s: seconds of audio it has not been given yet.
    """

    def __init__(self) -> None:
        self.need_s: float | None = None
        self.held_s = 0.0
        self._utterance = -1
        self._first_s = 0.0
        self._in_hand_s = 0.0  # when the utterance began
        self._dry_at: float | None = None

    def hold(self, chunk: AudioChunk) -> None:
        """To be taken together, at `begin`."""
        self._utterance = chunk.utterance
        self._first_s = self._first_s or chunk.duration_s
        self.held_s += chunk.duration_s

    def begin(self) -> None:
        if self.held_s:
            self._in_hand_s = self.held_s
            self._dry_at = time.monotonic() + self.held_s

    def take(self, event: TurnEvent) -> None:
        if not isinstance(event, AudioChunk):
            return
        now = time.monotonic()
        spare_s = 0.0 if self._dry_at is None else self._dry_at - now
        if event.utterance != self._utterance:
            self._utterance, self._first_s = event.utterance, event.duration_s
            self._in_hand_s = max(0.0, spare_s) + event.duration_s
        else:
            used_s = self._in_hand_s - spare_s
            self.need_s = max(self.need_s or 0.0, used_s if used_s > self._first_s else 0.0)
        self._dry_at = now + max(0.0, spare_s) + event.duration_s
