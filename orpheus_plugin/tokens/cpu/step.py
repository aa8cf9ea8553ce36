"""One step of the language model, compiled: each of some streams draws an id, and one stream reads
ids of its prompt.

A stream has a place in the cache, which it takes when it joins and frees when it leaves; nothing is
copied. A row of a step is one id at one position of a place; rows of many places are in any order.
`step` is all the work on a row, from its id to the next one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orpheus_plugin.kernels.compiled import compiled, compiled_step, compiled_sum
from orpheus_plugin.kernels.products import LANES, add_product, dot
from orpheus_plugin.kernels.scalars import exp, f4, narrowed, widened
from orpheus_plugin.tokens.cpu.sampler import draw
from orpheus_plugin.tokens.vocabulary import CODES, SLOTS

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

STOP = CODES
"""Column of the stop id, after a slot's 4096 codes."""
COLUMNS = CODES + LANES


class LowRanks(NamedTuple):
    """What each adapter adds to one of the products below, float32 and packed. R: ranks of the
    matrices that share the product's input, one behind the other, filled up with zeros to whole
    16."""

    down: Floats  # packed [inputs, R] of each adapter and layer
    up: Floats  # packed [R, outputs]


class Weights(NamedTuple):
    """A Llama for speech. Matrices are packed (`kernels.products`), those of all layers in one
    array.

    Of the output head there are the audio ids' rows, one matrix a slot, and the stop id's row.
    """

    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    audio_base: int
    embedding: NDArray[Any]  # [vocab, hidden] float32, or uint16: bfloat16
    attention_norm: Floats  # [layers, hidden]
    qkv: NDArray[Any]  # packed [hidden, (heads + 2 kv_heads) head_dim] of each layer
    out: NDArray[Any]  # [heads head_dim, hidden]
    mlp_norm: Floats  # [layers, hidden]
    gate_up: NDArray[Any]  # [hidden, 2 inner]
    down: NDArray[Any]  # [inner, hidden]
    norm: Floats  # [hidden]
    head: NDArray[Any]  # [hidden, 4096] of each slot
    stop: Floats  # [hidden]
    cosine: Floats  # [context, head_dim / 2]
    sine: Floats
    qkv_low: LowRanks
    out_low: LowRanks
    gate_up_low: LowRanks
    down_low: LowRanks

    @property
    def low_ranks(self) -> tuple[LowRanks, ...]:
        return self.qkv_low, self.out_low, self.gate_up_low, self.down_low


class Streams(NamedTuple):
    """The state of each place: its cache, its position, its sampling parameters.

    Keys and values lie as packed matrices, float16 (as uint16) or float32: attention is two
    products.
    """

    keys: NDArray[Any]  # [places, layers, kv_heads, context / 16, head_dim, 16]
    values: NDArray[Any]  # [places, layers, kv_heads, head_dim / 16, context, 16]
    last: Ints  # [places]; the id to read next
    position: Ints  # [places]; where it stands
    drawn: Ints  # [places]; ids drawn so far
    temperature: Floats  # [places]; 0 is greedy
    top_p: Floats
    penalty: Floats
    random: NDArray[np.uint64]  # [places]; state of the random numbers
    adapter: Ints  # [places]; -1: none
    seen: NDArray[np.uint8]  # [places, 7, 4096]; 1: the code was drawn in that slot


class Work(NamedTuple):
    """Working memory of one step of up to R rows. Each array of floats has 32 values more
    (`add_product`)."""

    ids: Ints  # [R]
    place: Ints
    position: Ints
    adapter: Ints
    x: Floats  # [R, hidden]; the residual stream
    normed: Floats  # [R, hidden]
    qkv: Floats  # [R, (heads + 2 kv_heads) head_dim]
    mixed: Floats  # [R, heads head_dim]
    wide: Floats  # [R, 2 inner]
    gated: Floats  # [R, inner]
    low: Floats  # [R, ranks of an adapter]
    scores: Floats  # [heads / kv_heads, context, to whole 16]
    picked: Floats  # [R, hidden]; rows that draw, by slot
    order: Ints  # [R]; which they are
    logits: Floats  # [places, COLUMNS]


@compiled_step
def step(
    weights: Weights,
    streams: Streams,
    work: Work,
    drawing: Ints,
    read_place: int,
    read_from: int,
    read_ids: Ints,
    codes: Ints,
) -> None:
    """Read the last id of each stream that draws, and some ids of one prompt; then draw.

    Args:
        drawing: [n], distinct places; each reads its `last` id and draws the next.
        read_place, read_from, read_ids: a place, and ids [m] for its positions from read_from on.
        codes: [n], written: a code of the stream's slot, or STOP (at slot 0 only).

    Cost: one pass over the blocks' weights for each 8 rows, over each row's cache, and over the
    head once for each slot at which some stream stands.
    """
    draws = len(drawing)
    rows = draws + len(read_ids)
    for r in range(draws):
        place = drawing[r]
        work.place[r] = place
        work.position[r] = streams.position[place]
        work.ids[r] = streams.last[place]
    for r in range(draws, rows):
        work.place[r] = read_place
        work.position[r] = read_from + r - draws
        work.ids[r] = read_ids[r - draws]
    for r in range(rows):
        work.adapter[r] = streams.adapter[work.place[r]]

    x, normed, mixed, gated = work.x, work.normed, work.mixed, work.gated
    hidden, inner = x.shape[1], gated.shape[1]
    for r in range(rows):
        for j in range(hidden):
            x[r, j] = widened(weights.embedding[work.ids[r], j])
    for layer in range(len(weights.attention_norm)):
        norm(rows, x, weights.attention_norm[layer], weights.eps, normed)
        product(rows, normed, weights.qkv[layer], work.qkv)
        add_low_rank(rows, normed, weights.qkv_low, layer, work, work.qkv)
        for r in range(rows):
            rotate_and_keep(r, layer, weights, streams, work)
        for r in range(rows):
            attend(r, layer, weights, streams, work)
        add_product(rows, mixed, mixed.shape[1], weights.out[layer], x, hidden)
        add_low_rank(rows, mixed, weights.out_low, layer, work, x)
        norm(rows, x, weights.mlp_norm[layer], weights.eps, normed)
        product(rows, normed, weights.gate_up[layer], work.wide)
        add_low_rank(rows, normed, weights.gate_up_low, layer, work, work.wide)
        for r in range(rows):
            gate(work.wide[r, :inner], work.wide[r, inner:], gated[r])
        add_product(rows, gated, inner, weights.down[layer], x, hidden)
        add_low_rank(rows, gated, weights.down_low, layer, work, x)

    norm(draws, x, weights.norm, weights.eps, normed)
    logits_by_slot(draws, weights, streams, work)
    for i in range(draws):
        r = work.order[i]
        place = drawing[r]
        slot = streams.drawn[place] % SLOTS
        code = draw(
            work.logits[i],
            streams.seen[place, slot],
            streams.temperature[place],
            streams.top_p[place],
            streams.penalty[place],
            streams.random[place : place + 1],
        )
        codes[r] = code
        streams.drawn[place] += 1
        streams.position[place] += 1
        if code < CODES:
            streams.seen[place, slot, code] = 1
            streams.last[place] = weights.audio_base + slot * CODES + code


@compiled
def product(rows: int, x: Floats, matrix: NDArray[Any], y: Floats) -> None:
    """y = x @ matrix for the first rows."""
    for r in range(rows):
        y[r] = 0
    add_product(rows, x, x.shape[1], matrix, y, y.shape[1])


@compiled
def add_low_rank(rows: int, x: Floats, low: LowRanks, layer: int, work: Work, y: Floats) -> None:
    """y += x @ down @ up with each row's own adapter. Rows side by side that have the same one
    share a pass over it."""
    if len(low.down) == 0:
        return
    r = 0
    while r < rows:
        adapter = work.adapter[r]
        end = r + 1
        while end < rows and work.adapter[end] == adapter:
            end += 1
        if adapter >= 0:
            up = low.up[adapter, layer]
            between, ranks = work.low[r:end], up.shape[1]
            for i in range(end - r):
                between[i, :ranks] = 0
            stride = between.shape[1]
            add_product(end - r, x[r:end], x.shape[1], low.down[adapter, layer], between, stride)
            add_product(end - r, between, stride, up, y[r:end], y.shape[1])
        r = end


@compiled
def norm(rows: int, x: Floats, gain: Floats, eps: float, out: Floats) -> None:
    """RMS norm of each row."""
    size = x.shape[1]
    for r in range(rows):
        scale = f4(1) / np.sqrt(dot(x[r], x[r]) / f4(size) + f4(eps))
        for j in range(size):
            out[r, j] = x[r, j] * scale * gain[j]


@compiled
def gate(gates: Floats, ups: Floats, out: Floats) -> None:
    """silu(gate) * up."""
    for j in range(len(gates)):
        out[j] = gates[j] / (f4(1) + exp(-gates[j])) * ups[j]


@compiled
def rotate_and_keep(r: int, layer: int, weights: Weights, streams: Streams, work: Work) -> None:
    """Rotate the row's queries and keys by its position, scale the queries, put keys and values
    into the cache."""
    heads, kv_heads, size = weights.heads, weights.kv_heads, weights.head_dim
    place, position = work.place[r], work.position[r]
    cosine, sine = weights.cosine[position], weights.sine[position]
    row, half = work.qkv[r], size // 2
    for h in range(heads + kv_heads):
        scale = f4(1) / np.sqrt(f4(size)) if h < heads else f4(1)
        first, second = row[h * size : h * size + half], row[h * size + half : (h + 1) * size]
        for d in range(half):
            a = first[d] * scale
            b = second[d] * scale
            first[d] = a * cosine[d] - b * sine[d]
            second[d] = b * cosine[d] + a * sine[d]
    block, lane = position // LANES, position % LANES
    for h in range(kv_heads):
        keys = streams.keys[place, layer, h, block]
        values = streams.values[place, layer, h]
        key, value = row[(heads + h) * size :], row[(heads + kv_heads + h) * size :]
        for d in range(size):
            keys[d, lane] = narrowed(key[d], keys)
            values[d // LANES, position, d % LANES] = narrowed(value[d], values)


@compiled
def attend(r: int, layer: int, weights: Weights, streams: Streams, work: Work) -> None:
    """Attention of the row's heads over its position and those before, into work.mixed. Heads that
    share keys are computed together."""
    size = weights.head_dim
    group = weights.heads // weights.kv_heads
    place, length = work.place[r], work.position[r] + 1
    blocks = (length + LANES - 1) // LANES
    scores = work.scores
    work.mixed[r] = 0
    for h in range(weights.kv_heads):
        first = h * group * size
        for g in range(group):
            scores[g, : blocks * LANES] = 0
        keys = streams.keys[place, layer, h, :blocks]
        add_product(group, work.qkv[r, first:], size, keys, scores, scores.shape[1])
        for g in range(group):
            softmax(scores[g, :length])
        values = streams.values[place, layer, h, :, :length]
        add_product(group, scores, scores.shape[1], values, work.mixed[r, first:], size)


@compiled_sum
def softmax(x: Floats) -> None:
    highest = x[0]
    for t in range(len(x)):
        highest = max(highest, x[t])
    total = f4(0)
    for t in range(len(x)):
        x[t] = exp(x[t] - highest)
        total += x[t]
    share = f4(1) / total
    for t in range(len(x)):
        x[t] *= share


@compiled
def logits_by_slot(draws: int, weights: Weights, streams: Streams, work: Work) -> None:
    """Logits of the rows that draw, row i of them that of row order[i]: those of one slot share a
    pass over its head."""
    done = 0
    for slot in range(SLOTS):
        count = 0
        for r in range(draws):
            if streams.drawn[work.place[r]] % SLOTS == slot:
                work.order[done + count] = r
                work.picked[done + count] = work.normed[r]
                count += 1
        x, logits = work.picked[done : done + count], work.logits[done : done + count]
        product(count, x, weights.head[slot], logits)
        for i in range(count):
            logits[i, STOP:] = -np.inf
            if slot == 0:
                logits[i, STOP] = dot(x[i], weights.stop)
        done += count
