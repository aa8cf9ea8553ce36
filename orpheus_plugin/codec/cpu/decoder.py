"""CpuDecoder: SNAC's streaming decoder on one thread of a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orpheus_plugin.codec.config import DILATIONS, KERNEL, ROW_SAMPLES, SnacConfig, Stage
from orpheus_plugin.codec.cpu import step as compiled
from orpheus_plugin.codec.cpu.layers import tiled
from orpheus_plugin.codec.cpu.step import Block, Decoder, Floats, Head, Lanes, Stem, Unit, Work
from orpheus_plugin.codec.step import Lane, StreamingDecoder
from orpheus_plugin.codec.weights import Folded, SnacWeights
from orpheus_plugin.kernels.first_use import compile_ahead, first_use
from orpheus_plugin.kernels.products import LANES, aligned, pack

_SHARED = 16
"""Blocks whose weights are so many times larger than a latent's rows out are run for all lanes at
once."""

_STEP = "codec"
_TILE = 1 << 15
"""Values of the last block's rows that are worked on at a time: 128 KiB, of which some four arrays
fit the L2 cache."""


def compile_step_ahead(snapshot: Path) -> None:
    """Begin to compile the step in another process, if it is not compiled; `warm_up` waits for
    it."""
    compile_ahead(_STEP, __package__, str(snapshot))


class CpuDecoder(StreamingDecoder):
    """See StreamingDecoder. It uses one thread: products are compiled loops, not a BLAS.

    Cost: benchmarks/codec.py has figures. A step's cost is proportional to its lanes and rows; its
    working memory, kept for the largest so far, is some 0.3 MB a row and lane at full size.
    """

    def __init__(self, weights: SnacWeights, *, slots: int = 32) -> None:
        super().__init__(weights.config, slots)
        self._decoder = _packed(weights)
        self._state = np.zeros((slots + 1, self.config.state_floats), np.float32)
        self._work: Work | None = None
        self._room = 0, 0

    def warm_up(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Compile or load the step, make room."""
        with first_use(_STEP):
            for lanes, latents in shapes:
                codes = np.zeros((lanes, latents, 3), np.int64)
                self._run([Lane(self.slots) for _ in range(lanes)], codes)

    def _run(self, lanes: Sequence[Lane], codes: NDArray[np.int64]) -> Floats:
        count, latents, _ = codes.shape
        audio = np.empty((count, latents * ROW_SAMPLES), np.float32)
        keys = np.zeros((count, len(self.config.decoder_rates), 2), np.int64)
        for row, lane in enumerate(lanes):
            if lane.keys is not None:
                keys[row] = lane.keys
        facts = Lanes(
            slots=np.array([lane.slot for lane in lanes], np.int64),
            position=np.array([lane.position for lane in lanes], np.int64),
            end=np.array([lane.end for lane in lanes], np.int64),
            keys=keys,
            noisy=np.array([lane.keys is not None for lane in lanes], np.bool_),
        )
        work = self._work_for(count, latents)
        codes = np.ascontiguousarray(codes, np.int64)
        compiled.step(self._decoder, codes, facts, self._state, work, audio)
        return audio

    def _work_for(self, lanes: int, latents: int) -> Work:
        """Working memory of a step, kept for the next one."""
        if self._work is None or lanes * latents > self._room[0] or latents > self._room[1]:
            most, longest = max(lanes * latents, self._room[0]), max(latents, self._room[1])
            self._room = most, longest
            self._work = _work(self._decoder, most, longest)
        return self._work


def _packed(weights: SnacWeights) -> Decoder:
    """The weights for the compiled step, and how the step is divided."""
    config = weights.config
    stages, tails = config.stages, _tails(config)
    first = weights.below("decoder.model.0."), weights.below("decoder.model.1.")
    stem = Stem(
        latent=config.latent_dim,
        tables=weights.tables,
        taps=_taps(first[0]["weight"], 1),
        bias=first[0]["bias"],
        pointwise=_pointwise(first[1]["weight"]),
        pointwise_bias=first[1]["bias"],
        late=stages[0].late_out,
        tail=tails[0][0],
    )
    blocks = tuple(
        _block(
            number, stage, tails[number + 1], weights.below(f"decoder.model.{number + 2}.block.")
        )
        for number, stage in enumerate(stages[1:-1])
    )
    last, head_stage = len(blocks) + 2, stages[-1]
    tensors = weights.tensors
    alpha = tensors[f"decoder.model.{last}.alpha"].reshape(-1)
    kernel = tensors[f"decoder.model.{last + 1}.weight"][0]
    head = Head(
        channels=len(alpha),
        rate=head_stage.rate,
        alpha=tiled(alpha, head_stage.rate),
        scale=tiled(_inverse(alpha), head_stage.rate),
        taps=np.ascontiguousarray(kernel.T).reshape(-1),
        bias=float(tensors[f"decoder.model.{last + 1}.bias"][0]),
        tail=tails[-1][0],
    )
    large = [
        block.upsample.size + 3 * block.channels**2 > _SHARED * block.rate_out * block.channels
        for block in blocks
    ]
    shared = min(large.index(False) if False in large else len(large), len(large) - 1)
    tile = max(1, _TILE // (ROW_SAMPLES * blocks[-1].channels))
    return Decoder(stem, blocks, head, shared, tile)


def _block(number: int, stage: Stage, tails: list[int], weights: Folded) -> Block:
    rate, channels = stage.rate_out, stage.channels
    alpha = weights["0.alpha"].reshape(-1)
    # [in, out, 2 stride] -> the row before: taps stride .. 2 stride - 1, the row itself: taps 0 ..
    # stride - 1.
    taps = weights["1.weight"].transpose(0, 2, 1)
    before, own = taps[:, stage.stride :], taps[:, : stage.stride]
    upsample = np.concatenate([before, own]).reshape(2 * len(alpha), -1)
    mixing = weights.get("2.linear.weight")
    offset = 2 if mixing is None else 3

    def unit(position: int, dilation: int) -> Unit:
        own = {
            name.partition(".block.")[2]: tensor
            for name, tensor in weights.items()
            if name.startswith(f"{position + offset}.block.")
        }
        alphas = [own[f"{part}.alpha"].reshape(-1) for part in (0, 2)]
        return Unit(
            dilation=dilation,
            alpha_in=tiled(alphas[0], rate),
            scale_in=tiled(_inverse(alphas[0]), rate),
            taps=_taps(own["1.weight"], rate),
            bias=tiled(own["1.bias"], rate),
            alpha_mid=tiled(alphas[1], rate),
            scale_mid=tiled(_inverse(alphas[1]), rate),
            pointwise=_pointwise(own["3.weight"]),
            pointwise_bias=tiled(own["3.bias"], rate),
            late_tail=tails[1 + 2 * position],
            tail=tails[2 + 2 * position],
        )

    one, two, three = (unit(position, dilation) for position, dilation in enumerate(DILATIONS))
    return Block(
        number=number,
        rate=stage.rate,
        late=stage.late,
        rate_out=rate,
        late_out=stage.late_out,
        stride=stage.stride,
        inputs=len(alpha),
        channels=channels,
        delays=np.array(stage.delays, np.int64),
        alpha=tiled(alpha, stage.rate),
        scale=tiled(_inverse(alpha), stage.rate),
        upsample=pack(upsample),
        upsample_bias=np.tile(weights["1.bias"], stage.stride),
        noise=pack(np.zeros((channels, channels), np.float32))
        if mixing is None
        else _pointwise(mixing),
        units=(one, two, three),
        tail=tails[0],
    )


def _inverse(alpha: Floats) -> Floats:
    """A snake's scale."""
    return np.float32(1) / (alpha + np.float32(1e-9))


def _taps(weight: Floats, rows: int) -> Floats:
    """[channels, 1, 7] -> [7, channels], tiled."""
    return tiled(np.ascontiguousarray(weight[:, 0].T), rows)


def _pointwise(weight: Floats) -> Floats:
    """[out, in, 1] -> packed [in, out]."""
    return pack(np.ascontiguousarray(weight[..., 0].T))


def _tails(config: SnacConfig) -> list[list[int]]:
    """Where in a slot's state each tail of each stage begins."""
    places: list[list[int]] = []
    at = 0
    for stage in config.stages:
        places.append([])
        for rows, channels in stage.tails:
            places[-1].append(at)
            at += rows * channels
    return places


def _work(decoder: Decoder, most: int, longest: int) -> Work:
    """Working memory for `most` latents of all lanes, `longest` of one lane."""
    stem, blocks, head = decoder.stem, decoder.blocks, decoder.head
    shared, own = blocks[: decoder.shared], blocks[decoder.shared :]
    tile = min(decoder.tile, longest)
    out_shared = [block.rate_out * block.channels for block in shared]
    out_own = [block.rate_out * block.channels for block in own]
    windows_shared = [2 * block.rate * block.inputs for block in shared]
    windows_own = [2 * block.rate * block.inputs for block in own]
    history = (KERNEL - 1) * max(DILATIONS)
    a_lane = max([stem.latent, *out_shared, *(w // 2 for w in windows_shared)])
    joined = max(
        longest * a_lane, tile * max(*out_own, *windows_own, head.rate * head.channels)
    ) + history * max(stem.latent, *(block.inputs for block in blocks))

    def room(values: int) -> Floats:
        return aligned((values + 2 * LANES,), np.float32)

    return Work(
        shared_a=room(most * max([blocks[0].inputs, *out_shared])),
        shared_b=room(most * max([1, *out_shared])),
        own_a=room(tile * max(out_own)),
        own_b=room(tile * max(out_own)),
        filtered=room(max(most * max([stem.latent, *out_shared]), tile * max(out_own))),
        windows=room(max(most * max([1, *windows_shared]), tile * max(windows_own))),
        joined=room(joined),
        draws=room(max(longest, tile) * max(block.rate_out for block in blocks)),
    )
