"""Many listeners, one decoder: a worker thread steps all streams that have new latents together."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from orpheus_plugin.codec.config import LATENT_SAMPLES, SAMPLE_RATE
from orpheus_plugin.codec.step import StreamingDecoder
from orpheus_plugin.codec.stream import CodecStream, Samples, Waiting, wake
from orpheus_plugin.errors import AtCapacity, EngineDied
from orpheus_plugin.worker_thread import WorkerThread

__all__ = ["CodecBatcher", "CodecStream"]

logger = logging.getLogger(__name__)

FRAME_LATENTS = 4
LATENT_S = LATENT_SAMPLES / SAMPLE_RATE
PATIENCE = 3.0
"""A stream waits for a larger chunk while its listener has this many times the chunk's length left to play.

So while a stream begins, small chunks are for a listener with less than 0.26 s; from 0.5 s on two frames are waited for. On a
CPU a step of two frames costs a stream that is alone little more than a step of one."""

BEGINNING = 24
"""Latents: the first half second that can be heard. The first sound comes as soon as its latent is there, then they are taken
in pairs, and behind the beginning by whole frames at least. A listener who is still near to running dry then has an engine
that is hardly faster than he is, and small chunks cost up to twice the time (a CPU with AVX2: 24 ms a frame in steps of one
latent, 20 in pairs, 12 whole): they would take what is lacking already."""

LONGEST_WAIT = 8
"""Latents. Larger chunks are taken where there are so many, but not waited for: audio would come by fits and starts."""


class CodecBatcher:
    """Serves as many streams as a decoder has slots from one thread.

    The thread sleeps on a condition while nobody has new latents: no polling. When it wakes it takes the stream that
    runs dry first and steps, together with it, all others that can take a chunk of the same size, those that run dry
    first preferred. While one step runs, latents of the others gather for the next, so batches grow with load by
    themselves. Chunks are as small as one latent for a listener who waits for the beginning, and larger the more he has
    left to play; the thread wakes in time for what then waits for company. A decoder that computes elsewhere gets the next
    step before the last one is waited for (its `depth`).

    Cost per frame and stream: see `StreamingDecoder.step`; planning is a few microseconds per open stream.

    Args:
        decoder: owned by the batcher from here on.
        max_lanes: streams in one step.
        clock: seconds; what the streams' deadlines are compared with.
    """

    def __init__(
        self,
        decoder: StreamingDecoder,
        *,
        max_lanes: int = 32,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if decoder.slots < 1 or max_lanes < 1:
            raise ValueError("slots and max_lanes must be at least 1")
        self._streaming = decoder
        self._max_lanes = min(max_lanes, decoder.slots)
        self._clock = clock
        self._changed = threading.Condition()
        self._free = list(range(decoder.slots - 1, -1, -1))
        self._streams: dict[int, CodecStream] = {}
        self._thread: WorkerThread | None = None
        self._stop = False
        self._error: EngineDied | None = None
        self._sleeps_until = -math.inf  # by the clock; the past while the thread is at work
        self._fixed = decoder.fixed_shapes
        # A GPU step costs nearly the same for 1 or 32 lanes; a CPU step grows with both, and a newcomer waits for it.
        self._chunks = (1, 2, FRAME_LATENTS, 8) if self._fixed else (1, 2, FRAME_LATENTS, 8, 16)
        self._max_latents = 256 if self._fixed else 64

    @property
    def active(self) -> int:
        """Streams that hold a slot."""
        return len(self._streams)

    @property
    def failure(self) -> EngineDied | None:
        """Why it decodes nothing any more: dead, at a standstill, closed or not started; None while it works."""
        if self._thread is None:
            return EngineDied("the codec has not been started")
        return self._error or self._thread.failure

    @property
    def slots(self) -> int:
        return self._streaming.slots

    def start(self) -> None:
        """Warm up the shapes steps will have (on CUDA: capture them) and start the worker thread."""
        if self._thread is not None:
            return
        sizes = [1, 2, 4, 8, 16, 32] if self._fixed else [1]
        sizes = sorted({min(size, self._max_lanes) for size in sizes})
        chunks = (*self._chunks, self._streaming.flush_latents)  # the last is the tail
        self._streaming.warm_up([(size, n) for n in chunks for size in sizes])
        self._thread = WorkerThread("orpheus-codec", "the codec", self._work, self._end)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread after its current step; open streams end with EngineDied. Idempotent."""
        self._end(EngineDied("the codec was closed"))
        if self._thread is not None:
            self._thread.join()

    def open_stream(
        self, *, seed: int = 0, noise: bool = True, deadline: Callable[[], float] | None = None
    ) -> CodecStream:
        """Take a slot.

        Args:
            seed: of the noise; equal seeds and codes give equal samples whatever else runs.
            noise: False leaves the decoder's noise out.
            deadline: gives the time, by the batcher's clock, at which the listener has nothing more to hear; the
                stream with the earliest is served first. None is a listener who waits for every sample.

        Raises AtCapacity when no slot is free, EngineDied when the worker died or the batcher is closed.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            if not self._free:
                raise AtCapacity(f"all {self.slots} codec streams are in use")
            slot = self._free.pop()
            lane = self._streaming.lane(slot, seed=seed, noise=noise)
            stream = CodecStream(self, lane, deadline or _always_waiting)
            self._streams[slot] = stream
            return stream

    def _release(self, stream: CodecStream) -> None:
        """Free a stream's slot; under the lock. A step in flight may still write the slot's state: the next owner's
        first step runs after it, on the same thread, and ignores what it finds there."""
        if self._streams.get(stream.lane.slot) is stream:
            del self._streams[stream.lane.slot]
            self._free.append(stream.lane.slot)

    def _end(self, error: EngineDied) -> None:
        with self._changed:
            self._stop = True
            self._error = self._error or error
            for stream in list(self._streams.values()):
                self._release(stream)
                stream._fail(self._error)
            self._changed.notify_all()

    # -- the worker thread -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        self._streaming.enter()
        assert self._thread is not None
        begun: deque[tuple[list[CodecStream], Callable[[], list[Samples]]]] = deque()
        while True:
            with self._changed:
                while not self._stop and (picked := self._pick()) is None and not begun:
                    self._sleep()
                if self._stop:
                    return
            with self._thread:
                if picked is not None:
                    begun.append((picked[0], self._launch(*picked)))
                if picked is None or len(begun) >= self._streaming.depth:
                    self._deliver(*begun.popleft())
            picked = None  # a stream nobody else holds must not live on while the thread sleeps

    def run_ready(self) -> None:
        """Without a thread: do on this one all the work there is. For simulations and tests, instead of `start`."""
        while True:
            with self._changed:
                picked = self._pick()
            if picked is None:
                return
            self._deliver(picked[0], self._launch(*picked))

    def _sleep(self) -> None:
        """Until there is news, or a stream has waited long enough. Under the lock, which others have meanwhile."""
        now = self._clock()
        self._sleeps_until = min(
            (self._next(stream, now)[0] for stream in self._streams.values()), default=math.inf
        )
        pause = self._sleeps_until - now
        self._changed.wait(None if pause == math.inf else max(0.0, pause))
        self._sleeps_until = -math.inf

    def _pushed(self, stream: CodecStream) -> None:
        """The stream has new latents or its end: wake the thread if it sleeps too long for them. Under the lock.

        A generator's step brings latents to many streams, by tasks that run one after the other. The thread is woken
        behind them all, to find them together; it would come in between with the first one's alone.
        """
        now = self._clock()
        if now < self._sleeps_until and self._next(stream, now)[0] < self._sleeps_until:
            try:
                asyncio.get_running_loop().call_soon(self._notify)
            except RuntimeError:  # no event loop on this thread
                self._changed.notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify()

    def _launch(
        self, batch: list[CodecStream], codes: NDArray[np.int64]
    ) -> Callable[[], list[Samples]]:
        return self._streaming.launch([stream.lane for stream in batch], codes)

    def _deliver(self, batch: list[CodecStream], result: Callable[[], list[Samples]]) -> None:
        """Wait for the samples of a batch, and hand them to its streams."""
        pieces = result()
        waiting: list[Waiting] = []
        with self._changed:
            for stream, piece in zip(batch, pieces, strict=True):
                if stream._closed:
                    continue
                stream._deliver(piece)
                if stream._done:
                    self._release(stream)
                if stream._waiting is not None and (len(piece) or stream._done):
                    waiting.append(stream._waiting)
        wake(waiting)

    def _next(self, stream: CodecStream, now: float) -> tuple[float, int]:
        """When the stream may be stepped if no more latents come for it, and how many it then takes."""
        flush = self._streaming.flush_latents
        deadline = stream.deadline()
        left = deadline - now
        pending = stream._pending(flush)
        if pending <= 0:
            return math.inf, 0
        supplied = [n for n in self._chunks if left > PATIENCE * n * LATENT_S]
        largest = max([FRAME_LATENTS, *supplied])
        if stream._finished and pending <= largest:
            # All the rest at once. Fixed shapes: rows behind the flush cost less than another step.
            rest = min(c for c in self._chunks if c >= pending) if self._fixed else pending
            return now, rest
        n = max(c for c in self._chunks if c <= min(pending, largest))
        if stream._finished or n >= LONGEST_WAIT:
            return now, n
        if n < self._smallest(stream.lane.position - flush):
            return math.inf, n
        larger = min(c for c in self._chunks if c > n)
        return deadline - PATIENCE * larger * LATENT_S, n

    def _smallest(self, heard: int) -> int:
        """The smallest chunk that is worth a step for a listener who has heard so many latents; below 0 they are to come."""
        if -FRAME_LATENTS <= heard < 0:
            # The last two before the first sound come one id apart. A GPU takes as long for one as for both, and the
            # second would have to wait for the first, which gives no sound.
            return 2 if self._fixed else 1
        return 2 if 0 <= heard < BEGINNING else FRAME_LATENTS

    def _pick(self) -> tuple[list[CodecStream], NDArray[np.int64]] | None:
        """The next step: its streams and their codes [streams, n, 3]. Under the lock."""
        now = self._clock()
        ready = []
        for stream in self._streams.values():
            due, n = self._next(stream, now)
            if due <= now:
                ready.append((stream.deadline(), n, stream))
        if not ready:
            return None
        ready.sort(key=lambda entry: entry[0])  # equals as they were opened
        n = ready[0][1]
        lanes = min(self._max_lanes, max(1, self._max_latents // n))
        batch = [stream for _, own, stream in ready if own == n][:lanes]
        return batch, np.stack([stream._next_codes(n) for stream in batch])


def _always_waiting() -> float:
    return -math.inf
