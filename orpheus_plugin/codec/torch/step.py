"""TorchDecoder: the exact streaming step in torch, on a GPU as CUDA graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orpheus_plugin.codec.config import Stage
from orpheus_plugin.codec.policy import GPU, GPU_TUNED
from orpheus_plugin.codec.step import Lane, StreamingDecoder
from orpheus_plugin.codec.torch.decoder import SnacDecoder
from orpheus_plugin.codec.torch.elementwise import Elementwise
from orpheus_plugin.codec.torch.layers import Block, Tails
from orpheus_plugin.codec.torch.output import OutputRing, on_host
from orpheus_plugin.codec.weights import SnacWeights
from orpheus_plugin.models.devices import compiler_missing, compute_alone

logger = logging.getLogger(__name__)

_TILE = 1 << 18
"""Values of one activation a CPU works on at a time, so that the passes over it stay in the L2
cache.

Measured: with 1 << 16 a step of 16 lanes takes a fifth longer (more calls), without a limit a
quarter (memory)."""


@dataclass(slots=True)
class _Inputs:
    """What a step reads, int64, on the decoder's device; B lanes, n rows of codes.

    All of it is one block, which goes to a GPU in one asynchronous copy. If another process
    computes on the same GPU, as vLLM's does, each synchronisation waits for that process first,
    some 2 ms on an H200. With one copy per input, half of a step's 16 to 30 ms was waiting for
    them; alone on the GPU a step took 2 to 9 ms.
    """

    block: Tensor
    codes: Tensor  # [n, B, 3]
    slots: Tensor  # [B]
    position: Tensor  # [B]
    end: Tensor  # [B]
    noisy: Tensor  # [B]; 0 where noise is off
    keys: Tensor  # [blocks, B, 2]

    @classmethod
    def within(cls, block: Tensor, n: int, lanes: int, blocks: int) -> _Inputs:
        sizes = [n * lanes * 3, lanes, lanes, lanes, lanes, blocks * lanes * 2]
        codes, slots, position, end, noisy, keys = torch.split(block, sizes)
        return cls(
            block,
            codes.view(n, lanes, 3),
            slots,
            position,
            end,
            noisy,
            keys.view(blocks, lanes, 2),
        )


@dataclass(slots=True)
class _Plan:
    """Which work a step may leave out; decided on the host from the lanes, so never in a CUDA
    graph."""

    masked: bool = True  # some lane is near its start or its end
    noisy: bool = True
    skip: list[bool] = field(default_factory=list)  # per stage: no row coming out is of any stream


class TorchDecoder(StreamingDecoder):
    """See StreamingDecoder.

    On a CPU a step runs eagerly in any shape. On CUDA each (lanes, rows) shape given to `warm_up`
    is captured as a CUDA graph (lanes are rounded up to a captured shape; spare ones write to a
    scratch slot); other shapes run eagerly. The tests marked `gpu` check it; on an H200 a step of 4
    rows takes 1.7 ms for one stream, 7.9 ms for 64.

    State lies in pools with one row per slot: a step gathers the rows of its streams, and scatters
    them back, 1 % of a step of one frame.

    Args:
        tuned: for a GPU that a language model also uses. The work between the products is compiled
            where there is a compiler, steps run on a CUDA stream of higher priority, the next step
            begins before the samples of the last one are waited for, and listeners with much left
            to play get four frames at once. The last bits of a stream then depend on its chunks.
    """

    def __init__(
        self,
        weights: SnacWeights,
        *,
        slots: int = 32,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        tuned: bool = False,
    ) -> None:
        super().__init__(weights.config, slots)
        self.decoder = SnacDecoder(weights).to(device=torch.device(device), dtype=dtype)
        if self.decoder.device.type == "cuda":
            self.sizes = GPU_TUNED if tuned else GPU
        self._ring: OutputRing | None = None
        self._stream: torch.cuda.Stream | None = None
        if tuned:
            self._tune()
        self._stages = self.config.stages
        self._pools: list[list[Tensor]] = [
            [
                torch.zeros(r, slots + 1, c, device=self.decoder.device, dtype=dtype)
                for r, c in stage.tails
            ]
            for stage in self._stages
        ]
        self._blocks = len(self.config.decoder_rates)
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, _Inputs, Tensor]] = {}

    def _tune(self) -> None:
        self.depth = 2
        self._ring = OutputRing(self.decoder.device)
        if self.sizes.fixed:
            # What is captured on a stream keeps its priority.
            self._stream = torch.cuda.Stream(self.decoder.device, priority=-1)  # type: ignore[no-untyped-call]
        if missing := compiler_missing(self.decoder.device.type):
            logger.warning("the codec's step is not compiled: %s", missing)
        else:
            self.decoder.use(Elementwise.compiled())

    def enter(self) -> None:
        """See StreamingDecoder."""
        if not self.sizes.fixed:
            compute_alone()
        elif self._stream is not None:
            torch.cuda.set_stream(self._stream)

    def warm_up(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Run every (lanes, rows) shape once on the scratch slot; on CUDA capture its graph."""
        for lanes, latents in shapes:
            idle = [Lane(self.slots) for _ in range(lanes)]
            codes = np.zeros((latents, lanes, 3), np.int64)
            if self.decoder.device.type == "cuda":
                self._capture(idle, codes)
            else:
                with torch.inference_mode():
                    self._forward(
                        self._inputs(idle, codes), _Plan(skip=[False] * len(self._stages))
                    )

    # ---- one step

    @torch.inference_mode()
    def _launch(
        self, lanes: Sequence[Lane], codes: NDArray[np.int64]
    ) -> Callable[[], NDArray[np.float32]]:
        if self._ring is None:
            return super()._launch(lanes, codes)
        samples = self._ring.take(self._audio(lanes, codes.transpose(1, 0, 2)))
        return lambda: samples().T

    @torch.inference_mode()
    def _run(self, lanes: Sequence[Lane], codes: NDArray[np.int64]) -> NDArray[np.float32]:
        return on_host(self._audio(lanes, codes.transpose(1, 0, 2))).T

    def _audio(self, lanes: Sequence[Lane], codes: NDArray[np.int64]) -> Tensor:
        """codes [n, B, 3] -> samples [n * 512, B or more]."""
        n = codes.shape[0]
        if self._graphs:
            sizes = [size for size, latents in self._graphs if latents == n and size >= len(lanes)]
            if sizes:
                size = min(sizes)
                graph, inputs, audio = self._graphs[size, n]
                spare = [Lane(self.slots) for _ in range(size - len(lanes))]
                padded = np.concatenate([codes, np.zeros((n, len(spare), 3), np.int64)], axis=1)
                inputs.block.copy_(self._pack([*lanes, *spare], padded), non_blocking=True)
                graph.replay()
                return audio
            self.eager_steps += 1
        return self._forward(self._inputs(lanes, codes), self._plan(lanes, n))

    def _inputs(self, lanes: Sequence[Lane], codes: NDArray[np.int64]) -> _Inputs:
        block = self._pack(lanes, codes).to(self.decoder.device, non_blocking=True)
        return _Inputs.within(block, len(codes), len(lanes), self._blocks)

    def _pack(self, lanes: Sequence[Lane], codes: NDArray[np.int64]) -> Tensor:
        """The block of `_Inputs` on the host, for a GPU in pinned memory. codes: [n, B, 3]."""
        keys = np.zeros((self._blocks, len(lanes), 2), np.int64)
        for column, lane in enumerate(lanes):
            if lane.keys is not None:
                keys[:, column] = lane.keys
        facts = [
            [lane.slot for lane in lanes],
            [lane.position for lane in lanes],
            [lane.end for lane in lanes],
            [lane.keys is not None for lane in lanes],
        ]
        block = torch.from_numpy(
            np.concatenate([codes.ravel(), np.array(facts, np.int64).ravel(), keys.ravel()])
        )
        return block.pin_memory() if self.decoder.device.type == "cuda" else block

    def _plan(self, lanes: Sequence[Lane], n: int) -> _Plan:
        plan = _Plan(noisy=any(lane.keys is not None for lane in lanes))
        # Full masks only where a row may lie outside: lateness never exceeds `flush_rows`.
        plan.masked = any(
            lane.position <= self.flush_rows or lane.position + n > lane.end for lane in lanes
        )
        for stage in self._stages:
            # Nothing has reached the stage yet, or nothing more leaves it.
            plan.skip.append(
                all(
                    (lane.position + n) * stage.rate <= stage.late
                    or (lane.position - lane.end) * stage.rate_out >= stage.late_out
                    for lane in lanes
                )
            )
        return plan

    def _forward(self, inputs: _Inputs, plan: _Plan) -> Tensor:
        """-> [n * 512, B]; pure tensor work, no host synchronisation: this is what a CUDA graph
        captures."""
        n = inputs.codes.shape[0]
        work = self.decoder.work
        fresh = (inputs.position == 0).view(1, -1, 1)
        tails: list[Tails] = [
            [
                work.take(pool, inputs.slots, fresh)
                if plan.masked
                else pool.index_select(1, inputs.slots)
                for pool in pools
            ]
            for pools in self._pools
        ]
        masks = self._masks(inputs, n) if plan.masked else None
        noise = self._noise(inputs, n) if plan.noisy else None
        x = self.decoder.embed(inputs.codes)
        if plan.masked:
            x *= self._inside(inputs, n, 1, 0)
        out: list[Tensor] = []
        self._descend(0, x, 0, tails, masks, noise, plan.skip, out)
        for pools, stage_tails in zip(self._pools, tails, strict=True):
            for pool, tail in zip(pools, stage_tails, strict=True):
                pool.index_copy_(1, inputs.slots, tail)
        return (out[0] if len(out) == 1 else torch.cat(out)).squeeze(-1)

    def _descend(
        self,
        depth: int,
        x: Tensor,
        row: int,
        tails: list[Tails],
        masks: list[list[Tensor]] | None,
        noise: list[Tensor] | None,
        skip: list[bool],
        out: list[Tensor],
    ) -> None:
        """Run `x`, the rows of this step from `row` on, through the stages from `depth` on, a tile
        of rows at a time.

        Each tile goes through all stages before the next one starts: that is exact because each
        layer keeps its tail, and the activations of the wide last blocks stay in the cache.
        """
        if depth == len(self.decoder.stages):
            out.append(x)
            return
        stage = self.decoder.stages[depth]
        if skip[depth]:
            y = x.new_zeros(x.shape[0] * stage.stride, x.shape[1], stage.channels)
            self._descend(depth + 1, y, row * stage.stride, tails, masks, noise, skip, out)
            return
        for start, tile in self._tiles(stage, x):
            first = (row + start) * stage.stride
            rows = slice(first, first + tile.shape[0] * stage.stride)
            own_masks = None if masks is None else [mask[rows] for mask in masks[depth]]
            own_noise = (
                noise[depth - 1][rows] if noise is not None and isinstance(stage, Block) else None
            )
            y = stage.step(tile, tails[depth], own_masks, own_noise)
            self._descend(depth + 1, y, first, tails, masks, noise, skip, out)

    def _tiles(self, stage: object, x: Tensor) -> list[tuple[int, Tensor]]:
        if x.device.type != "cpu" or not isinstance(stage, Block):
            return [(0, x)]
        # A block with large weights wants enough rows per pass to be worth reading them.
        values = max(_TILE, stage.upsample.current.weight.numel() // 8)
        rows = max(1, values // (x.shape[1] * stage.channels * stage.stride))
        return [(start, x[start : start + rows]) for start in range(0, x.shape[0], rows)]

    def _inside(self, inputs: _Inputs, n: int, rate: int, late: int) -> Tensor:
        """1.0 where an output row at this rate and lateness lies within its stream, [n * rate, B,
        1]."""
        inside = self.decoder.work.inside(n * rate, late, rate, inputs.position, inputs.end)
        return inside.to(self.decoder.dtype).unsqueeze(-1)

    def _masks(self, inputs: _Inputs, n: int) -> list[list[Tensor]]:
        def masks_of(stage: Stage) -> list[Tensor]:
            late = stage.late * stage.stride
            return [self._inside(inputs, n, stage.rate_out, late + delay) for delay in stage.delays]

        return [masks_of(stage) for stage in self._stages]

    def _noise(self, inputs: _Inputs, n: int) -> list[Tensor]:
        """Per block the draws of its rows, [n * rate, B, 1]."""
        device = inputs.slots.device
        positions, keys, sizes = [], [], []
        for number, stage in enumerate(self._stages[1:-1]):
            rate_out, late = stage.rate_out, stage.late * stage.stride + stage.delays[0]
            rows = torch.arange(n * rate_out, device=device).unsqueeze(1) - late
            positions.append(rows + inputs.position * rate_out)
            keys.append(inputs.keys[number].unsqueeze(0).expand(n * rate_out, -1, -1))
            sizes.append(n * rate_out)
        draws = self.decoder.work.normal(torch.cat(keys), torch.cat(positions)).to(
            self.decoder.dtype
        )
        draws *= inputs.noisy
        return list(torch.split(draws.unsqueeze(-1), sizes))

    def _capture(self, idle: Sequence[Lane], codes: NDArray[np.int64]) -> None:
        """Capture one shape as a CUDA graph. Masks and noise are always in it: its shape may not
        depend on data."""
        whole = _Plan(skip=[False] * len(self._stages))
        with torch.inference_mode():
            inputs = self._inputs(idle, codes)
            side = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._forward(inputs, whole)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=side):
                audio = self._forward(inputs, whole)
            on_host(audio)  # the first step of this shape finds its memory on the host
        self._graphs[len(idle), codes.shape[0]] = graph, inputs, audio
