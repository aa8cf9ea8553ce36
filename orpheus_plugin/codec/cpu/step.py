"""One step of SNAC's streaming decoder, compiled: many lanes, each at its own position of its
utterance, advance by n latents.

Rows are in order of lanes, then of time, [lanes, rows, channels]. The first blocks have large
weights and few rows: all lanes share a pass over them. The others have few weights and many rows:
each lane goes through them and the head some latents at a time, so that values between two blocks
stay in the cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orpheus_plugin.codec.cpu.layers import (
    blank,
    convolve,
    convolve_snake,
    copy,
    delayed,
    fill,
    normal,
    snake,
    tanh,
)
from orpheus_plugin.kernels.compiled import compiled, compiled_step
from orpheus_plugin.kernels.products import add_product, dot
from orpheus_plugin.kernels.scalars import f4

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Stem(NamedTuple):
    """Latents to the first block's channels: depthwise 7, pointwise."""

    latent: int  # channels of a latent
    tables: Floats  # [3, 4096, latent]
    taps: Floats  # [7, latent]
    bias: Floats
    pointwise: Floats  # packed [latent, channels]
    pointwise_bias: Floats
    late: int
    tail: int  # where in a slot's state; so everywhere


class Unit(NamedTuple):
    """x + pointwise(snake(depthwise(snake(x)))); late by 3 * dilation rows. Parameters of depthwise
    and snakes are tiled."""

    dilation: int
    alpha_in: Floats
    scale_in: Floats
    taps: Floats
    bias: Floats
    alpha_mid: Floats
    scale_mid: Floats
    pointwise: Floats  # packed [channels, channels]
    pointwise_bias: Floats  # tiled
    late_tail: int
    tail: int


class Block(NamedTuple):
    """Snake, transposed convolution, noise, three units.

    The transposed convolution is one product: its kernel is twice its stride, so `stride` rows out
    mix an input row and the one before it.
    """

    number: int
    rate: int  # see config.Stage
    late: int
    rate_out: int
    late_out: int
    stride: int
    inputs: int
    channels: int
    delays: Ints  # [4]
    alpha: Floats
    scale: Floats
    upsample: Floats  # packed [2 inputs, stride * channels]
    upsample_bias: Floats  # [stride * channels]
    noise: Floats  # packed [channels, channels]
    units: tuple[Unit, Unit, Unit]
    tail: int


class Head(NamedTuple):
    """Snake, convolution of kernel 7 to one channel, tanh."""

    channels: int
    rate: int
    alpha: Floats
    scale: Floats
    taps: Floats  # [7 * channels]
    bias: float
    tail: int


class Decoder(NamedTuple):
    """The whole decoder. The first `shared` blocks are run for all lanes at once, the others for
    `tile` latents of a lane."""

    stem: Stem
    blocks: tuple[Block, ...]
    head: Head
    shared: int
    tile: int


class Lanes(NamedTuple):
    """For each lane: its slot, latents before this step, latents in all, noise keys, whether it has
    noise."""

    slots: Ints
    position: Ints
    end: Ints
    keys: Ints  # [lanes, blocks, 2]
    noisy: NDArray[np.bool_]


class Work(NamedTuple):
    """Working memory, each with 32 values more (`add_product`). The first two are for all lanes,
    the others for one lane's tile; `filtered` and `windows` for either."""

    shared_a: Floats
    shared_b: Floats
    own_a: Floats
    own_b: Floats
    filtered: Floats
    windows: Floats
    joined: Floats
    draws: Floats


@compiled_step
def step(
    decoder: Decoder, codes: Ints, lanes: Lanes, state: Floats, work: Work, audio: Floats
) -> None:
    """Decode codes [B, n, 3] into audio [B, n * 512]; state [slots, floats] is what the streams
    remember."""
    count, n, _ = codes.shape
    for lane in range(count):
        if lanes.position[lane] == 0:
            state[lanes.slots[lane]] = 0
    run_stem(decoder.stem, codes, lanes, state, work)
    for number in range(decoder.shared):
        run_block(
            decoder.blocks[number],
            *(work.shared_a, 0, n, 0, count),
            *(lanes, state, work, work.shared_a, work.shared_b),
        )
    rate = decoder.blocks[decoder.shared].rate
    width = rate * decoder.blocks[decoder.shared].inputs
    for lane in range(count):
        for first in range(0, n, decoder.tile):
            latents = min(decoder.tile, n - first)
            x = work.shared_a[(lane * n + first) * width :]
            for number in range(decoder.shared, len(decoder.blocks)):
                run_block(
                    decoder.blocks[number],
                    *(x, first, latents, lane, lane + 1),
                    *(lanes, state, work, work.own_a, work.own_b),
                )
                x = work.own_a
            samples = decoder.head.rate
            out = audio[lane, first * samples : (first + latents) * samples]
            run_head(decoder.head, x, state[lanes.slots[lane]], work, out)


@compiled
def run_stem(stem: Stem, codes: Ints, lanes: Lanes, state: Floats, work: Work) -> None:
    """Codes to rows of the first block, in work.shared_a."""
    count, n, _ = codes.shape
    width, history = stem.latent, 6 * stem.latent
    size = n * width
    joined = work.joined[: history + size]
    for lane in range(count):
        tail = state[lanes.slots[lane], stem.tail : stem.tail + history]
        copy(tail, joined)
        for i in range(n):
            row = joined[history + i * width : history + (i + 1) * width]
            a, b, c = codes[lane, i, 0], codes[lane, i, 1], codes[lane, i, 2]
            row[:] = stem.tables[0, a] + stem.tables[1, b] + stem.tables[2, c]
        blank(joined[history:], width, 0, lanes.end[lane] - lanes.position[lane])
        copy(joined[size:], tail)
        convolve(
            joined, width, stem.taps, stem.bias, work.filtered[lane * size : (lane + 1) * size]
        )
    channels = len(stem.pointwise_bias)
    x = work.shared_a[: count * n * channels]
    fill(x, stem.pointwise_bias)
    add_product(count * n, work.filtered, width, stem.pointwise, x, channels)
    for lane in range(count):
        before = stem.late - lanes.position[lane]
        rows = x[lane * n * channels : (lane + 1) * n * channels]
        blank(rows, channels, before, before + lanes.end[lane])


@compiled
def run_block(
    block: Block,
    x: Floats,
    first: int,
    latents: int,
    lane: int,
    stop: int,
    lanes: Lanes,
    state: Floats,
    work: Work,
    a: Floats,
    b: Floats,
) -> None:
    """Rows of latents `first` to first + latents - 1 of some lanes through a block: from x, which
    may be a, to a."""
    count, rows, inputs, channels = stop - lane, latents * block.rate, block.inputs, block.channels
    size = latents * block.rate_out * channels  # values out, of a lane
    if idle(block, first, latents, lane, stop, lanes):
        a[: count * size] = 0
        return
    for i in range(count):
        tail = state[lanes.slots[lane + i], block.tail : block.tail + inputs]
        joined = work.joined[: inputs + rows * inputs]
        copy(tail, joined)
        snake(
            x[i * rows * inputs : (i + 1) * rows * inputs],
            block.alpha,
            block.scale,
            joined[inputs:],
        )
        copy(joined[rows * inputs :], tail)
        for row in range(rows):
            window = work.windows[(i * rows + row) * 2 * inputs :]
            copy(joined[row * inputs : (row + 2) * inputs], window)
    fill(b[: count * size], block.upsample_bias)
    width = block.stride * channels
    add_product(count * rows, work.windows, 2 * inputs, block.upsample, b, width)
    add_noise(block, first, latents, lane, stop, lanes, work, b)
    blank_outside(block, 0, first, latents, lane, stop, lanes, b)
    for number in range(len(block.units)):
        unit = block.units[number]
        apart = unit.dilation * channels
        history, late = 6 * apart, 3 * apart
        for i in range(count):
            kept = state[lanes.slots[lane + i]]
            own = b[i * size : (i + 1) * size]
            joined = work.joined[: history + size]
            tail = kept[unit.tail : unit.tail + history]
            copy(tail, joined)
            snake(own, unit.alpha_in, unit.scale_in, joined[history:])
            copy(joined[size:], tail)
            convolve_snake(
                *(joined, apart, unit.taps, unit.bias, unit.alpha_mid, unit.scale_mid),
                work.filtered[i * size : (i + 1) * size],
            )
            tail = kept[unit.late_tail : unit.late_tail + late]
            delayed(tail, own, unit.pointwise_bias, a[i * size : (i + 1) * size])
        out_rows = count * latents * block.rate_out
        add_product(out_rows, work.filtered, channels, unit.pointwise, a, channels)
        blank_outside(block, number + 1, first, latents, lane, stop, lanes, a)
        a, b = b, a


@compiled
def idle(block: Block, first: int, latents: int, lane: int, stop: int, lanes: Lanes) -> bool:
    """Whether no lane has rows for the block yet, or none has rows left."""
    for i in range(lane, stop):
        position, end = lanes.position[i] + first, lanes.end[i]
        waiting = (position + latents) * block.rate <= block.late
        over = (position - end) * block.rate_out >= block.late_out
        if not (waiting or over):
            return False
    return True


@compiled
def blank_outside(
    block: Block,
    point: int,
    first: int,
    latents: int,
    lane: int,
    stop: int,
    lanes: Lanes,
    x: Floats,
) -> None:
    """Zero the rows of x that lie outside their stream, at the block's delay number `point`."""
    late = block.late * block.stride + block.delays[point]
    size = latents * block.rate_out * block.channels
    for i in range(stop - lane):
        before = late - (lanes.position[lane + i] + first) * block.rate_out
        own = x[i * size : (i + 1) * size]
        blank(own, block.channels, before, before + lanes.end[lane + i] * block.rate_out)


@compiled
def add_noise(
    block: Block,
    first: int,
    latents: int,
    lane: int,
    stop: int,
    lanes: Lanes,
    work: Work,
    x: Floats,
) -> None:
    """x += draw * (x @ noise) for the lanes that have noise, one draw a row."""
    rows, channels = latents * block.rate_out, block.channels
    late = block.late * block.stride + block.delays[0]
    draws = work.draws[:rows]
    for i in range(lane, stop):
        if not lanes.noisy[i]:
            continue
        own = x[(i - lane) * rows * channels :]
        scaled = work.filtered[: rows * channels]
        scaled[:] = 0
        add_product(rows, own, channels, block.noise, scaled, channels)
        normal(
            lanes.keys[i, block.number], (lanes.position[i] + first) * block.rate_out - late, draws
        )
        for row in range(rows):
            y, z = own[row * channels : (row + 1) * channels], scaled[row * channels :]
            for c in range(len(y)):
                y[c] += draws[row] * z[c]


@compiled
def run_head(head: Head, x: Floats, kept: Floats, work: Work, out: Floats) -> None:
    """Rows of one lane to samples."""
    history, size = 6 * head.channels, len(out) * head.channels
    joined = work.joined[: history + size]
    tail = kept[head.tail : head.tail + history]
    copy(tail, joined)
    snake(x[:size], head.alpha, head.scale, joined[history:])
    copy(joined[size:], tail)
    for row in range(len(out)):
        out[row] = dot(joined[row * head.channels :], head.taps) + f4(head.bias)
    for row in range(len(out)):
        out[row] = tanh(out[row])
