"""The streaming decoder's contract on every device: lanes in, samples that became final out.

Exact means: the pieces a stream gets, concatenated, equal `snac.SNAC.decode` of all its codes
(noise off) up to float rounding, from sample 0 to sample 512 * rows - 1, whatever the chunking and
whatever else is in the batch. Output lags input by the decoder's one-sided receptive field (4757
samples = 198 ms): 10 rows of codes give the first 363 samples, and 10 rows of padding after the
last one flush the tail.

State: 119,232 floats (466 KiB in float32) per stream for the full-size decoder, held in one row per
slot.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orpheus_plugin.codec.config import ROW_SAMPLES, SnacConfig
from orpheus_plugin.codec.noise import stream_keys
from orpheus_plugin.codec.policy import CPU

FAR = 1 << 40
"""End of a stream whose end is not known yet, in rows."""


@dataclass(slots=True)
class Lane:
    """One stream's place in the decoder.

    Attributes:
        slot: row of the state.
        keys: noise keys, int64 [blocks, 2]; None is no noise.
        position: rows of codes stepped so far; 0 makes the next step ignore whatever state the slot
            holds.
        end: total rows of the stream once known, else FAR. Codes stepped from there on are ignored.
    """

    slot: int
    keys: NDArray[np.int64] | None = None
    position: int = 0
    end: int = FAR


class StreamingDecoder(abc.ABC):
    """Steps streams through SNAC's decoder. Not thread-safe: one thread owns it.

    Args:
        slots: streams that can hold state at the same time.

    Attributes:
        sizes: what a step takes.
        depth: steps that are begun before the first of them is waited for.
        steps, eager_steps: how many were taken, and how many of them in a shape that was not
            captured on the GPU.
    """

    sizes = CPU
    depth = 1
    steps = 0
    eager_steps = 0

    def __init__(self, config: SnacConfig, slots: int) -> None:
        self.config = config
        self.slots = slots
        self.delay = config.delay
        self.flush_rows = config.flush_rows

    @abc.abstractmethod
    def _run(self, lanes: Sequence[Lane], codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Advance the state. codes [B, n, 3] -> samples [B, n * 512], of which some may lie outside
        the streams."""

    @abc.abstractmethod
    def warm_up(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Prepare for steps of these (lanes, rows). Streams are left alone."""

    def enter(self) -> None:  # noqa: B027 - most have nothing to do
        """Called once on the thread that will step."""

    def lane(self, slot: int, *, seed: int = 0, noise: bool = True) -> Lane:
        """A new stream in `slot`; takes effect with its first step."""
        with_noise = noise and self.config.noise
        return Lane(slot, stream_keys(seed, len(self.config.decoder_rates)) if with_noise else None)

    def step(self, lanes: Sequence[Lane], codes: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        """Advance every lane by the same number of rows.

        Args:
            lanes: distinct slots.
            codes: int64 [len(lanes), n, 3], 0..4095. Rows from a lane's end on are ignored.

        Returns:
            Per lane the samples that became final, float32 [m], m <= 512 * n; empty in a stream's
            first 9 rows.

        Cost: one pass of 0.1 GFLOP a row and lane (full size); blocks until the samples are on the
        host.
        """
        return self.launch(lanes, codes)()

    def launch(
        self, lanes: Sequence[Lane], codes: NDArray[np.int64]
    ) -> Callable[[], list[NDArray[np.float32]]]:
        """Begin a step, and move the lanes on. Returns a function that waits for what `step`
        returns.

        At most `depth` steps are begun and not waited for, and they are waited for in order.
        """
        n = codes.shape[1]
        spans = [(lane.position * ROW_SAMPLES - self.delay, lane.end) for lane in lanes]
        audio = self._launch(lanes, codes)
        self.steps += 1
        for lane in lanes:
            lane.position += n

        def result() -> list[NDArray[np.float32]]:
            samples = audio()
            pieces = []
            for row, (first, end) in enumerate(spans):
                stop = min(n * ROW_SAMPLES, end * ROW_SAMPLES - first)
                pieces.append(samples[row, max(0, -first) : max(0, stop)].copy())
            return pieces

        return result

    def _launch(
        self, lanes: Sequence[Lane], codes: NDArray[np.int64]
    ) -> Callable[[], NDArray[np.float32]]:
        """Begin what `_run` does. This one does it at once."""
        audio = self._run(lanes, codes)
        return lambda: audio

    def decode(
        self, codes: NDArray[np.int64], *, seed: int = 0, noise: bool = True, chunk: int = 64
    ) -> NDArray[np.float32]:
        """Decode a whole utterance in slot 0. int64 [n, 3] -> float32 [512 * n]. For tests and
        offline use."""
        lane = self.lane(0, seed=seed, noise=noise)
        lane.end = len(codes)
        padded = np.concatenate([codes, np.zeros((self.flush_rows, 3), np.int64)])
        pieces = [
            self.step([lane], padded[None, i : i + chunk])[0] for i in range(0, len(padded), chunk)
        ]
        return np.concatenate(pieces)
