"""One utterance's stream through the codec: codes in from the event loop, samples out to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from threading import Condition
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orpheus_plugin.codec.config import CODEBOOK_SIZE, ROW_SAMPLES
from orpheus_plugin.codec.step import Lane
from orpheus_plugin.errors import EngineDied

Samples = NDArray[np.float32]
Waiting = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class Owner(Protocol):
    """What decodes a stream. `pushed` and `release` are called under its lock, `changed`."""

    changed: Condition

    def pushed(self, stream: CodecStream) -> None:
        """The stream has new codes, or its end."""
        ...

    def release(self, stream: CodecStream) -> None:
        """The stream does not need its slot any more."""
        ...


class CodecStream:
    """Decodes one utterance. Made by `CodecBatcher.open_stream`; methods may be called from any
    thread.

    `push` and `finish` are short (validation and a copy under a lock; a few microseconds) and never
    run the model. Iterate once: `async for samples in stream` gives float32 arrays in [-1, 1] at 24
    kHz, in order, 512 samples per row of codes in total, and ends after the tail. The slot is free
    once the last samples were decoded, or at `close`.

    Attributes:
        deadline: gives the time, by the batcher's clock, at which the listener has no audio left to
            play. Called by the batcher's thread, under its lock.
    """

    def __init__(self, owner: Owner, lane: Lane, deadline: Callable[[], float]) -> None:
        self._owner = owner
        self._changed = owner.changed
        self.lane = lane
        self.deadline = deadline
        # Fields below are guarded by the owner's lock.
        self.finished = False
        self.closed = False
        self.waiting: Waiting | None = None
        self.delivered = 0
        self._codes = np.zeros((64, 3), np.int64)
        self._have = 0
        self._error: EngineDied | None = None
        self._out: deque[Samples] = deque()

    # ---- codes in

    def push(self, codes: ArrayLike) -> None:
        """Append codes: int [n, 3], each row the (coarse, mid, fine) code of 512 consecutive
        samples.

        A coarse code spans four rows and a mid code two. Raises ValueError for another shape, a
        type that is not an integer, a code outside 0..4095, or a stream already finished. After
        `close` it does nothing.
        """
        rows = np.asarray(codes)
        if rows.ndim != 2 or rows.shape[1] != 3 or not np.issubdtype(rows.dtype, np.integer):
            raise ValueError(
                f"codes must be integers of shape [n, 3], not {rows.dtype} {list(rows.shape)}"
            )
        if rows.size and (rows.min() < 0 or rows.max() >= CODEBOOK_SIZE):
            raise ValueError(f"a code is outside 0..{CODEBOOK_SIZE - 1}")
        with self._changed:
            if self.closed or self._error is not None or not len(rows):
                return
            if self.finished:
                raise ValueError("codes pushed into a finished stream")
            wanted = self._have + len(rows)
            if wanted > len(self._codes):
                grown = np.zeros((max(wanted, 2 * len(self._codes)), 3), np.int64)
                grown[: self._have] = self._codes[: self._have]
                self._codes = grown
            self._codes[self._have : wanted] = rows
            self._have = wanted
            self._owner.pushed(self)

    def finish(self) -> None:
        """No more codes: decode the rest and the tail, then end the iteration. Idempotent."""
        with self._changed:
            if not self.finished and not self.closed:
                self.finished = True
                if self._have:
                    self._owner.pushed(self)
                else:
                    self._owner.release(self)
                    self._wake()

    # ---- samples out

    def __aiter__(self) -> AsyncIterator[Samples]:
        return self

    async def __anext__(self) -> Samples:
        """The next samples. Raises EngineDied when the decoder's thread died; ends early after
        `close`."""
        loop = asyncio.get_running_loop()
        while True:
            with self._changed:
                if self.closed:
                    raise StopAsyncIteration
                if self._out:
                    return self._out.popleft()
                if self._error is not None:
                    raise self._error
                if self.done:
                    raise StopAsyncIteration
                if self.waiting is not None and not self.waiting[0].is_closed():
                    raise RuntimeError("two tasks iterate one codec stream")
                future: asyncio.Future[None] = loop.create_future()
                self.waiting = loop, future
            try:
                await future
            finally:
                with self._changed:
                    self.waiting = None

    def close(self) -> None:
        """Drop everything undelivered and free the slot at once; a running iteration ends.
        Idempotent."""
        with self._changed:
            if self.closed:
                return
            self.closed = True
            self._out.clear()
            self._owner.release(self)
            self._wake()

    # ---- for the owner, under its lock

    @property
    def done(self) -> bool:
        """Whether all its samples were delivered."""
        return self.finished and self.delivered >= self._have * ROW_SAMPLES

    @property
    def position(self) -> int:
        """Rows stepped so far."""
        return self.lane.position

    def pending(self, flush: int) -> int:
        """Rows that can be stepped now; after `finish` with the `flush` rows of padding that bring
        out the tail."""
        if self.finished:
            return self._have + flush - self.lane.position if self._have else 0
        return self._have - self.lane.position

    def next_codes(self, n: int) -> NDArray[np.int64]:
        """The n rows after the lane's position, padded with zeros.

        Called for the step that is about to run: only here the lane learns its end.
        """
        if self.finished:
            self.lane.end = self._have
        codes = np.zeros((n, 3), np.int64)
        known = self._codes[self.lane.position : min(self._have, self.lane.position + n)]
        codes[: len(known)] = known
        return codes

    def deliver(self, piece: Samples) -> None:
        if len(piece):
            self.delivered += len(piece)
            self._out.append(piece)

    def fail(self, error: EngineDied) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        """Have the iterating task look again."""
        if self.waiting is not None:
            wake([self.waiting])


def wake(waiting: Iterable[Waiting]) -> None:
    """Have tasks that wait look again, from any thread: one call for all of a loop."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for loop, future in waiting:
        loops.setdefault(loop, []).append(future)
    for loop, futures in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, futures)
        except RuntimeError:
            if not loop.is_closed():  # a closed loop has no task to wake
                raise


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
