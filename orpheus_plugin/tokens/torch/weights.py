"""A Llama checkpoint's weights as torch tensors, laid out for `llama.Llama`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from orpheus_plugin.tensors import Tensor as Array
from orpheus_plugin.tokens.adapters import Adapter, stacked
from orpheus_plugin.tokens.llama import LayerTensors, LlamaShape, LlamaTensors
from orpheus_plugin.tokens.vocabulary import Vocabulary

Tensor = torch.Tensor


@dataclass(frozen=True)
class LowRanks:
    """What n adapters add to one product. R: ranks of an adapter; the adapters' lie behind each
    other."""

    down: Tensor  # [inputs, n * R]
    up: Tensor  # [n * R, outputs]


@dataclass(frozen=True)
class LayerAdapters:
    """What the adapters add to the products of one block."""

    qkv: LowRanks
    out: LowRanks
    gate_up: LowRanks
    down: LowRanks


@dataclass(frozen=True)
class Layer:
    """One block. Queries and keys are permuted so that each rotated pair lies side by side."""

    attention_norm: Tensor  # [hidden]
    qkv: Tensor  # [hidden, (heads + 2 * kv_heads) * head_dim]
    out: Tensor  # [heads * head_dim, hidden]
    mlp_norm: Tensor  # [hidden]
    gate_up: Tensor  # [hidden, 2 * inner]
    down: Tensor  # [inner, hidden]
    adapters: LayerAdapters | None = None


@dataclass(frozen=True)
class LlamaWeights:
    """The weights that speech needs: of the output head, only the audio rows and the stop id's
    row."""

    embedding: Tensor  # [vocab, hidden]
    layers: tuple[Layer, ...]
    norm: Tensor  # [hidden]
    head: tuple[Tensor, ...]  # of each slot [hidden, 4096]
    stop: Tensor  # [hidden, 1]
    adapters: int = 0


def load_weights(
    model_dir: Path,
    shape: LlamaShape,
    vocabulary: Vocabulary,
    device: torch.device,
    dtype: torch.dtype,
    norm_dtype: torch.dtype,
    adapters: Sequence[Adapter] = (),
) -> LlamaWeights:
    """Read the weights onto `device`: matrices as `dtype`, the gains of the norms as `norm_dtype`.

    Raises what LlamaTensors does.
    """
    tensors = LlamaTensors(model_dir, shape, vocabulary)

    def matrix(*parts: Tensor) -> Tensor:
        return _turned(torch.cat(parts).to(device=device, dtype=dtype))

    def gain(array: Array) -> Tensor:
        return _tensor(array).to(device=device, dtype=norm_dtype)

    added = low_ranks(adapters, shape, device, dtype) if adapters else [None] * shape.layers

    def block(number: int, layer: LayerTensors) -> Layer:
        q, k = (_pairs(_tensor(part), shape.head_dim) for part in (layer.q, layer.k))
        return Layer(
            attention_norm=gain(layer.attention_norm),
            qkv=matrix(q, k, _tensor(layer.v)),
            out=matrix(_tensor(layer.out)),
            mlp_norm=gain(layer.mlp_norm),
            gate_up=matrix(_tensor(layer.gate), _tensor(layer.up)),
            down=matrix(_tensor(layer.down)),
            adapters=added[number],
        )

    embedding = _tensor(tensors.embedding)
    # Single rows of it are read: a narrow one is widened with them.
    narrow = min(embedding.dtype, dtype, key=lambda kind: kind.itemsize)
    return LlamaWeights(
        embedding=embedding.to(device=device, dtype=narrow),
        layers=tuple(block(number, layer) for number, layer in enumerate(tensors.layers)),
        norm=gain(tensors.norm),
        head=tuple(matrix(_tensor(slot)) for slot in tensors.head),
        stop=matrix(_tensor(tensors.stop)),
        adapters=len(adapters),
    )


def low_ranks(
    adapters: Sequence[Adapter], shape: LlamaShape, device: torch.device, dtype: torch.dtype
) -> list[LayerAdapters]:
    """What the adapters add, of each block."""

    def site(*modules: str) -> list[LowRanks]:
        downs, ups = (torch.from_numpy(part) for part in stacked(adapters, shape, modules))
        if modules[0] == "q_proj":
            rotated = (shape.heads + shape.kv_heads) * shape.head_dim
            turned = _pairs(ups[..., :rotated].reshape(-1, rotated).T, shape.head_dim).T
            ups = torch.cat([turned.view(*ups.shape[:3], rotated), ups[..., rotated:]], -1)
        return [
            LowRanks(
                down.permute(1, 0, 2).flatten(1).to(device, dtype),
                up.flatten(0, 1).to(device, dtype),
            )
            for down, up in zip(downs.unbind(1), ups.unbind(1), strict=True)
        ]

    parts = (
        site("q_proj", "k_proj", "v_proj"),
        site("o_proj"),
        site("gate_proj", "up_proj"),
        site("down_proj"),
    )
    return [LayerAdapters(*some) for some in zip(*parts, strict=True)]


def _tensor(array: Array) -> Tensor:
    """A copy: an array is a view of its file."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def _pairs(rows: Tensor, size: int) -> Tensor:
    """Rows of each head from halves [0 .. d/2, d/2 .. d] to pairs [0, d/2, 1, d/2 + 1, ...]."""
    return rows.view(-1, 2, size // 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def _turned(matrix: Tensor) -> Tensor:
    """[out, in] to [in, out]. Single precision on a CPU is moved in memory as well: up to twice as
    fast for few rows."""
    if matrix.dtype != torch.float32 or matrix.device.type != "cpu":
        return matrix.t()
    return matrix.t().contiguous()
