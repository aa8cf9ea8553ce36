"""A Llama checkpoint as Hugging Face lays it out, in NumPy: config.json and the weights that speech
needs.

Shared by the engines that run the model themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orpheus_plugin.errors import BadCheckpoint, ModelNotFound
from orpheus_plugin.json_files import read_object
from orpheus_plugin.tensors import Tensor, read_tensors
from orpheus_plugin.tokens.vocabulary import CODES, SLOTS, Vocabulary

_SIZES = {
    "vocab": (1, 1 << 22),
    "hidden": (1, 1 << 16),
    "inner": (1, 1 << 18),
    "layers": (1, 1 << 10),
    "heads": (1, 1 << 10),
    "kv_heads": (1, 1 << 10),
    "head_dim": (2, 1 << 12),
    "max_positions": (2, 1 << 30),
}
"""Limits of a LlamaShape, checked before anything is allocated. The largest Llama has 126 layers of
width 16,384."""


@dataclass(frozen=True)
class LlamaShape:
    """The network's configuration in config.json. `rope` has the parameters of its rotary
    embedding."""

    vocab: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    tied: bool
    max_positions: int
    rope: dict[str, Any]

    @classmethod
    def read(cls, model_dir: Path, *, quantized: bool = False) -> LlamaShape:
        """Raises ModelNotFound without a config.json, BadCheckpoint for anything but a plain
        Llama. `quantized`: one with quantised weights will do."""
        path = model_dir / "config.json"
        if not path.is_file():
            raise ModelNotFound(f"{model_dir}: no config.json")
        config = read_object(path)
        try:
            kind = config.get("model_type")
            if kind != "llama":
                raise BadCheckpoint(f"{path}: a {kind!r} model, not a Llama")
            for key in ("attention_bias", "mlp_bias", "quantization_config"):
                if config.get(key) and not (quantized and key == "quantization_config"):
                    raise BadCheckpoint(f"{path}: {key} is not supported by this engine")
            if config.get("hidden_act", "silu") != "silu":
                raise BadCheckpoint(f"{path}: activation {config['hidden_act']!r} is not a Llama's")
            heads = int(config["num_attention_heads"])
            hidden = int(config["hidden_size"])
            shape = cls(
                vocab=int(config["vocab_size"]),
                hidden=hidden,
                inner=int(config["intermediate_size"]),
                layers=int(config["num_hidden_layers"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or hidden // heads),
                eps=float(config.get("rms_norm_eps", 1e-6)),
                tied=bool(config.get("tie_word_embeddings", False)),
                max_positions=int(config.get("max_position_embeddings", 2048)),
                rope=_rope_parameters(config),
            )
            for name, (low, high) in _SIZES.items():
                if not low <= getattr(shape, name) <= high:
                    raise BadCheckpoint(f"{path}: impossible sizes: {name} is not {low} to {high}")
            if shape.head_dim % 2 or shape.heads % shape.kv_heads:
                raise BadCheckpoint(f"{path}: impossible sizes {shape}")
            frequencies = rotary_frequencies(shape)
            if not (0 < shape.eps < 1 and np.isfinite(frequencies).all()):
                raise BadCheckpoint(
                    f"{path}: rms_norm_eps or the rotary parameters are not numbers"
                )
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            ArithmeticError,  # infinities and zeros
        ) as error:
            if isinstance(error, BadCheckpoint):
                raise
            raise BadCheckpoint(
                f"{path}: not a Llama configuration: {type(error).__name__} {error}"
            ) from error
        return shape


def _rope_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """Both spellings: `rope_parameters`, and the older `rope_theta` with `rope_scaling`."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = {"rope_theta": config.get("rope_theta", 10_000.0), **given}
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    return rope


def rotary_frequencies(shape: LlamaShape) -> NDArray[np.float64]:
    """Radians per position of each pair: float64 [head_dim / 2]. Plain, "linear" and "llama3"
    scaling (Llama 3.1 on).

    Raises BadCheckpoint for any other scaling.
    """
    rope, size = shape.rope, shape.head_dim
    steps = np.arange(0, size, 2) / size
    plain: NDArray[np.float64] = 1.0 / float(rope["rope_theta"]) ** steps
    match rope["rope_type"]:
        case "default":
            return plain
        case "linear":
            return plain / float(rope["factor"])
        case "llama3":
            low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
            turns = float(rope["original_max_position_embeddings"]) * plain / (2 * math.pi)
            # 0: slowed down in full, 1: unchanged.
            kept = np.clip((turns - low) / (high - low), 0, 1)
            return plain * kept + plain / float(rope["factor"]) * (1 - kept)
        case other:
            raise BadCheckpoint(f"rotary scaling {other!r} is not supported")


@dataclass(frozen=True)
class LayerTensors:
    """One block's weights as in the file: matrices are [out, in]."""

    attention_norm: Tensor  # [hidden]
    q: Tensor  # [heads * head_dim, hidden]
    k: Tensor  # [kv_heads * head_dim, hidden]
    v: Tensor
    out: Tensor  # [hidden, heads * head_dim]
    mlp_norm: Tensor  # [hidden]
    gate: Tensor  # [inner, hidden]
    up: Tensor
    down: Tensor  # [hidden, inner]


class LlamaTensors:
    """The weights of a checkpoint: views of its files (see `tensors`).

    Attributes:
        embedding: [vocab, hidden].
        layers: iterates over the blocks.
        norm: [hidden].
        head: for each slot [4096, hidden]; of the output head only the ids that speech draws are
            used.
        stop: the stop id's row, [1, hidden].

    Raises ModelNotFound without weight files, BadCheckpoint if they are corrupt, incomplete or of
    other shapes than in config.json.
    """

    def __init__(self, model_dir: Path, shape: LlamaShape, vocabulary: Vocabulary) -> None:
        base, stop = vocabulary.audio_base, vocabulary.end_of_speech
        end = base + SLOTS * CODES
        if vocabulary.size > shape.vocab:
            raise BadCheckpoint(
                f"{model_dir}: {shape.vocab} ids in the model, {vocabulary.size} in its vocabulary"
            )
        if shape.vocab < end:
            raise BadCheckpoint(
                f"{model_dir}: {shape.vocab} ids in the model, audio ids end at {end}"
            )
        self._model_dir, self._tensors = model_dir, read_tensors(model_dir)
        table, whole = "model.embed_tokens.weight", (shape.vocab, shape.hidden)
        self.embedding = self._read(table, *whole)
        head = self._read(table if shape.tied else "lm_head.weight", *whole)
        self.head = [head[base + s * CODES : base + (s + 1) * CODES] for s in range(SLOTS)]
        self.stop = head[stop : stop + 1]
        self.norm = self._read("model.norm.weight", shape.hidden)
        self.layers = [self._layer(f"model.layers.{n}.", shape) for n in range(shape.layers)]

    def _layer(self, at: str, shape: LlamaShape) -> LayerTensors:
        width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        return LayerTensors(
            attention_norm=self._read(at + "input_layernorm.weight", shape.hidden),
            q=self._read(at + "self_attn.q_proj.weight", width, shape.hidden),
            k=self._read(at + "self_attn.k_proj.weight", kv_width, shape.hidden),
            v=self._read(at + "self_attn.v_proj.weight", kv_width, shape.hidden),
            out=self._read(at + "self_attn.o_proj.weight", shape.hidden, width),
            mlp_norm=self._read(at + "post_attention_layernorm.weight", shape.hidden),
            gate=self._read(at + "mlp.gate_proj.weight", shape.inner, shape.hidden),
            up=self._read(at + "mlp.up_proj.weight", shape.inner, shape.hidden),
            down=self._read(at + "mlp.down_proj.weight", shape.hidden, shape.inner),
        )

    def _read(self, name: str, *sizes: int) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise BadCheckpoint(f"{self._model_dir}: no weight {name}")
        if tensor.shape != sizes:
            raise BadCheckpoint(
                f"{self._model_dir}: {name} is {list(tensor.shape)}, config.json says {list(sizes)}"
            )
        return tensor
