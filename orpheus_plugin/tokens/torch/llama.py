"""A Llama decoder that works on a pool of streams: one key-value cache for all, each stream at its
own position."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from orpheus_plugin.tokens.llama import LlamaShape, rotary_frequencies
from orpheus_plugin.tokens.memory import LazyArray
from orpheus_plugin.tokens.torch.weights import LlamaWeights, LowRanks
from orpheus_plugin.tokens.vocabulary import CODES, SLOTS

Tensor = torch.Tensor

STOP = CODES
"""Column of the stop id in the logits; columns 0..4095 are the codes of a row's slot."""
SPARE = CODES + 1
"""A column that is always -inf, so that lists of codes of different lengths can be padded with
it."""
COLUMNS = CODES + 2
_ROWS = 16
"""Prompts are read in multiples of so many ids: oneDNN keeps a kernel for every number of rows it
meets in bfloat16."""


class Llama:
    """The network and its cache. Not thread-safe; nothing here waits or allocates per stream.

    `dtype` is that of the residual stream, of attention and of the cache; the weights may have a
    narrower one, then the matrix products are done in it. The cache is [layers, 2, streams,
    kv_heads, context, head_dim], zeroed: `2 * layers * kv_heads * head_dim` numbers a position and
    stream. On a CPU it holds memory only for positions that were used since the stream's last
    `clear`.

    A call of `hidden` costs one pass over the weights plus, for each stream, a read of its cache up
    to the longest one.
    """

    def __init__(
        self,
        shape: LlamaShape,
        weights: LlamaWeights,
        *,
        streams: int,
        context: int,
        dtype: torch.dtype,
    ) -> None:
        self.shape = shape
        self.weights = weights
        self.context = context
        self.device = weights.embedding.device
        self.dtype = dtype
        sizes = (shape.layers, 2, streams, shape.kv_heads, context, shape.head_dim)
        self._memory = LazyArray(sizes, np.float32) if self.device.type == "cpu" else None
        self.cache = (
            torch.zeros(sizes, device=self.device, dtype=dtype)
            if self._memory is None
            else torch.from_numpy(self._memory.array)
        )
        angles = torch.from_numpy(np.outer(np.arange(context), rotary_frequencies(shape)))
        self._turns = torch.polar(torch.ones_like(angles), angles).to(
            device=self.device, dtype=torch.complex64
        )
        self._eps = torch.tensor(shape.eps, device=self.device)
        self._places = torch.arange(context, device=self.device)
        # For each stream, 1 at its adapter.
        self._adapters = torch.zeros(
            (streams, weights.adapters), device=self.device, dtype=weights.head[0].dtype
        )

    def choose(self, stream: int, adapter: int) -> None:
        """The adapter of a stream, -1 for none."""
        if self.weights.adapters:
            self._adapters[stream] = 0
            if adapter >= 0:
                self._adapters[stream, adapter] = 1

    def prefill(self, stream: int, ids: Tensor, start: int) -> None:
        """Read `ids` (int64 [n]) into a stream's cache at positions start .. start + n - 1.

        Some positions behind them may be written to as well; whatever is read or drawn next
        overwrites them.
        """
        end = min(start + -(-len(ids) // _ROWS) * _ROWS, self.context)
        ids = F.pad(ids, (0, end - start - len(ids)))
        positions = self._places[start:end]
        ahead = self._places[:end] > positions[:, None]
        mask = torch.zeros((len(ids), end), device=self.device, dtype=self.dtype)
        mask.masked_fill_(ahead, float("-inf"))
        group = self.shape.heads // self.shape.kv_heads
        rows = positions.new_full((len(ids),), stream)
        self._run(
            ids, rows, positions, slice(stream, stream + 1), end, mask.repeat_interleave(group, 0)
        )

    def step(self, ids: Tensor, positions: Tensor, longest: int, ragged: bool) -> Tensor:
        """One id for each of the streams 0 .. B-1.

        Args:
            ids, positions: int64 [B]: the ids and where they stand.
            longest: the highest of the positions.
            ragged: whether the positions differ.

        Returns: the normed hidden states after these ids, [B, hidden].
        """
        count, end = len(ids), longest + 1
        mask = None
        if ragged:
            ahead = self._places[:end] > positions[:, None]
            mask = torch.zeros((count, 1, 1, end), device=self.device, dtype=self.dtype)
            mask.masked_fill_(ahead[:, None, None], float("-inf"))
        x = self._run(ids, self._places[:count], positions, slice(0, count), end, mask)
        return self._normed(x, self.weights.norm)

    def logits(self, hidden: Tensor, slots: list[int]) -> Tensor:
        """Logits of the ids that may follow: fp32 [B, 4098], the codes of each row's slot, STOP
        (slot 0 only), SPARE.

        The head costs 4096 rows a stream, not the whole vocabulary; rows of one slot share a
        product.
        """
        out = hidden.new_full((len(slots), COLUMNS), float("-inf"), dtype=torch.float32)
        by_slot: list[list[int]] = [[] for _ in range(SLOTS)]
        for row, slot in enumerate(slots):
            by_slot[slot].append(row)
        for slot, rows in enumerate(by_slot):
            if not rows:
                continue
            if len(rows) == len(slots):
                out[:, :CODES] = _product(hidden, self.weights.head[slot])
                if slot == 0:
                    out[:, STOP] = _product(hidden, self.weights.stop)[:, 0]
                break
            chosen = torch.tensor(rows, device=self.device)
            part = hidden[chosen]
            out[chosen, :CODES] = _product(part, self.weights.head[slot]).float()
            if slot == 0:
                out[chosen, STOP] = _product(part, self.weights.stop)[:, 0].float()
        return out

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one stream's cache to another's, and its adapter."""
        self._adapters[target] = self._adapters[source]
        self.cache[:, :, target, :, :length] = self.cache[:, :, source, :, :length]

    def clear(self, stream: int) -> None:
        """Give a stream's part of the cache back to the system, where it can be."""
        if self._memory is not None:
            for plane in self.cache.flatten(0, 1):
                self._memory.give_back(plane[stream].numpy())

    def _run(
        self,
        ids: Tensor,
        rows: Tensor,
        positions: Tensor,
        streams: slice,
        end: int,
        mask: Tensor | None,
    ) -> Tensor:
        """The blocks. `rows` and `positions` say where each id stands; `streams` are the streams
        attended to, each with the same number of ids, up to position `end` - 1."""
        shape = self.shape
        count = streams.stop - streams.start
        rotated = shape.heads + shape.kv_heads
        half = shape.head_dim // 2
        group = shape.heads // shape.kv_heads
        turns = self._turns[positions][:, None]
        x = F.embedding(ids, self.weights.embedding).to(self.dtype)
        chosen = self._adapters[rows]
        keys, values = self.cache[:, :, streams, :, :end].unbind(1)
        for layer, cache, key, value in zip(
            self.weights.layers, self.cache, keys.unbind(0), values.unbind(0), strict=True
        ):
            normed = self._normed(x, layer.attention_norm)
            added = layer.adapters
            qkv = _product(normed, layer.qkv)
            if added is not None:
                qkv = _add_low_rank(qkv, normed, added.qkv, chosen)
            qkv = qkv.float().view(len(x), -1, shape.head_dim)
            pairs = torch.view_as_complex(qkv[:, :rotated].view(len(x), rotated, half, 2))
            pairs *= turns  # in place: queries and keys are views of it
            qkv = qkv.to(x.dtype)
            cache[:, rows, :, positions] = qkv[:, shape.heads :].view(
                len(x), 2, shape.kv_heads, shape.head_dim
            )
            # The queries that share a key-value head stand in one row of "positions", so that no
            # key is repeated.
            q = qkv[:, : shape.heads].view(count, -1, shape.kv_heads, group, shape.head_dim)
            q = q.transpose(1, 2).reshape(count, shape.kv_heads, -1, shape.head_dim)
            seen = F.scaled_dot_product_attention(q, key, value, attn_mask=mask)
            seen = seen.view(count, shape.kv_heads, -1, group, shape.head_dim).transpose(1, 2)
            mixed = seen.reshape(len(x), -1)
            x = _add_product(x, mixed, layer.out)
            if added is not None:
                x = _add_low_rank(x, mixed, added.out, chosen)
            normed = self._normed(x, layer.mlp_norm)
            wide = _product(normed, layer.gate_up)
            if added is not None:
                wide = _add_low_rank(wide, normed, added.gate_up, chosen)
            gate, up = wide.chunk(2, -1)
            gated = F.silu(gate) * up
            x = _add_product(x, gated, layer.down)
            if added is not None:
                x = _add_low_rank(x, gated, added.down, chosen)
        return x

    def _normed(self, x: Tensor, gain: Tensor) -> Tensor:
        """RMS norm. On a CPU torch's own is some eight operations."""
        if x.dtype != torch.float32 or x.device.type != "cpu":
            return F.rms_norm(x, (self.shape.hidden,), gain, self.shape.eps)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        squares = torch.addcmul(self._eps, length, length, value=1 / self.shape.hidden)
        return (x * squares.rsqrt_()).mul_(gain)


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.mm(x.to(matrix.dtype), matrix)


def _add_product(x: Tensor, y: Tensor, matrix: Tensor) -> Tensor:
    if x.dtype == matrix.dtype:
        return torch.addmm(x, y, matrix)
    return x + torch.mm(y.to(matrix.dtype), matrix)


def _add_low_rank(y: Tensor, x: Tensor, low: LowRanks, chosen: Tensor) -> Tensor:
    """y [rows, out] + what each row's adapter makes of x [rows, in]; chosen [rows, adapters] is 1
    for it.

    All adapters are computed for all rows, and those that a row does not have are dropped between
    the two products.
    """
    between = _product(x, low.down).view(len(x), chosen.shape[1], -1) * chosen[:, :, None]
    return _add_product(y, between.flatten(1), low.up)
