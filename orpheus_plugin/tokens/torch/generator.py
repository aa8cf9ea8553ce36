"""TorchLlama: the token generator that needs only torch, for a GPU without vLLM; on a CPU the
reference."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from orpheus_plugin.errors import BadCheckpoint, EngineDied, InvalidOptions
from orpheus_plugin.models.devices import compute_alone
from orpheus_plugin.tokens.base import SamplingParams
from orpheus_plugin.tokens.batched import BatchedGenerator
from orpheus_plugin.tokens.llama import LlamaShape
from orpheus_plugin.tokens.torch.llama import Llama
from orpheus_plugin.tokens.torch.sampler import Sampler
from orpheus_plugin.tokens.torch.weights import load_weights
from orpheus_plugin.tokens.vocabulary import CODES, SLOTS, Vocabulary
from orpheus_plugin.tokens.worker import Reading, Request

logger = logging.getLogger(__name__)


class TorchLlama(BatchedGenerator):
    """A TokenGenerator for any Orpheus-shaped Llama checkpoint, on a CPU or a CUDA device.

    With equal seeds a single request gives equal ids; in a batch the random numbers are the same,
    but the last bits of the logits may differ.

    A step costs, for B streams: one pass over the blocks' weights, `4096 * hidden` products a
    stream for the head, a read of each stream's cache up to the longest one, and some 20 operations
    of sampling for the whole batch. benchmarks/generator.py has figures. On CUDA the same code runs
    operation by operation (no graphs): tested there, not tuned.
    """

    def __init__(
        self,
        model_dir: Path,
        vocabulary: Vocabulary,
        *,
        max_streams: int = 16,
        max_context: int = 2048,
        device: str = "cpu",
        dtype: torch.dtype | str | None = None,
        prefill_chunk: int | None = None,
        adapters: Mapping[str, Path] | None = None,
    ) -> None:
        """See BatchedGenerator.

        Args:
            device: "cpu", "cuda", "cuda:1", or "auto".
            dtype: of the weights. By default bfloat16 on CUDA and on CPUs with instructions for it,
                where the blocks are large enough to gain from it; else float32. On a CPU everything
                but the matrix products is float32.
            prefill_chunk: by default 64 on a CPU, 512 on CUDA.

        Raises InvalidOptions also for an unknown dtype or device.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._device = torch.device(device)
        except RuntimeError as error:
            raise InvalidOptions(f"no device {device!r}") from error
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise InvalidOptions(f"device {device!r}: torch finds no CUDA GPU on this machine")
        on_cpu = self._device.type == "cpu"
        if isinstance(dtype, str):
            named = getattr(torch, dtype, None)
            if not isinstance(named, torch.dtype):
                raise InvalidOptions(f"no dtype {dtype!r}")
            dtype = named
        self._dtype = dtype
        default = 64 if on_cpu else 512
        super().__init__(
            model_dir,
            vocabulary,
            max_streams=max_streams,
            max_context=max_context,
            prefill_chunk=default if prefill_chunk is None else prefill_chunk,
            adapters=adapters,
        )

    @property
    def dtype(self) -> str:
        """The dtype of the weights; "" before `start`."""
        if self._worker is None:
            return ""
        stepper = self._worker.stepper
        assert isinstance(stepper, TorchStepper)
        return str(stepper.model.weights.head[0].dtype).removeprefix("torch.")

    def _load(self) -> TorchStepper:
        try:
            shape = LlamaShape.read(self._model_dir)
            context = min(self._max_context, shape.max_positions)
            on_cpu = self._device.type == "cpu"
            dtype = self._dtype or _best_dtype(shape, on_cpu)
            inner = torch.float32 if on_cpu else dtype
            weights = load_weights(
                self._model_dir,
                shape,
                self._vocabulary,
                self._device,
                dtype,
                inner,
                self._read_adapters(shape),
            )
            with torch.inference_mode():
                # One place more than streams: prompts are read there while the others run.
                places = self._max_streams + 1
                model = Llama(shape, weights, streams=places, context=context, dtype=inner)
                sampler = Sampler(self._max_streams, context, self._device)
                self._warm_up(model, sampler)
                stepper = TorchStepper(model, sampler, self._vocabulary, self._max_streams)
        except (RuntimeError, MemoryError) as error:  # out of memory, most likely
            what = str(error).strip().partition("\n")[0]
            raise EngineDied(
                f"the model could not be loaded onto {self._device}: {what}"
            ) from error
        logger.info(
            "Torch generator: %s, %d layers of width %d, %s on %s, %d streams of %d ids",
            self._model_dir.name,
            shape.layers,
            shape.hidden,
            str(dtype).removeprefix("torch."),
            self._device,
            self._max_streams,
            context,
        )
        return stepper

    def _warm_up(self, model: Llama, sampler: Sampler) -> None:
        ids = torch.tensor([self._vocabulary.bos], device=self._device)
        model.prefill(self._max_streams, ids, 0)
        hidden = model.step(ids, torch.zeros_like(ids), 0, ragged=False)
        logits = model.logits(hidden, [0])
        if not torch.isfinite(logits[:, : CODES + 1]).all():
            raise BadCheckpoint(f"{self._model_dir}: the weights give infinite numbers or NaN")
        sampler.join(0, SamplingParams(seed=0))
        sampler.draw(logits, [0])


class TorchStepper:
    """The batched model with its places. Places 0 .. n-1 hold the n streams that draw, without
    gaps; prompts are read in the place behind the last, one after the other. See worker.Stepper."""

    aligned = False

    def __init__(
        self, model: Llama, sampler: Sampler, vocabulary: Vocabulary, streams: int
    ) -> None:
        self.model = model
        self.context = model.context
        self._sampler = sampler
        self._spare = streams
        self._placed: list[Request] = []
        self._ids = torch.zeros(streams, dtype=torch.int64, device=model.device)
        self._positions = torch.zeros_like(self._ids)
        self._bases = vocabulary.audio_base + CODES * torch.arange(SLOTS, device=model.device)

    def enter(self) -> None:
        """See Stepper."""
        if self.model.device.type == "cpu":
            compute_alone()

    def join(self, request: Request) -> None:
        """See Stepper."""

    @torch.inference_mode()
    def begin(self, request: Request) -> None:
        """See Stepper."""
        request.place = len(self._placed)
        self._placed.append(request)
        self.model.move(self._spare, request.place, request.read)
        self._sampler.join(request.place, request.sampling)
        self._ids[request.place] = request.prompt[-1]
        self._positions[request.place] = request.read

    @torch.inference_mode()
    def leave(self, request: Request) -> None:
        """The last request moves into the place."""
        if request.place < 0:
            return
        place, last = request.place, len(self._placed) - 1
        moved = self._placed.pop()
        if place != last:
            self._placed[place] = moved
            moved.place = place
            self.model.move(last, place, moved.read + moved.drawn)
            self._sampler.move(last, place)
            self._ids[place] = self._ids[last]
            self._positions[place] = self._positions[last]
        self.model.clear(last)

    @torch.inference_mode()
    def step(self, drawing: Sequence[Request], reading: Reading | None) -> list[int]:
        """See Stepper."""
        if reading is not None:
            self.model.choose(self._spare, reading.request.adapter)
            prompt = torch.tensor(reading.ids, device=self.model.device)
            self.model.prefill(self._spare, prompt, reading.request.read)
        if not drawing:
            return []
        running = self._placed
        counts = [request.drawn for request in running]
        places = [request.read + request.drawn for request in running]
        longest = max(places)
        ids, positions = self._ids[: len(running)], self._positions[: len(running)]
        hidden = self.model.step(ids, positions, longest, ragged=min(places) != longest)
        slots = [count % SLOTS for count in counts]
        drawn = self._sampler.draw(self.model.logits(hidden, slots), counts)
        torch.add(drawn, self._bases[slots], out=ids)
        positions += 1
        codes = drawn.tolist()
        return [int(codes[request.place]) for request in drawing]


def _best_dtype(shape: LlamaShape, on_cpu: bool) -> torch.dtype:
    """bfloat16 halves what a step reads, but costs some 15 us more a product on a CPU: small blocks
    stay float32."""
    if not on_cpu:
        return torch.bfloat16
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if has_bf16 and shape.hidden >= 192 else torch.float32
