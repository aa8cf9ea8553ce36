"""The exact streaming step: many streams, each somewhere in its own utterance, advance by n latents at once.

Exact means: the pieces a stream gets, concatenated, equal `snac.SNAC.decode` of all its codes (noise off) up to float
rounding, from sample 0 to sample 512 * latents - 1, whatever the chunking and whoever shares the batch. Output lags
input by the decoder's one-sided receptive field (4757 samples = 198 ms): 10 latents give the first 363 samples, and
10 latents of padding behind the last one flush the tail.

State: 119,232 floats (466 KiB in float32) per stream for the full-size decoder, held in pools with one row per slot.
A step gathers the rows of its streams, and scatters them back: 1 % of a step of one frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orpheus_plugin.codec.decoder import LATENT_SAMPLES, SnacDecoder
from orpheus_plugin.codec.layers import Block, Tails
from orpheus_plugin.codec.noise import normal, stream_keys

FAR = 1 << 40
"""End of a stream whose end is not known yet, in latents."""

_TILE = 1 << 18
"""Values of one activation a CPU works on at a time, so that the passes over it stay in the L2 cache.

Measured: with 1 << 16 a step of 16 lanes takes a fifth longer (more calls), without a limit a quarter (memory)."""


@dataclass(slots=True)
class Lane:
    """One stream's place in the decoder.

    Attributes:
        slot: row of the state pools.
        keys: noise keys, int64 [blocks, 2]; None is no noise.
        position: latents stepped so far; 0 makes the next step ignore whatever state the slot holds.
        end: total latents of the stream once known, else FAR. Codes stepped at or behind it are ignored.
    """

    slot: int
    keys: NDArray[np.int64] | None = None
    position: int = 0
    end: int = FAR


@dataclass(slots=True)
class _Inputs:
    """What a step reads, int64, on the decoder's device; B lanes, n latents.

    All of it lies in one block, which goes to a GPU in one copy that nobody waits for. Where another process computes on the
    same GPU, as vLLM's does, whatever is waited for there waits for that process first, some 2 ms each on an H200. When the
    inputs went one by one, half of a step's 16 to 30 ms was waiting for them; alone on the GPU a step took 2 to 9.
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
    """Which work a step may leave out; decided on the host from the lanes, so never in a CUDA graph."""

    masked: bool = True  # some lane is near its start or its end
    noisy: bool = True
    skip: list[bool] = field(default_factory=list)  # per stage: no row coming out is of any stream


class StreamingDecoder:
    """Steps streams through a `SnacDecoder`. Not thread-safe: one thread owns it.

    On a CPU a step runs eagerly in any shape. On CUDA each (lanes, latents) shape given to `warm_up` is captured as a
    CUDA graph (lanes are rounded up to a captured shape; spare ones write to a scratch slot); other shapes run
    eagerly. The tests marked `gpu` check it; on an H200 a step of 4 latents takes 1.7 ms for one stream, 7.9 for 64.

    Args:
        slots: streams that can hold state at the same time.
    """

    def __init__(self, decoder: SnacDecoder, *, slots: int = 32) -> None:
        self.decoder = decoder
        self.slots = slots
        self.delay = decoder.delay
        self.flush_latents = math.ceil(decoder.delay / LATENT_SAMPLES)
        self._pools: list[list[Tensor]] = [
            [
                torch.zeros(r, slots + 1, c, device=decoder.device, dtype=decoder.dtype)
                for r, c in s.tail_shapes
            ]
            for s in decoder.stages
        ]
        self._blocks = len(decoder.config.decoder_rates)
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, _Inputs, Tensor]] = {}
        # Per stage: rows in per latent, rows by which its input is late; then the same for its output.
        self._geometry: list[tuple[int, int, int, int]] = []
        rate, late = 1, 0
        for stage in decoder.stages:
            out = rate * stage.stride, late * stage.stride + stage.delays[-1]
            self._geometry.append((rate, late, *out))
            rate, late = out

    @property
    def state_floats(self) -> int:
        """Values of state per stream."""
        return sum(rows * c for stage in self.decoder.stages for rows, c in stage.tail_shapes)

    def lane(self, slot: int, *, seed: int = 0, noise: bool = True) -> Lane:
        """A new stream in `slot`; takes effect with its first step."""
        with_noise = noise and self.decoder.config.noise
        return Lane(slot, stream_keys(seed, self._blocks) if with_noise else None)

    @torch.inference_mode()
    def step(self, lanes: Sequence[Lane], codes: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        """Advance every lane by the same number of latents.

        Args:
            lanes: distinct slots.
            codes: int64 [len(lanes), n, 3], 0..4095. Rows at or behind a lane's end are ignored.

        Returns:
            Per lane the samples that became final, float32 [m], m <= 512 * n; empty in a stream's first 9 latents.

        Cost: one pass of 0.1 GFLOP a latent and lane (full size); blocks until the samples are on the host.
        """
        n = codes.shape[1]
        host = _on_host(self._run(lanes, codes.transpose(1, 0, 2)))  # [n * 512, B or more]
        pieces = []
        for column, lane in enumerate(lanes):
            first = lane.position * LATENT_SAMPLES - self.delay
            stop = min(n * LATENT_SAMPLES, lane.end * LATENT_SAMPLES - first)
            pieces.append(host[max(0, -first) : max(0, stop), column].copy())
            lane.position += n
        return pieces

    def decode(
        self, codes: NDArray[np.int64], *, seed: int = 0, noise: bool = True, chunk: int = 64
    ) -> NDArray[np.float32]:
        """Decode a whole utterance in slot 0. int64 [n, 3] -> float32 [512 * n]. For tests and offline use."""
        lane = self.lane(0, seed=seed, noise=noise)
        lane.end = len(codes)
        padded = np.concatenate([codes, np.zeros((self.flush_latents, 3), np.int64)])
        pieces = [
            self.step([lane], padded[None, i : i + chunk])[0] for i in range(0, len(padded), chunk)
        ]
        return np.concatenate(pieces)

    def warm_up(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Run every (lanes, latents) shape once on the scratch slot; on CUDA capture its graph."""
        for lanes, latents in shapes:
            idle = [Lane(self.slots) for _ in range(lanes)]
            codes = np.zeros((latents, lanes, 3), np.int64)
            if self.decoder.device.type == "cuda":
                self._capture(idle, codes)
            else:
                with torch.inference_mode():
                    self._forward(
                        self._inputs(idle, codes), _Plan(skip=[False] * len(self._geometry))
                    )

    # -- one step ------------------------------------------------------------------------------------------------

    def _run(self, lanes: Sequence[Lane], codes: NDArray[np.int64]) -> Tensor:
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
        return self._forward(self._inputs(lanes, codes), self._plan(lanes, n))

    def _inputs(self, lanes: Sequence[Lane], codes: NDArray[np.int64]) -> _Inputs:
        block = self._pack(lanes, codes).to(self.decoder.device, non_blocking=True)
        return _Inputs.within(block, len(codes), len(lanes), self._blocks)

    def _pack(self, lanes: Sequence[Lane], codes: NDArray[np.int64]) -> Tensor:
        """The block of `_Inputs` on the host, for a GPU in memory that it reads by itself. codes: [n, B, 3]."""
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
        # Full masks only where a row may lie outside: lateness never exceeds `flush_latents`.
        plan.masked = any(
            lane.position <= self.flush_latents or lane.position + n > lane.end for lane in lanes
        )
        for rate_in, late_in, rate_out, late_out in self._geometry:
            # Nothing has reached the stage yet, or nothing more leaves it.
            plan.skip.append(
                all(
                    (lane.position + n) * rate_in <= late_in
                    or (lane.position - lane.end) * rate_out >= late_out
                    for lane in lanes
                )
            )
        return plan

    def _forward(self, inputs: _Inputs, plan: _Plan) -> Tensor:
        """-> [n * 512, B]; pure tensor work, no host synchronisation: this is what a CUDA graph captures."""
        n = inputs.codes.shape[0]
        tails: list[Tails] = [
            [pool.index_select(1, inputs.slots) for pool in pools] for pools in self._pools
        ]
        if plan.masked:
            fresh = (inputs.position == 0).view(1, -1, 1)
            for stage_tails in tails:
                for index, tail in enumerate(stage_tails):
                    stage_tails[index] = tail.masked_fill(fresh, 0)
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
        """Run `x`, the rows of this step from `row` on, through the stages from `depth` on, a tile of rows at a time.

        Each tile goes all the way down before the next one starts: a layer's memory makes that exact, and the
        activations of the wide last blocks never leave the cache.
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
        """1.0 where an output row at this rate and lateness lies within its stream, [n * rate, B, 1]."""
        rows = torch.arange(n * rate, device=inputs.slots.device).unsqueeze(1) - late
        rows = rows + inputs.position * rate
        inside = (rows >= 0) & (rows < inputs.end * rate)
        return inside.to(self.decoder.dtype).unsqueeze(-1)

    def _masks(self, inputs: _Inputs, n: int) -> list[list[Tensor]]:
        masks = []
        for stage, (_, late_in, rate_out, _) in zip(
            self.decoder.stages, self._geometry, strict=True
        ):
            base = late_in * stage.stride
            masks.append(
                [self._inside(inputs, n, rate_out, base + delay) for delay in stage.delays]
            )
        return masks

    def _noise(self, inputs: _Inputs, n: int) -> list[Tensor]:
        """Per block the draws of its rows, [n * rate, B, 1]."""
        device = inputs.slots.device
        positions, keys, sizes = [], [], []
        for number, stage in enumerate(self.decoder.stages[1:-1]):
            _, late_in, rate_out, _ = self._geometry[number + 1]
            late = late_in * stage.stride + stage.delays[0]
            rows = torch.arange(n * rate_out, device=device).unsqueeze(1) - late
            positions.append(rows + inputs.position * rate_out)
            keys.append(inputs.keys[number].unsqueeze(0).expand(n * rate_out, -1, -1))
            sizes.append(n * rate_out)
        draws = normal(torch.cat(keys), torch.cat(positions)).to(self.decoder.dtype)
        draws *= inputs.noisy
        return list(torch.split(draws.unsqueeze(-1), sizes))

    def _capture(self, idle: Sequence[Lane], codes: NDArray[np.int64]) -> None:
        """Capture one shape as a CUDA graph. Masks and noise are always in it: its shape may not depend on data."""
        whole = _Plan(skip=[False] * len(self._geometry))
        with torch.inference_mode():
            inputs = self._inputs(idle, codes)
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._forward(inputs, whole)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                audio = self._forward(inputs, whole)
            _on_host(audio)  # the first step of this shape finds its memory on the host
        self._graphs[len(idle), codes.shape[0]] = graph, inputs, audio


def _on_host(audio: Tensor) -> NDArray[np.float32]:
    """The samples once they are there, all that a step waits for; from a GPU in memory that it writes by itself."""
    audio = audio.float()
    if audio.device.type != "cuda":
        return audio.numpy()
    host = torch.empty(audio.shape, pin_memory=True).copy_(audio, non_blocking=True)
    torch.cuda.current_stream(audio.device).synchronize()
    return host.numpy()
