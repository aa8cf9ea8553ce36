"""The link between a turn's caller, on any event loop, and its scheduler on the engine's."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Protocol

from orpheus_plugin.errors import EngineDied, OrpheusError
from orpheus_plugin.events import SAMPLE_RATE, TurnEvent
from orpheus_plugin.turn import Turn


class Spoken(Protocol):
    """The part of a turn's scheduler that its caller uses. Called on the engine's loop."""

    def push_text(self, text: str) -> None: ...
    def flush(self) -> None: ...
    def end(self) -> None: ...
    def note_consumed(self, samples: int) -> None: ...
    def end_orphan(self) -> None: ...
    def aclose(self) -> Coroutine[Any, Any, None]: ...


class CallerLink:
    """A TurnLink: `send_*` and `consumed` are called on the caller's loop and post to the engine's
    loop.

    It has only a weak reference to the Turn: when the caller drops the Turn, the scheduler is
    stopped.

    Args:
        loop: the engine's.
        spoken: the scheduler of the turn.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, spoken: Spoken) -> None:
        self._loop = loop
        self._spoken = spoken
        self._turn: weakref.ref[Turn] | None = None
        self._cancelled = False
        self._unreported = 0

    def make_turn(self, turn_id: str, *, max_chars: int) -> Turn:
        """The caller's end, once. On the caller's loop."""
        turn = Turn(turn_id, self, max_chars=max_chars)
        self._turn = weakref.ref(turn, self._lose)
        return turn

    # ---- the caller's loop

    def send_text(self, text: str) -> None:
        self._post(self._spoken.push_text, text)

    def send_flush(self) -> None:
        self._post(self._spoken.flush)

    def send_end(self) -> None:
        self._post(self._spoken.end)

    def consumed(self, samples: int) -> None:
        # Each report wakes the engine's loop, so it is sent for a minute of audio, not for each
        # chunk.
        self._unreported += samples
        if self._unreported >= SAMPLE_RATE:
            samples, self._unreported = self._unreported, 0
            with contextlib.suppress(EngineDied):
                self._post(self._spoken.note_consumed, samples)

    def send_cancel(self) -> Future[None]:
        self._cancelled = True  # it may be dropped before the engine's loop hears of this
        closing = self._spoken.aclose()
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
        if self._cancelled:
            return
        with contextlib.suppress(EngineDied):  # called by the garbage collector, on any thread
            self._post(self._spoken.end_orphan)

    # ---- the engine's loop

    @property
    def orphaned(self) -> bool:
        """Whether nobody can read the turn any more: the caller has dropped it, or its loop is
        closed."""
        if self._cancelled:
            return False
        turn = self._get()
        return turn is None or turn.orphaned

    def admit(self) -> None:
        if (turn := self._get()) is not None:
            turn.admit()

    def deliver(self, *events: TurnEvent | OrpheusError) -> bool:
        """False if nobody can read them any more."""
        turn = self._get()
        return turn is not None and turn.deliver(*events)

    def _get(self) -> Turn | None:
        return None if self._turn is None else self._turn()
