"""The codec in vLLM's worker: the process that has the model also has the codec's state.

Two processes that use one GPU take turns on it, so that each waits for the other. In vLLM's worker
the codec has a thread and a CUDA stream of its own in the same CUDA context, and both run at once.
vLLM serves one call into its worker between two steps of the model (`AsyncLLM.collective_rpc`). A
call here only puts a batch into the codec thread's queue and returns the samples that are ready, so
a step of the model never waits for the codec.

`CodecWorker` is the worker's half, `WorkerCodec` ours. Batches and samples are sent as bytes, which
vLLM's messages carry without pickle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orpheus_plugin.codec import CodecStep, open_decoder
from orpheus_plugin.codec.policy import GPU, GPU_TUNED
from orpheus_plugin.codec.step import Lane, StreamingDecoder
from orpheus_plugin.codec.weights import SnacWeights
from orpheus_plugin.errors import EngineDied
from orpheus_plugin.tokens.vllm.generator import VllmGenerator
from orpheus_plugin.tokens.vllm.worker import OrpheusWorker

Samples = NDArray[np.float32]

WORKER = f"{__name__}.CodecWorker"
"""vLLM's `worker_extension_cls` with the codec."""

_IDLE_WAIT_S = 0.02
"""How long a call may wait for samples while the model has nothing to do."""


# ---- what travels


@dataclass(frozen=True, slots=True)
class Batch:
    """One codec step: its number, its lanes, and codes int64 [lanes, n, 3]."""

    number: int
    lanes: Sequence[Lane]
    codes: NDArray[np.int64]

    def to_bytes(self) -> bytes:
        lanes = self.lanes
        blocks = max((0 if lane.keys is None else len(lane.keys) for lane in lanes), default=0)
        keys = np.zeros((len(lanes), blocks, 2), np.int64)
        for row, lane in enumerate(lanes):
            if lane.keys is not None:
                keys[row] = lane.keys
        facts = np.array(
            [(lane.slot, lane.position, lane.end, lane.keys is not None) for lane in lanes],
            np.int64,
        )
        head = np.array((self.number, len(lanes), self.codes.shape[1], blocks), np.int64)
        parts = (head, facts.ravel(), keys.ravel(), self.codes.astype(np.int64).ravel())
        return np.concatenate(parts).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Batch:
        # A copy: compiled loops would be compiled again for the type of read-only arrays.
        values = np.frombuffer(data, np.int64).copy()
        number, count, n, blocks = (int(value) for value in values[:4])
        facts, keys, codes = np.split(values[4:], np.cumsum((4 * count, 2 * blocks * count)))
        rows = zip(facts.reshape(count, 4), keys.reshape(count, blocks, 2), strict=True)
        lanes = [
            Lane(int(slot), own if noisy else None, int(position), int(end))
            for (slot, position, end, noisy), own in rows
        ]
        return cls(number, lanes, codes.reshape(count, n, 3))


def samples_to_bytes(number: int, samples: Samples, eager_steps: int) -> bytes:
    """The samples of a batch, float32 [lanes, m], and how many steps had a shape that was not
    captured."""
    head = np.array((number, *samples.shape, eager_steps), np.int64)
    return head.tobytes() + np.ascontiguousarray(samples, np.float32).tobytes()


def samples_from_bytes(data: bytes) -> tuple[int, Samples, int]:
    number, lanes, m, eager_steps = np.frombuffer(data, np.int64, 4).tolist()
    return number, np.frombuffer(data, np.float32, offset=32).reshape(lanes, m), eager_steps


# ---- in vLLM's worker


class CodecWorker(OrpheusWorker):
    """Mixed into vLLM's worker, with the codec on a thread of its own."""

    device: Any
    _orpheus_codec: _CodecThread | None = None

    def orpheus_codec_load(
        self, folder: str, slots: int, step: CodecStep, shapes: Sequence[Sequence[int]]
    ) -> None:
        """Load a codec in place of the last one, and warm up its (lanes, rows) shapes."""
        if self._orpheus_codec is not None:
            self._orpheus_codec.close()
        self._orpheus_codec = _CodecThread(Path(folder), str(self.device), slots, step)
        self._orpheus_codec.load([(int(lanes), int(n)) for lanes, n in shapes])

    def orpheus_codec_step(self, batch: bytes | None, wait_s: float) -> list[bytes]:
        """Queue a batch. Returns the samples of batches that are done, oldest first.

        Waits up to `wait_s` for the oldest one; with 0 it takes some 20 us and the copy of the
        bytes.
        """
        assert self._orpheus_codec is not None
        return self._orpheus_codec.step(batch, wait_s)


class _CodecThread:
    """A StreamingDecoder and the thread that owns it."""

    def __init__(self, folder: Path, device: str, slots: int, step: CodecStep) -> None:
        self._folder = folder
        self._device = device
        self._slots = slots
        self._step = step
        self._thread = ThreadPoolExecutor(1, "orpheus-codec")
        self._running: list[Future[bytes]] = []
        self._decoder: StreamingDecoder

    def load(self, shapes: list[tuple[int, int]]) -> None:
        self._thread.submit(self._load, shapes).result()

    def _load(self, shapes: list[tuple[int, int]]) -> None:
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.set_device(self._device)
            # With a higher priority: a codec step is short, and a listener waits for it. A graph
            # keeps the priority of the stream it is captured on, which the tuned step's has too.
            torch.cuda.set_stream(torch.cuda.Stream(priority=-1))  # type: ignore[no-untyped-call]
        self._decoder = open_decoder(
            self._folder, device=self._device, slots=self._slots, step=self._step
        )
        self._decoder.enter()
        self._decoder.warm_up(shapes)

    def step(self, batch: bytes | None, wait_s: float) -> list[bytes]:
        if batch is not None:
            self._running.append(self._thread.submit(self._run, batch))
        done: list[bytes] = []
        while self._running:
            if not self._running[0].done() and (done or wait_s <= 0):
                break
            try:
                done.append(self._running[0].result(wait_s))
            except TimeoutError:
                break
            del self._running[0]
        return done

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run(self, data: bytes) -> bytes:
        batch = Batch.from_bytes(data)
        samples = self._decoder._run(batch.lanes, batch.codes)
        return samples_to_bytes(batch.number, samples, self._decoder.eager_steps)


# ---- in our process


class WorkerCodec(StreamingDecoder):
    """The codec in vLLM's worker. For one thread, which is not the event loop's.

    Args:
        generator: the vLLM to use. It must have started before anything is called here.
        folder: directory of SNAC 24 kHz.
        slots: streams that can hold state at the same time.
        device: of vLLM.
        step: as in `open_decoder`.

    Raises what `SnacWeights.load` does.
    """

    depth = 2

    def __init__(
        self,
        generator: VllmGenerator,
        folder: Path,
        *,
        slots: int,
        device: str,
        step: CodecStep = "plain",
    ) -> None:
        super().__init__(SnacWeights.load(folder).config, slots)
        if device.startswith("cuda"):
            self.sizes = GPU_TUNED if step == "tuned" else GPU
        self._generator = generator
        self._folder = folder
        self._step: CodecStep = step
        self._number = 0
        self._samples: dict[int, Samples] = {}

    def warm_up(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Load the codec in the worker and warm up the shapes there. Blocking, seconds."""
        self._call(
            "orpheus_codec_load", str(self._folder), self.slots, self._step,
            [list(shape) for shape in shapes],
        )  # fmt: skip

    def _run(self, lanes: Sequence[Lane], codes: NDArray[np.int64]) -> Samples:
        return self._launch(lanes, codes)()

    def _launch(self, lanes: Sequence[Lane], codes: NDArray[np.int64]) -> Callable[[], Samples]:
        """Takes one step of the model. The samples take at most one more, none if a later launch
        has brought them."""
        self._number += 1
        number = self._number
        self._exchange(Batch(number, lanes, codes).to_bytes())

        def result() -> Samples:
            while number not in self._samples:
                self._exchange(None)
            return self._samples.pop(number)

        return result

    def _exchange(self, batch: bytes | None) -> None:
        """One call: a batch there, samples back. While the model has nothing to do, it may wait for
        them."""
        wait_s = 0.0 if self._generator.running else _IDLE_WAIT_S
        for data in self._call("orpheus_codec_step", batch, wait_s):
            number, samples, self.eager_steps = samples_from_bytes(data)
            self._samples[number] = samples

    def _call(self, method: str, *args: object) -> Any:
        """Raises EngineDied when vLLM dies or is closed meanwhile."""
        loop = self._generator.loop
        if loop is None:
            raise EngineDied("vLLM is not running")
        return asyncio.run_coroutine_threadsafe(
            self._generator.call_worker(method, *args), loop
        ).result()
