"""A Llama checkpoint's weights, packed for the compiled step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from orpheus_plugin.kernels.products import LANES, aligned, pack, pack_bfloat16
from orpheus_plugin.tensors import Tensor, float32
from orpheus_plugin.tokens.adapters import Adapter, stacked
from orpheus_plugin.tokens.cpu.step import Floats, LowRanks, Weights
from orpheus_plugin.tokens.llama import LayerTensors, LlamaShape, LlamaTensors, rotary_frequencies
from orpheus_plugin.tokens.vocabulary import Vocabulary


def load_weights(
    model_dir: Path,
    shape: LlamaShape,
    vocabulary: Vocabulary,
    context: int,
    adapters: Sequence[Adapter] = (),
) -> Weights:
    """Read and pack the weights. Matrices stay bfloat16 where the checkpoint has that, else they
    are float32: the step's numbers are those of the file. Raises what LlamaTensors does.
    """
    tensors = LlamaTensors(model_dir, shape, vocabulary)
    layers = tensors.layers
    narrow = all(
        matrix.dtype == np.uint16
        for layer in layers
        for matrix in (layer.q, layer.k, layer.v, layer.out, layer.gate, layer.up, layer.down)
    ) and (tensors.head[0].dtype == np.uint16)

    def packed(matrices: Iterable[tuple[Tensor, ...]], count: int) -> Tensor:
        """Matrices [out, in], each in parts that follow each other: packed, in one array."""
        made: Tensor | None = None
        for number, parts in enumerate(matrices):
            if narrow:
                one: Tensor = pack_bfloat16(np.concatenate(parts).T)
            else:
                one = pack(np.concatenate([float32(part) for part in parts]).T)
            if made is None:
                made = aligned((count, *one.shape), one.dtype)
            made[number] = one
        assert made is not None
        return made

    def of_layers(parts: Callable[[LayerTensors], tuple[Tensor, ...]]) -> Tensor:
        return packed((parts(layer) for layer in layers), len(layers))

    def gains(of: Callable[[LayerTensors], Tensor]) -> Floats:
        return np.stack([float32(of(layer)) for layer in layers])

    angles = np.outer(np.arange(context), rotary_frequencies(shape))
    embedding = tensors.embedding
    return Weights(
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        eps=shape.eps,
        audio_base=vocabulary.audio_base,
        embedding=embedding.copy() if embedding.dtype == np.uint16 else float32(embedding),
        attention_norm=gains(lambda layer: layer.attention_norm),
        qkv=of_layers(lambda layer: (layer.q, layer.k, layer.v)),
        out=of_layers(lambda layer: (layer.out,)),
        mlp_norm=gains(lambda layer: layer.mlp_norm),
        gate_up=of_layers(lambda layer: (layer.gate, layer.up)),
        down=of_layers(lambda layer: (layer.down,)),
        norm=float32(tensors.norm),
        head=packed(((slot,) for slot in tensors.head), len(tensors.head)),
        stop=float32(tensors.stop)[0],
        cosine=np.cos(angles).astype(np.float32),
        sine=np.sin(angles).astype(np.float32),
        qkv_low=low_ranks(adapters, shape, ("q_proj", "k_proj", "v_proj")),
        out_low=low_ranks(adapters, shape, ("o_proj",)),
        gate_up_low=low_ranks(adapters, shape, ("gate_proj", "up_proj")),
        down_low=low_ranks(adapters, shape, ("down_proj",)),
    )


def low_ranks(adapters: Sequence[Adapter], shape: LlamaShape, modules: tuple[str, ...]) -> LowRanks:
    """What the adapters add to the product of these matrices, which share their input."""
    down, up = stacked(adapters, shape, modules, multiple=LANES)

    def packed(matrices: Floats) -> Floats:
        """[adapters, layers, K, N] -> packed."""
        count, layers, inputs, columns = matrices.shape
        made = aligned((count, layers, -(-columns // LANES), inputs, LANES), np.float32)
        for adapter in range(count):
            for layer in range(layers):
                made[adapter, layer] = pack(matrices[adapter, layer])
        return made

    return LowRanks(packed(down), packed(up))
