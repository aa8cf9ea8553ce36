"""Reading a Llama checkpoint as Hugging Face lays it out: config.json and safetensors (or a weights-only .bin)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from orpheus_plugin.errors import BadCheckpoint, ModelNotFound
from orpheus_plugin.tokens.vocabulary import CODES, SLOTS, Vocabulary

Tensor = torch.Tensor


@dataclass(frozen=True)
class LlamaShape:
    """What config.json says about the network. `rope` holds the parameters of its rotary embedding."""

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
    def read(cls, model_dir: Path) -> LlamaShape:
        """Raises ModelNotFound without a config.json, BadCheckpoint for anything but a plain Llama."""
        path = model_dir / "config.json"
        if not path.is_file():
            raise ModelNotFound(f"{model_dir}: no config.json")
        try:
            config = json.loads(path.read_text("utf-8"))
            kind = config.get("model_type")
            if kind != "llama":
                raise BadCheckpoint(f"{path}: a {kind!r} model, not a Llama")
            for key in ("attention_bias", "mlp_bias", "quantization_config"):
                if config.get(key):
                    raise BadCheckpoint(f"{path}: {key} is not supported by the torch generator")
            if config.get("hidden_act", "silu") != "silu":
                raise BadCheckpoint(f"{path}: activation {config['hidden_act']!r} is no Llama's")
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
            rotary_frequencies(shape)
        except (
            OSError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            ZeroDivisionError,
        ) as error:
            if isinstance(error, BadCheckpoint):
                raise
            raise BadCheckpoint(
                f"{path}: not a Llama configuration: {type(error).__name__} {error}"
            ) from error
        sizes = (shape.vocab, shape.hidden, shape.inner, shape.layers, shape.heads, shape.kv_heads)
        if (
            min(sizes) < 1
            or shape.head_dim < 2
            or shape.head_dim % 2
            or shape.heads % shape.kv_heads
        ):
            raise BadCheckpoint(f"{path}: impossible sizes {shape}")
        return shape


def _rope_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """Both spellings: `rope_parameters`, and the older `rope_theta` with `rope_scaling`."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = {"rope_theta": config.get("rope_theta", 10_000.0), **given}
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    return rope


def rotary_frequencies(shape: LlamaShape) -> Tensor:
    """Radians per position of each pair: fp64 [head_dim / 2]. Plain, "linear" and "llama3" scaling (Llama 3.1 on).

    Raises BadCheckpoint for any other scaling.
    """
    rope, size = shape.rope, shape.head_dim
    steps = torch.arange(0, size, 2, dtype=torch.float64) / size
    plain = 1.0 / float(rope["rope_theta"]) ** steps
    match rope["rope_type"]:
        case "default":
            return plain
        case "linear":
            return plain / float(rope["factor"])
        case "llama3":
            low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
            turns = float(rope["original_max_position_embeddings"]) * plain / (2 * math.pi)
            kept = ((turns - low) / (high - low)).clamp(0, 1)  # 0: slowed down in full, 1: as it is
            return plain * kept + plain / float(rope["factor"]) * (1 - kept)
        case other:
            raise BadCheckpoint(f"rotary scaling {other!r} is not supported")


@dataclass(frozen=True)
class Layer:
    """One block. Queries and keys are permuted so that each rotated pair lies side by side."""

    attention_norm: Tensor  # [hidden]
    qkv: Tensor  # [hidden, (heads + 2 * kv_heads) * head_dim]
    out: Tensor  # [heads * head_dim, hidden]
    mlp_norm: Tensor  # [hidden]
    gate_up: Tensor  # [hidden, 2 * inner]
    down: Tensor  # [inner, hidden]


@dataclass(frozen=True)
class LlamaWeights:
    """All of the network that speech needs: of the output head, the audio rows and the stop id's row alone."""

    embedding: Tensor  # [vocab, hidden]
    layers: tuple[Layer, ...]
    norm: Tensor  # [hidden]
    head: tuple[Tensor, ...]  # of each slot [hidden, 4096]
    stop: Tensor  # [hidden, 1]


def load_weights(
    model_dir: Path,
    shape: LlamaShape,
    vocabulary: Vocabulary,
    device: torch.device,
    dtype: torch.dtype,
    norm_dtype: torch.dtype,
) -> LlamaWeights:
    """Read the weights onto `device`: matrices as `dtype`, the gains of the norms as `norm_dtype`.

    Raises ModelNotFound without weight files, BadCheckpoint if they are corrupt, incomplete or of other shapes than
    config.json says.
    """
    base, stop = vocabulary.audio_base, vocabulary.end_of_speech
    end = base + SLOTS * CODES
    if shape.vocab < end:
        raise BadCheckpoint(f"{model_dir}: {shape.vocab} ids in the model, audio ids end at {end}")
    with _open(model_dir) as files:

        def read(name: str, *sizes: int, rows: tuple[int, int] | None = None) -> Tensor:
            kind = dtype if len(sizes) > 1 else norm_dtype
            return files.read(name, sizes, rows).to(device=device, dtype=kind)

        def block(number: int) -> Layer:
            at = f"model.layers.{number}."
            width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
            q = read(at + "self_attn.q_proj.weight", width, shape.hidden)
            k = read(at + "self_attn.k_proj.weight", kv_width, shape.hidden)
            v = read(at + "self_attn.v_proj.weight", kv_width, shape.hidden)
            gate = read(at + "mlp.gate_proj.weight", shape.inner, shape.hidden)
            up = read(at + "mlp.up_proj.weight", shape.inner, shape.hidden)
            return Layer(
                attention_norm=read(at + "input_layernorm.weight", shape.hidden),
                qkv=_turned(torch.cat([_pairs(q, shape.head_dim), _pairs(k, shape.head_dim), v])),
                out=_turned(read(at + "self_attn.o_proj.weight", shape.hidden, width)),
                mlp_norm=read(at + "post_attention_layernorm.weight", shape.hidden),
                gate_up=_turned(torch.cat([gate, up])),
                down=_turned(read(at + "mlp.down_proj.weight", shape.hidden, shape.inner)),
            )

        table, whole = "model.embed_tokens.weight", (shape.vocab, shape.hidden)
        head = table if shape.tied else "lm_head.weight"
        embedding = files.read(table, whole, None)
        # Single rows of it are read: a narrow one is widened with them.
        narrow = min(embedding.dtype, dtype, key=lambda kind: kind.itemsize)
        slots = [(base + slot * CODES, base + (slot + 1) * CODES) for slot in range(SLOTS)]
        return LlamaWeights(
            embedding=embedding.to(device=device, dtype=narrow),
            layers=tuple(block(number) for number in range(shape.layers)),
            norm=read("model.norm.weight", shape.hidden),
            head=tuple(_turned(read(head, *whole, rows=rows)) for rows in slots),
            stop=_turned(read(head, *whole, rows=(stop, stop + 1))),
        )


def _pairs(rows: Tensor, size: int) -> Tensor:
    """Rows of each head from halves [0 .. d/2, d/2 .. d] to pairs [0, d/2, 1, d/2 + 1, ...]."""
    return rows.view(-1, 2, size // 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def _turned(matrix: Tensor) -> Tensor:
    """[out, in] to [in, out]. Single precision on a CPU is moved in memory as well: up to twice as fast for few rows."""
    if matrix.dtype != torch.float32 or matrix.device.type != "cpu":
        return matrix.t()
    return matrix.t().contiguous()


class _Files(Protocol):
    def read(self, name: str, sizes: tuple[int, ...], rows: tuple[int, int] | None) -> Tensor: ...


@contextmanager
def _open(model_dir: Path) -> Iterator[_Files]:
    index = model_dir / "model.safetensors.index.json"
    single = model_dir / "model.safetensors"
    pickled = model_dir / "pytorch_model.bin"
    if index.is_file():
        try:
            shards = sorted(
                {str(s) for s in json.loads(index.read_text("utf-8"))["weight_map"].values()}
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadCheckpoint(f"{index}: cannot be read: {error}") from error
        paths = [model_dir / shard for shard in shards]
    elif single.is_file():
        paths = [single]
    elif pickled.is_file():
        yield _Pickled(pickled)
        return
    else:
        raise ModelNotFound(f"{model_dir}: no model.safetensors")
    with ExitStack() as stack:
        handles: dict[str, Any] = {}
        for path in paths:
            try:
                handle = stack.enter_context(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise BadCheckpoint(f"{path}: corrupt or unreadable: {error}") from error
            handles.update(dict.fromkeys(handle.keys(), handle))
        yield _Safetensors(model_dir, handles)


class _Safetensors:
    def __init__(self, folder: Path, handles: dict[str, Any]) -> None:
        self._folder = folder
        self._handles = handles

    def read(self, name: str, sizes: tuple[int, ...], rows: tuple[int, int] | None) -> Tensor:
        handle = self._handles.get(name)
        if handle is None:
            raise BadCheckpoint(f"{self._folder}: no weight {name}")
        part = handle.get_slice(name)
        _check_sizes(self._folder, name, tuple(part.get_shape()), sizes)
        tensor: Tensor = part[:] if rows is None else part[rows[0] : rows[1]]
        return tensor


class _Pickled:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch raises a dozen kinds for files that are no checkpoint
            what = str(error).strip().partition("\n")[0]
            raise BadCheckpoint(f"{path}: corrupt or unreadable: {what}") from error

    def read(self, name: str, sizes: tuple[int, ...], rows: tuple[int, int] | None) -> Tensor:
        tensor = self._tensors.get(name) if isinstance(self._tensors, dict) else None
        if not isinstance(tensor, Tensor):
            raise BadCheckpoint(f"{self._path}: no weight {name}")
        _check_sizes(self._path, name, tuple(tensor.shape), sizes)
        return tensor if rows is None else tensor[rows[0] : rows[1]]


def _check_sizes(where: Path, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise BadCheckpoint(f"{where}: {name} is {list(found)}, config.json says {list(wanted)}")
