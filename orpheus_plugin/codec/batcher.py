"""Many streams, one decoder: a worker thread steps all streams that have new codes together."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from orpheus_plugin.codec.policy import ChunkPolicy
from orpheus_plugin.codec.step import StreamingDecoder
from orpheus_plugin.codec.stream import CodecStream, Samples, Waiting, wake
from orpheus_plugin.errors import AtCapacity, EngineDied
from orpheus_plugin.worker_thread import WorkerThread


class CodecBatcher:
    """Serves as many streams as a decoder has slots from one thread.

    The thread sleeps on a condition while no stream has new codes: no polling. When it wakes it
    steps the streams that `ChunkPolicy` picks. While one step runs, codes of the other streams
    gather for the next, so batches grow with load by themselves. The thread wakes in time for codes
    that wait for a larger chunk. A decoder that computes elsewhere gets the next step before the
    last one is waited for (its `depth`).

    Cost per frame and stream: see `StreamingDecoder.step`; planning is a few microseconds per open
    stream.

    Args:
        decoder: owned by the batcher from here on.
        max_lanes: streams in one step.
        clock: seconds; what the streams' deadlines are compared with.

    Attributes:
        changed: the lock that guards all streams' fields, and the condition on which the thread
            waits for news.
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
        self.changed = threading.Condition()
        self._decoder = decoder
        self._policy = ChunkPolicy(
            flush=decoder.flush_rows,
            max_lanes=min(max_lanes, decoder.slots),
            sizes=decoder.sizes,
        )
        self._clock = clock
        self._free = list(range(decoder.slots - 1, -1, -1))
        self._streams: dict[int, CodecStream] = {}
        self._thread: WorkerThread | None = None
        self._stop = False
        self._error: EngineDied | None = None
        self._sleeps_until = -math.inf  # by the clock; the past while the thread is at work

    @property
    def active(self) -> int:
        """Streams that hold a slot."""
        return len(self._streams)

    @property
    def failure(self) -> EngineDied | None:
        """Why it no longer decodes: dead, hanging, closed or not started; None while it works."""
        if self._thread is None:
            return EngineDied("the codec has not been started")
        return self._error or self._thread.failure

    @property
    def steps(self) -> tuple[int, int]:
        """Steps taken, and those of them whose shape a GPU had not captured. From any thread."""
        return self._decoder.steps, self._decoder.eager_steps

    @property
    def slots(self) -> int:
        return self._decoder.slots

    def start(self) -> None:
        """Warm up the shapes steps will have (on CUDA: capture them) and start the worker
        thread."""
        if self._thread is not None:
            return
        self._decoder.warm_up(self._policy.shapes)
        self._thread = WorkerThread(
            "orpheus-codec", "the codec", self._work, stop=self._quit, died=self._end
        )
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
            deadline: gives the time, by the batcher's clock, at which the listener has no audio
                left to play; the stream with the earliest is served first. None is a listener who
                waits for every sample.

        Raises AtCapacity when no slot is free, EngineDied when the worker died or the batcher is
        closed.
        """
        with self.changed:
            if self._error is not None:
                raise self._error
            if not self._free:
                raise AtCapacity(f"all {self.slots} codec streams are in use")
            slot = self._free.pop()
            lane = self._decoder.lane(slot, seed=seed, noise=noise)
            stream = CodecStream(self, lane, deadline or _always_waiting)
            self._streams[slot] = stream
            return stream

    def release(self, stream: CodecStream) -> None:
        """Free a stream's slot; under the lock. A step in flight may still write the slot's state:
        the next owner's first step runs after it, on the same thread, and ignores what it finds
        there."""
        if self._streams.get(stream.lane.slot) is stream:
            del self._streams[stream.lane.slot]
            self._free.append(stream.lane.slot)

    def pushed(self, stream: CodecStream) -> None:
        """The stream has new codes or its end: wake the thread if it sleeps too long for them.
        Under the lock.

        A generator's step brings codes to many streams, by tasks that run one after the other. The
        thread is woken after all of them and finds their codes together. Woken at once, it would
        step the first one's codes alone.
        """
        now = self._clock()
        if now < self._sleeps_until and self._policy.due(stream, now)[0] < self._sleeps_until:
            try:
                asyncio.get_running_loop().call_soon(self._notify)
            except RuntimeError:  # no event loop on this thread
                self.changed.notify()

    def _notify(self) -> None:
        with self.changed:
            self.changed.notify()

    def _end(self, error: EngineDied) -> None:
        with self.changed:
            self._stop = True
            self._error = self._error or error
            for stream in list(self._streams.values()):
                self.release(stream)
                stream.fail(self._error)
            self.changed.notify_all()

    def _quit(self) -> None:
        """End the thread without an error."""
        with self.changed:
            self._stop = True
            self.changed.notify_all()

    # ---- the worker thread

    def _work(self) -> None:
        self._decoder.enter()
        assert self._thread is not None
        begun: deque[tuple[list[CodecStream], Callable[[], list[Samples]]]] = deque()
        while True:
            with self.changed:
                while not self._stop and (picked := self._pick()) is None and not begun:
                    self._sleep()
                if self._stop:
                    return
            with self._thread:
                if picked is not None:
                    begun.append((picked[0], self._launch(*picked)))
                if picked is None or len(begun) >= self._decoder.depth:
                    self._deliver(*begun.popleft())
            picked = None  # otherwise it would keep a stream alive while the thread sleeps

    def run_ready(self) -> None:
        """Without a thread: do on this one all the work there is. For simulations and tests,
        instead of `start`."""
        while True:
            with self.changed:
                picked = self._pick()
            if picked is None:
                return
            self._deliver(picked[0], self._launch(*picked))

    def _sleep(self) -> None:
        """Until there is news, or a stream has waited long enough. Releases the lock meanwhile."""
        now = self._clock()
        self._sleeps_until = min(
            (self._policy.due(stream, now)[0] for stream in self._streams.values()),
            default=math.inf,
        )
        pause = self._sleeps_until - now
        self.changed.wait(None if pause == math.inf else max(0.0, pause))
        self._sleeps_until = -math.inf

    def _pick(self) -> tuple[list[CodecStream], NDArray[np.int64]] | None:
        """The next step: its streams and their codes [streams, n, 3]. Under the lock."""
        picked = self._policy.pick(self._streams.values(), self._clock())
        if picked is None:
            return None
        batch, n = picked
        return batch, np.stack([stream.next_codes(n) for stream in batch])

    def _launch(
        self, batch: list[CodecStream], codes: NDArray[np.int64]
    ) -> Callable[[], list[Samples]]:
        return self._decoder.launch([stream.lane for stream in batch], codes)

    def _deliver(self, batch: list[CodecStream], result: Callable[[], list[Samples]]) -> None:
        """Wait for the samples of a batch, and hand them to its streams."""
        pieces = result()
        waiting: list[Waiting] = []
        with self.changed:
            for stream, piece in zip(batch, pieces, strict=True):
                if stream.closed:
                    continue
                stream.deliver(piece)
                if stream.done:
                    self.release(stream)
                if stream.waiting is not None and (len(piece) or stream.done):
                    waiting.append(stream.waiting)
        wake(waiting)


def _always_waiting() -> float:
    return -math.inf
