"""A turn on a connection to a speech server: the client's end of the native protocol for one
turn."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from orpheus_plugin import protocol
from orpheus_plugin.errors import (
    AtCapacity,
    ConnectionFailed,
    EngineDied,
    OrpheusError,
    ShuttingDown,
)
from orpheus_plugin.events import SAMPLE_RATE, TurnEnd, TurnEvent
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.remote.progress import Progress
from orpheus_plugin.turn import Turn

REPORT_S = 0.5
"""Seconds of audio after which the server is told how much the caller took."""

CANCEL_S = 5.0
"""Seconds `cancel` waits for the server's message that it has released the turn."""


class Carrier(Protocol):
    """What a turn needs of its connection."""

    def send(self, message: protocol.ClientMessage) -> None: ...
    def release(self, link: Link) -> None: ...


class Link:
    """The link from a Turn to its server. The TurnLink methods run on the caller's loop, the others
    on the connection's.

    It has only a weak reference to the Turn, and so sees when the caller has dropped it.

    Args:
        post: calls a function on the connection's loop, in order, from any thread. Raises
            EngineDied when that loop has ended.
        lost: called with a turn that was refused with AtCapacity, lost its connection, or failed
            at its server with an error that is retryable, and can continue on another server.

    Attributes:
        refused_by: the connections whose servers had no place for it, or failed.
        has_waited: whether it might wait in line at the last one.
    """

    def __init__(
        self,
        turn_id: str,
        options: SpeechOptions,
        post: Callable[..., None],
        *,
        max_wait_s: float = 0.0,
        lost: Callable[[Link, OrpheusError], None],
    ) -> None:
        self.id = turn_id
        self.over = False
        self.max_wait_s = max_wait_s
        self.refused_by: set[Carrier] = set()
        self.has_waited = False
        self._options = options
        self._surrogates = protocol.SurrogateJoiner()
        self._post = post
        self._turn: weakref.ref[Turn] | None = None
        self._connection: Carrier | None = None
        self._unsent: list[protocol.ClientMessage] = []
        self._progress = Progress()
        self._lost = lost
        self._unreported = 0
        self._cancelled: list[Future[None]] = []
        self._cancel_timeout: asyncio.TimerHandle | None = None

    def make_turn(self, *, max_chars: int) -> Turn:
        """The caller's end, once. On the caller's loop."""
        turn = Turn(self.id, self, max_chars=max_chars)
        self._turn = weakref.ref(turn)
        return turn

    # ---- TurnLink

    def send_text(self, text: str) -> None:
        if whole := self._surrogates.push(text):
            self._post(self._send, protocol.Text(self.id, whole))

    def send_flush(self) -> None:
        self._post(self._send, protocol.Flush(self.id))

    def send_end(self) -> None:
        self._post(self._send, protocol.End(self.id))

    def consumed(self, samples: int) -> None:
        self._unreported += samples
        if self._unreported >= REPORT_S * SAMPLE_RATE:
            samples, self._unreported = self._unreported, 0
            with contextlib.suppress(EngineDied):
                self._post(self._send, protocol.Consumed(self.id, samples))

    def send_cancel(self) -> Future[None]:
        done: Future[None] = Future()
        try:
            self._post(self._cancel, done)
        except EngineDied:  # closed meanwhile: there is nothing to release
            done.set_result(None)
        return done

    # ---- on the connection's loop

    @property
    def heard(self) -> bool:
        """Whether the caller has received audio."""
        return self._progress.heard

    def attach(self, connection: Carrier, *, may_wait: bool) -> None:
        self._connection = connection
        self.has_waited = may_wait
        wait_s = self.max_wait_s if may_wait else 0.0
        connection.send(protocol.opening(self.id, self._options, wait_s))
        for message in self._unsent:
            connection.send(message)
        self._unsent.clear()

    def take(self, message: protocol.ServerMessage) -> None:
        if isinstance(message, protocol.Opened):
            if (turn := self._held()) is not None:
                turn.admit()
            return
        event = protocol.event_of(message)
        if event is None:
            return
        if isinstance(event, OrpheusError):
            self.lose(event)
            return
        events = self._progress.hand_over(event)
        if isinstance(event, TurnEnd):
            self.finish(*events)
        elif events and not self._deliver(*events):
            self.end_orphan()

    def lose(self, error: OrpheusError) -> None:
        """The turn has ended on this connection. If its server is gone, full or failed, another one
        speaks the rest, where that is allowed."""
        full = isinstance(error, AtCapacity)
        # A server that shuts down was not ended by this turn's text; one that fails may be.
        innocent = full or isinstance(error, ShuttingDown)
        may_go_on = innocent or (error.retryable and not self._progress.stuck)
        if self.over or self._cancelled or not may_go_on:
            self.finish(error)
            return
        if self._connection is not None:
            self.refused_by.add(self._connection)
            self._connection.release(self)
            self._connection = None
        if not full:
            self._progress.resume()
        ready, rest, ended = self._progress.left()
        gone = isinstance(error, ConnectionFailed | ShuttingDown)
        if gone and ended and not (ready + rest).strip():
            self.finish(*self._progress.hand_over(TurnEnd("done")))
            return
        if ready:
            self._unsent += [protocol.Text(self.id, ready), protocol.Flush(self.id)]
        if rest:
            self._unsent.append(protocol.Text(self.id, rest))
        if ended:
            self._unsent.append(protocol.End(self.id))
        self._lost(self, error)

    def finish(self, *events: TurnEvent | OrpheusError) -> None:
        """The turn has ended; its caller gets these last events."""
        if self.over:
            return
        self.over = True
        if self._cancel_timeout is not None:
            self._cancel_timeout.cancel()
        if self._connection is not None:
            self._connection.release(self)
        self._deliver(*events)
        for done in self._cancelled:
            if not done.done():
                done.set_result(None)

    @property
    def orphaned(self) -> bool:
        """Whether the turn can no longer be read: the caller has dropped it, or its loop is
        closed."""
        turn = self._held()
        return turn is None or turn.orphaned

    def end_orphan(self) -> None:
        """End a turn that can no longer be read."""
        if not self._cancelled:
            self._cancel(Future())

    def _held(self) -> Turn | None:
        return None if self._turn is None else self._turn()

    def _deliver(self, *events: TurnEvent | OrpheusError) -> bool:
        turn = self._held()
        return turn is not None and turn.deliver(*events)

    def _send(self, message: protocol.ClientMessage) -> None:
        if self.over:
            return
        match message:
            case protocol.Text(_, text):
                self._progress.add(text)
            case protocol.Flush():
                self._progress.flush()
            case protocol.End():
                self._progress.end()
        if self._connection is not None:
            self._connection.send(message)
        else:
            self._unsent.append(message)

    def _cancel(self, done: Future[None]) -> None:
        if self.over:
            done.set_result(None)
            return
        self._cancelled.append(done)
        if self._connection is None:
            self.finish(TurnEnd("cancelled"))
        elif self._cancel_timeout is None:
            self._connection.send(protocol.Cancel(self.id))
            self._cancel_timeout = asyncio.get_running_loop().call_later(
                CANCEL_S, self.finish, TurnEnd("cancelled")
            )
