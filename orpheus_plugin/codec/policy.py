"""Which streams the codec steps next, and how many rows of codes each takes. Pure: no lock, no
thread, no decoder."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from orpheus_plugin.codec.config import ROW_SAMPLES, SAMPLE_RATE

FRAME_ROWS = 4
ROW_S = ROW_SAMPLES / SAMPLE_RATE

WAIT_RATIO = 3.0
"""A stream waits for a larger chunk while its listener has this many times the chunk's length left
to play.

So at the beginning of a stream, small chunks are for a listener with less than 0.26 s left; from
0.5 s on the stream waits for two frames. On a CPU a step of two frames costs a stream that is alone
little more than a step of one."""

BEGINNING = 24
"""Rows: the first half second of sound. The first sound comes as soon as its row is there, then
rows are taken in pairs, and after the beginning by whole frames at least. If the listener still has
little left to play then, the engine is hardly faster than real time, and small chunks cost up to
twice the time (a CPU with AVX2: 24 ms a frame in steps of one row, 20 in pairs, 12 whole), which
makes that worse."""


@dataclass(frozen=True, slots=True)
class StepSizes:
    """What a decoder's step takes.

    Attributes:
        fixed: only shapes that were warmed up are fast, and a step of them costs nearly the same
            for 1 or 32 lanes (a GPU).
        chunks: rows a lane takes in one step, ascending.
        max_rows: of all lanes together.
        longest_wait: rows. Larger chunks are taken where there are so many rows, but not waited
            for: audio would come in bursts.
    """

    fixed: bool
    chunks: tuple[int, ...]
    max_rows: int
    longest_wait: int


CPU = StepSizes(fixed=False, chunks=(1, 2, FRAME_ROWS, 8, 16), max_rows=64, longest_wait=8)
"""A step's cost grows with lanes and rows, and a new stream waits for it."""
GPU = StepSizes(fixed=True, chunks=(1, 2, FRAME_ROWS, 8), max_rows=256, longest_wait=8)
GPU_TUNED = StepSizes(fixed=True, chunks=(1, 2, FRAME_ROWS, 8, 16), max_rows=256, longest_wait=16)


class Pending(Protocol):
    """What the policy reads of a stream."""

    @property
    def finished(self) -> bool:
        """Whether it gets no more rows."""
        ...

    @property
    def position(self) -> int:
        """Rows stepped so far."""
        ...

    def pending(self, flush: int) -> int:
        """Rows that can be stepped now; for a finished stream with `flush` rows of padding."""
        ...

    def deadline(self) -> float:
        """Seconds by the batcher's clock: when its listener has no audio left to play."""
        ...


Stream = TypeVar("Stream", bound=Pending)


class ChunkPolicy:
    """Chunks are as small as one row for a listener who waits for the first sound, and larger the
    more audio the listener has left.

    Args:
        flush: rows of padding that bring out a stream's tail.
        max_lanes: streams in one step.
        sizes: what the decoder's step takes.
    """

    def __init__(self, *, flush: int, max_lanes: int, sizes: StepSizes) -> None:
        self._flush = flush
        self._max_lanes = max_lanes
        self._sizes = sizes
        self._chunks = sizes.chunks

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The (lanes, rows) to warm up; with fixed shapes, all that steps will have."""
        counts = [1, 2, 4, 8, 16, 32] if self._sizes.fixed else [1]
        return sorted(
            {
                (min(count, self._lanes(n)), n)
                for n in (*self._chunks, self._flush)
                for count in counts
            },
            key=lambda shape: shape[::-1],
        )

    def pick(self, streams: Iterable[Stream], now: float) -> tuple[list[Stream], int] | None:
        """The streams of the next step, those with the earliest deadline first, and its rows. None
        if nothing is due.

        Cost: a few microseconds per stream.
        """
        ready = []
        for stream in streams:
            due, n = self.due(stream, now)
            if due <= now:
                ready.append((stream.deadline(), n, stream))
        if not ready:
            return None
        # Streams of equal deadline stay in the order in which they were opened.
        ready.sort(key=lambda entry: entry[0])
        n = ready[0][1]
        return [stream for _, own, stream in ready if own == n][: self._lanes(n)], n

    def _lanes(self, n: int) -> int:
        """The most streams of a step of so many rows."""
        return min(self._max_lanes, max(1, self._sizes.max_rows // n))

    def due(self, stream: Pending, now: float) -> tuple[float, int]:
        """When the stream is stepped if it gets no more rows, and how many rows it then takes."""
        deadline = stream.deadline()
        left = deadline - now
        pending = stream.pending(self._flush)
        if pending <= 0:
            return math.inf, 0
        supplied = [n for n in self._chunks if left > WAIT_RATIO * n * ROW_S]
        largest = max([FRAME_ROWS, *supplied])
        if stream.finished and pending <= largest:
            # All the rest at once. With fixed shapes, rows after the flush cost less than another
            # step.
            rest = min(c for c in self._chunks if c >= pending) if self._sizes.fixed else pending
            return now, rest
        n = max(c for c in self._chunks if c <= min(pending, largest))
        if stream.finished or n >= self._sizes.longest_wait:
            return now, n
        if n < self._smallest(stream.position - self._flush):
            return math.inf, n
        larger = min(c for c in self._chunks if c > n)
        return deadline - WAIT_RATIO * larger * ROW_S, n

    def _smallest(self, audible: int) -> int:
        """The smallest chunk that is worth a step.

        Args:
            audible: rows whose samples the listener has; below 0 the first sound is that many rows
                away.
        """
        if -FRAME_ROWS <= audible < 0:
            # The last two rows before the first sound come one id apart. A GPU takes as long for
            # one as for both, and the second would have to wait for the first, which gives no
            # sound.
            return 2 if self._sizes.fixed else 1
        return 2 if 0 <= audible < BEGINNING else FRAME_ROWS
