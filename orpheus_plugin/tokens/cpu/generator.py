"""CpuLlama: the token generator for a CPU. NumPy and numba, one thread, no torch."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from orpheus_plugin.errors import BadCheckpoint, EngineDied
from orpheus_plugin.kernels.first_use import compile_ahead, first_use
from orpheus_plugin.kernels.products import LANES, aligned
from orpheus_plugin.kernels.scalars import HAS_HALF
from orpheus_plugin.tokens.base import SamplingParams
from orpheus_plugin.tokens.batched import BatchedGenerator
from orpheus_plugin.tokens.cpu.step import COLUMNS, Streams, Weights, Work, step
from orpheus_plugin.tokens.cpu.weights import load_weights
from orpheus_plugin.tokens.llama import LlamaShape
from orpheus_plugin.tokens.memory import LazyArray
from orpheus_plugin.tokens.vocabulary import CODES, SLOTS, Vocabulary
from orpheus_plugin.tokens.worker import Reading, Request

logger = logging.getLogger(__name__)

_STEP = "token engine"
_SMALL_BYTES = 1 << 28
"""Weights that another process may read as well, to compile the step."""
_NO_IDS = np.zeros(0, np.int32)
_HEADS_SHARE = 0.05
"""Streams wait for a common slot 0, six steps at most, if reading one slot's head is more than this
share of a step."""


def compile_step_ahead(model_dir: Path) -> None:
    """Begin to compile the step in another process, if it is not compiled and the model is small;
    `CpuLlama.start` waits for it."""
    if sum(file.stat().st_size for file in model_dir.glob("*.safetensors")) <= _SMALL_BYTES:
        compile_ahead(_STEP, __package__, str(model_dir))


class CpuLlama(BatchedGenerator):
    """A TokenGenerator for any Orpheus-shaped Llama checkpoint on one thread of a CPU.

    With equal seeds a request gives equal ids, alone and among others. Greedy ids are those of
    float32 arithmetic on the checkpoint's weights; keys and values are kept as float16 if the CPU
    has it.

    A step costs one pass over the weights for up to 8 streams, of 2 bytes a weight for a bfloat16
    checkpoint, and of the head 4096 rows for each slot at which streams stand. Streams that speak
    with an adapter read its weights as well. benchmarks/generator.py has figures. The first start
    on a machine compiles the step, once: some 10 s.
    """

    def __init__(
        self,
        model_dir: Path,
        vocabulary: Vocabulary,
        *,
        max_streams: int = 16,
        max_context: int = 2048,
        prefill_chunk: int = 64,
        adapters: Mapping[str, Path] | None = None,
    ) -> None:
        """See BatchedGenerator."""
        super().__init__(
            model_dir,
            vocabulary,
            max_streams=max_streams,
            max_context=max_context,
            prefill_chunk=prefill_chunk,
            adapters=adapters,
        )

    def _load(self) -> CpuStepper:
        shape = LlamaShape.read(self._model_dir)
        context = min(self._max_context, shape.max_positions)
        try:
            adapters = self._read_adapters(shape)
            weights = load_weights(self._model_dir, shape, self._vocabulary, context, adapters)
            stepper = CpuStepper(
                weights, places=self._max_streams, context=context, chunk=self._chunk
            )
        except MemoryError as error:
            raise EngineDied(f"{self._model_dir}: not enough memory for the model") from error
        with first_use(_STEP):
            stepper.warm_up(self._vocabulary.bos)
        if not np.isfinite(stepper.work.logits[0, :CODES]).all():
            raise BadCheckpoint(f"{self._model_dir}: the weights give infinite numbers or NaN")
        logger.info(
            "CPU generator: %s, %d layers of width %d, %d streams of %d ids",
            self._model_dir.name,
            shape.layers,
            shape.hidden,
            self._max_streams,
            context,
        )
        return stepper


class CpuStepper:
    """The compiled step with its places and its working memory. See worker.Stepper.

    Memory of the cache: 2 bytes (4 without float16) * 2 * layers * kv_heads * head_dim a position
    in use.
    """

    def __init__(self, weights: Weights, *, places: int, context: int, chunk: int) -> None:
        layers, hidden = weights.attention_norm.shape
        rows = places + chunk
        blocks = -(-context // LANES)
        size = weights.head_dim
        kept = np.uint16 if HAS_HALF else np.float32
        each = places, layers, weights.kv_heads
        self._keys = LazyArray((*each, blocks, size, LANES), kept)
        self._values = LazyArray((*each, -(-size // LANES), context, LANES), kept)
        self.context = context
        self.weights = weights
        self.streams = Streams(
            keys=self._keys.array,
            values=self._values.array,
            last=np.zeros(places, np.int32),
            position=np.zeros(places, np.int32),
            drawn=np.zeros(places, np.int32),
            temperature=np.ones(places, np.float32),
            top_p=np.ones(places, np.float32),
            penalty=np.ones(places, np.float32),
            random=np.zeros(places, np.uint64),
            adapter=np.full(places, -1, np.int32),
            seen=np.zeros((places, SLOTS, CODES), np.uint8),
        )
        inner = weights.down.shape[2]
        self.work = Work(
            ids=np.zeros(rows, np.int32),
            place=np.zeros(rows, np.int32),
            position=np.zeros(rows, np.int32),
            adapter=np.full(rows, -1, np.int32),
            x=_room(rows, hidden),
            normed=_room(rows, hidden),
            qkv=_room(rows, (weights.heads + 2 * weights.kv_heads) * size),
            mixed=_room(rows, weights.heads * size),
            wide=_room(rows, 2 * inner),
            gated=_room(rows, inner),
            low=_room(rows, max(low.up.shape[3] for low in weights.low_ranks)),
            scores=_room(weights.heads // weights.kv_heads, blocks * LANES),
            picked=_room(places, hidden),
            order=np.zeros(places, np.int32),
            logits=_room(places, COLUMNS),
        )
        slot = weights.head[0].nbytes
        blocks_bytes = sum(
            matrix.nbytes for matrix in (weights.qkv, weights.out, weights.gate_up, weights.down)
        )
        self.aligned = slot > _HEADS_SHARE * (slot + blocks_bytes)
        self._free = list(range(places))[::-1]
        self._codes = np.zeros(places, np.int32)

    def warm_up(self, token_id: int) -> None:
        """Read one id and draw one; compiles or loads the step. Leaves the logits in
        work.logits[0]."""
        greedy = SamplingParams(temperature=0.0, repetition_penalty=1.0)
        request = Request("warm-up", [token_id, token_id], greedy, 1, 0)
        self.join(request)
        self.step([], Reading(request, [token_id]))
        request.read = 1
        self.begin(request)
        self.step([request], None)
        self.leave(request)

    def enter(self) -> None:
        """Nothing: compiled loops run on the thread that calls them."""

    def join(self, request: Request) -> None:
        """See Stepper."""
        request.place = self._free.pop()
        self.streams.adapter[request.place] = request.adapter

    def begin(self, request: Request) -> None:
        """See Stepper."""
        place, sampling, streams = request.place, request.sampling, self.streams
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed % 2**64
        streams.last[place] = request.prompt[-1]
        streams.position[place] = len(request.prompt) - 1
        streams.drawn[place] = 0
        streams.temperature[place] = sampling.temperature
        streams.top_p[place] = sampling.top_p
        streams.penalty[place] = sampling.repetition_penalty
        streams.random[place] = seed
        streams.seen[place] = 0

    def leave(self, request: Request) -> None:
        """See Stepper."""
        self._keys.give_back(self.streams.keys[request.place])
        self._values.give_back(self.streams.values[request.place])
        self._free.append(request.place)

    def step(self, drawing: Sequence[Request], reading: Reading | None) -> list[int]:
        """See Stepper. The interpreter is free while it runs."""
        place, position, ids = 0, 0, _NO_IDS
        if reading is not None:
            place, position = reading.request.place, reading.request.read
            ids = np.array(reading.ids, np.int32)
        # Those with the same adapter are neighbours, so that they share its products.
        order = sorted(range(len(drawing)), key=lambda n: drawing[n].adapter)
        step(
            self.weights,
            self.streams,
            self.work,
            np.array([drawing[n].place for n in order], np.int32),
            place,
            position,
            ids,
            self._codes,
        )
        codes = [0] * len(drawing)
        for n, code in zip(order, self._codes[: len(drawing)].tolist(), strict=True):
            codes[n] = code
        return codes


def _room(rows: int, columns: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """float32 [rows, columns] with 32 values after it, which add_product may write to."""
    return aligned((rows * columns + 2 * LANES,), np.float32)[: rows * columns].reshape(
        rows, columns
    )
