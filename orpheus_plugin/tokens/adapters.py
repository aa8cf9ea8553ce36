"""Reads LoRA adapters in PEFT's layout, checks them against their model, and gives low-rank
matrices.

An adapter is a folder with adapter_config.json and adapter_model.safetensors, as
`model.save_pretrained` of peft and Unsloth writes it. For a matrix W [out, in] of the model it
holds A [rank, in] and B [out, rank], and the adapted model computes W x + scale * B (A x). The
scale is alpha / rank, or alpha / sqrt(rank) with rsLoRA (github.com/huggingface/peft,
tuners/lora/layer.py).

Changes that the engines cannot apply to one stream of a batch are refused: embeddings and heads,
whole matrices, DoRA.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orpheus_plugin.errors import BadCheckpoint, InvalidOptions, ModelNotFound
from orpheus_plugin.json_files import read_object
from orpheus_plugin.tensors import Tensor, float32, read_safetensors
from orpheus_plugin.tokens.llama import LlamaShape

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Matrices of a layer that an adapter may change."""

MAX_RANK = 512
"""The highest that vLLM 0.32 takes."""

_MERGE = (
    "; merge it into its model (peft: model.merge_and_unload().save_pretrained(...)) and serve that"
)
_REFUSED = {
    "modules_to_save": "it replaces whole modules",
    "trainable_token_indices": "it changes embeddings",
    "target_parameters": "it changes parameters that are not matrices",
    "use_dora": "it is a DoRA",
    "lora_bias": "it has biases",
    "use_qalora": "it is a QA-LoRA",
    "use_bdlora": "it is block-diagonal",
    "layer_replication": "it repeats layers",
    "alora_invocation_tokens": "it acts on parts of a text only",
    "fan_in_fan_out": "its matrices are transposed",
}
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that do not change the model's own weights; PiSSA, OLoRA and LoftQ
do."""

_TENSOR = re.compile(
    r"base_model\.model\.model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_([AB])\.weight"
)
_EMBEDDINGS = re.compile(r"\.(embed_tokens|lm_head)\.")


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to a matrix: `up @ (down @ x)`."""

    down: NDArray[np.float32]  # [rank, in]
    up: NDArray[np.float32]  # [out, rank]; the scale is in it


@dataclass(frozen=True)
class Adapter:
    """An adapter that fits its model.

    Attributes:
        folder: its files.
        rank: the highest of its matrices.
        modules: those of MODULES that it changes, in some layer.
    """

    folder: Path
    rank: int
    modules: tuple[str, ...]
    _parts: Mapping[tuple[int, str], tuple[Tensor, Tensor, float]]

    def rank_of(self, module: str) -> int:
        """The highest rank that this module has in a layer; 0 if none is changed."""
        parts = self._parts.items()
        return max((len(down) for (_, name), (down, _, _) in parts if name == module), default=0)

    def part(self, layer: int, module: str) -> LowRank | None:
        """The matrices for one of MODULES; None if it is not changed. Reads the file."""
        found = self._parts.get((layer, module))
        if found is None:
            return None
        down, up, scale = found
        return LowRank(float32(down), float32(up) * np.float32(scale))


def read_adapters(
    folders: Mapping[str, Path], model_dir: Path, shape: LlamaShape
) -> dict[str, Adapter]:
    """The adapters of a generator, by name. Raises what `read_adapter` does, naming the adapter."""
    found: dict[str, Adapter] = {}
    for name, folder in folders.items():
        try:
            found[name] = read_adapter(folder, model_dir, shape)
        except (BadCheckpoint, ModelNotFound) as error:
            raise type(error)(f"adapter {name!r}: {error.message}") from error
    return found


def stacked(
    adapters: Sequence[Adapter], shape: LlamaShape, modules: Sequence[str], *, multiple: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The parts of matrices that share their input, of all adapters and layers, as two matrices
    each.

    Returns: down [adapters, layers, in, R] and up [adapters, layers, R, out], where the outputs of
    the modules follow each other, as do their ranks in R, which is the same for all and a multiple
    of `multiple`. Filled up with zeros.
    """
    sizes = _sizes(shape)
    inputs, outputs = sizes[modules[0]][0], [sizes[module][1] for module in modules]
    ranks = [
        max((adapter.rank_of(module) for adapter in adapters), default=0) for module in modules
    ]
    total = -(-max(1, sum(ranks)) // multiple) * multiple
    down = np.zeros((len(adapters), shape.layers, inputs, total), np.float32)
    up = np.zeros((len(adapters), shape.layers, total, sum(outputs)), np.float32)
    for number, adapter in enumerate(adapters):
        for layer in range(shape.layers):
            for at, module in enumerate(modules):
                part = adapter.part(layer, module)
                if part is None:
                    continue
                first, column = sum(ranks[:at]), sum(outputs[:at])
                end = first + len(part.down)
                down[number, layer, :, first:end] = part.down.T
                up[number, layer, first:end, column : column + outputs[at]] = part.up.T
    return down, up


def index_of(adapter: str | None, known: Mapping[str, object]) -> int:
    """The place of a request's adapter among the known ones, -1 for none. Raises InvalidOptions for
    an unknown one."""
    if adapter is None:
        return -1
    if adapter not in known:
        raise InvalidOptions(
            f"no adapter {adapter!r} is loaded; loaded are: {', '.join(known) or 'none'}"
        )
    return list(known).index(adapter)


def read_adapter(folder: Path, model_dir: Path, shape: LlamaShape) -> Adapter:
    """Read an adapter and check it against a model of this shape. Blocking; reads the whole file
    once.

    Raises ModelNotFound if the folder has no adapter; BadCheckpoint if it is pickled, damaged, of a
    kind that is not supported, or for another model.
    """
    config = read_config(folder)
    stored = read_safetensors(folder / WEIGHTS)
    halves: dict[tuple[int, str], dict[str, Tensor]] = {}
    for name, tensor in stored.items():
        match = _TENSOR.fullmatch(name)
        if match is None or match[2] not in MODULES:
            if (embedding := _EMBEDDINGS.search(name)) is not None:
                raise BadCheckpoint(f"{folder}: it changes {embedding[1]}{_MERGE}")
            raise BadCheckpoint(
                f"{folder}: {name} changes no matrix of a Llama; those are {', '.join(MODULES)}"
            )
        if tensor.dtype.kind != "f" and tensor.dtype != np.uint16:  # uint16: bfloat16
            raise BadCheckpoint(f"{folder}: {name} has type {tensor.dtype}, not floating point")
        halves.setdefault((int(match[1]), match[2]), {})[match[3]] = tensor
    if not halves:
        raise BadCheckpoint(f"{folder / WEIGHTS}: no tensors")
    sizes = _sizes(shape)
    parts: dict[tuple[int, str], tuple[Tensor, Tensor, float]] = {}
    for (layer, module), pair in sorted(halves.items()):
        name = f"layers.{layer}.{module}"
        if len(pair) != 2:
            raise BadCheckpoint(f"{folder}: {name} has only one of lora_A and lora_B")
        down, up = pair["A"], pair["B"]
        rank, scale = _rank_and_scale(folder, config, layer, module)
        inputs, outputs = sizes[module]
        if layer >= shape.layers or down.shape[1:] != (inputs,) or up.shape[:1] != (outputs,):
            raise BadCheckpoint(
                f"{folder} is for another model: {name} is {list(up.shape)} by {list(down.shape)},"
                f" {model_dir} has {shape.layers} layers and a matrix of {outputs} by {inputs}"
                f" there (it says it is for {config.get('base_model_name_or_path') or 'none'})"
            )
        if down.shape != (rank, inputs) or up.shape != (outputs, rank):
            raise BadCheckpoint(f"{folder}: {name} has rank {down.shape[0]}, {CONFIG} says {rank}")
        if not (np.isfinite(float32(down)).all() and np.isfinite(float32(up)).all()):
            raise BadCheckpoint(f"{folder}: {name} has values that are not finite numbers")
        parts[layer, module] = down, up, scale
    changed = {module for _, module in parts}
    return Adapter(
        folder,
        max(down.shape[0] for down, _, _ in parts.values()),
        tuple(module for module in MODULES if module in changed),
        parts,
    )


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of a folder with an adapter of a supported kind. Cheap: reads no weights.

    Raises as `read_adapter`.
    """
    path = folder / CONFIG
    if not path.is_file():
        if (folder / "config.json").is_file():
            raise ModelNotFound(
                f"{folder} has no {CONFIG}: it is a whole model; give it as the model (--model)"
            )
        raise ModelNotFound(f"{folder} is not an adapter: it has no {CONFIG}")
    if not (folder / WEIGHTS).is_file():
        if any(folder.glob("adapter_model.bin")) or any(folder.glob("adapter_model.pt")):
            raise BadCheckpoint(
                f"{folder}: its weights are pickled, and reading a pickle can run code; write"
                f" {WEIGHTS} instead (peft: model.save_pretrained(folder, safe_serialization=True))"
            )
        raise BadCheckpoint(f"{folder}: no {WEIGHTS}")
    config = read_object(path)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise BadCheckpoint(f"{path}: peft_type is {kind!r}; only LORA is supported")
    for key, what in _REFUSED.items():
        if config.get(key):
            raise BadCheckpoint(f"{folder}: {what} ({key}){_MERGE}")
    if config.get("bias", "none") != "none":
        raise BadCheckpoint(f"{folder}: it changes biases (bias: {config['bias']!r}){_MERGE}")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        raise BadCheckpoint(
            f"{folder}: init_lora_weights {start!r} changed the model's own weights{_MERGE}"
        )
    _rank_and_scale(folder, config, 0, MODULES[0])
    return config


def _rank_and_scale(
    folder: Path, config: Mapping[str, Any], layer: int, module: str
) -> tuple[int, float]:
    """As in PEFT: the first pattern that matches the end of a module's name overrides the general
    value."""
    block = "mlp" if module in MODULES[4:] else "self_attn"
    name = f"model.layers.{layer}.{block}.{module}"

    def value(key: str, patterns: str) -> Any:
        special = config.get(patterns) or {}
        try:
            found = (v for k, v in special.items() if re.match(rf"(.*\.)?({k})$", name))
            return next(found, config.get(key))
        except (AttributeError, re.error) as error:
            raise BadCheckpoint(
                f"{folder / CONFIG}: {patterns} is not a table of patterns"
            ) from error

    rank, alpha = value("r", "rank_pattern"), value("lora_alpha", "alpha_pattern")
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise BadCheckpoint(
            f"{folder / CONFIG}: the rank r is {rank!r}, not a number from 1 to {MAX_RANK}"
        )
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise BadCheckpoint(f"{folder / CONFIG}: lora_alpha is {alpha!r}, not a number")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _sizes(shape: LlamaShape) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each of MODULES."""
    width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    hidden, inner = shape.hidden, shape.inner
    return {
        "q_proj": (hidden, width),
        "k_proj": (hidden, kv_width),
        "v_proj": (hidden, kv_width),
        "o_proj": (width, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }
