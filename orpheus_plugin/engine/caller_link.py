"""The link from a turn's caller, on any event loop, to its scheduler on the engine's."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable
from concurrent.futures import Future

from orpheus_plugin.engine.scheduler import Scheduler
from orpheus_plugin.errors import EngineDied
from orpheus_plugin.events import SAMPLE_RATE
from orpheus_plugin.turn import Turn


class CallerLink:
    """A TurnLink: called on the caller's loop, it posts to the engine's loop.

    Nothing of the engine holds the Turn: when the caller drops it, the scheduler is stopped.

    Args:
        loop: the engine's.
        scheduler: of the turn.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, scheduler: Scheduler) -> None:
        self._loop = loop
        self._scheduler = scheduler
        self._unreported = 0

    def make_turn(self, *, max_chars: int) -> Turn:
        """The caller's end, once. On the caller's loop."""
        turn = Turn(self._scheduler.id, self, max_chars=max_chars)
        self._scheduler.caller = weakref.ref(turn, self._lose)
        return turn

    def send_text(self, text: str) -> None:
        self._post(self._scheduler.push_text, text)

    def send_flush(self) -> None:
        self._post(self._scheduler.flush)

    def send_end(self) -> None:
        self._post(self._scheduler.end)

    def consumed(self, samples: int) -> None:
        # Each report wakes the engine's loop, so it is sent for a minute of audio, not for each
        # chunk.
        self._unreported += samples
        if self._unreported >= SAMPLE_RATE:
            samples, self._unreported = self._unreported, 0
            with contextlib.suppress(EngineDied):
                self._post(self._scheduler.note_consumed, samples)

    def send_cancel(self) -> Future[None]:
        self._scheduler.cancelled = True  # the Turn may be dropped before aclose runs
        closing = self._scheduler.aclose()
        try:
            return asyncio.run_coroutine_threadsafe(closing, self._loop)
        except RuntimeError:  # the engine was closed meanwhile: there is nothing to release
            closing.close()
            done: Future[None] = Future()
            done.set_result(None)
            return done

    def _post(self, command: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(command, *args)
        except RuntimeError as error:
            raise EngineDied("the engine was closed") from error

    def _lose(self, _: object) -> None:
        if self._scheduler.cancelled:
            return
        with contextlib.suppress(EngineDied):  # called by the garbage collector, on any thread
            self._post(self._scheduler.look_for_caller)
