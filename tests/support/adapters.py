"""LoRA adapters made on the spot for the checkpoints of `checkpoints`, and the models they merge
into."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from orpheus_plugin.tokens.adapters import MODULES
from orpheus_plugin.tokens.vocabulary import Vocabulary
from tests.support.checkpoints import save_checkpoint
from tests.support.ids import audio_id

Parts = Mapping[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]


def tensor_name(layer: int, module: str, half: str) -> str:
    block = "mlp" if module in MODULES[4:] else "self_attn"
    return f"base_model.model.model.layers.{layer}.{block}.{module}.lora_{half}.weight"


def write_adapter(folder: Path, parts: Parts, *, rank: int, **config: Any) -> Path:
    """An adapter as PEFT saves it; alpha is the rank unless `config` has another lora_alpha."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for (layer, module), (down, up) in parts.items():
        tensors[tensor_name(layer, module, "A")] = down.clone().contiguous()
        tensors[tensor_name(layer, module, "B")] = up.clone().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none"}
    said |= {"base_model_name_or_path": "someone/a-base", "target_modules": list(MODULES)}
    (folder / "adapter_config.json").write_text(json.dumps(said | config), "utf-8")
    return folder


def sizes(checkpoint: Path) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each matrix of a layer."""
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    hidden, inner, size = (config[k] for k in ("hidden_size", "intermediate_size", "head_dim"))
    width, kv_width = (size * config[k] for k in ("num_attention_heads", "num_key_value_heads"))
    outputs = (width, kv_width, kv_width, hidden, inner, inner, hidden)
    inputs = (hidden, hidden, hidden, width, hidden, hidden, inner)
    return dict(zip(MODULES, zip(inputs, outputs, strict=True), strict=True))


def random_adapter(
    checkpoint: Path,
    folder: Path,
    *,
    rank: int = 4,
    modules: Sequence[str] = MODULES,
    seed: int = 0,
    size: float = 0.5,
    **config: Any,
) -> Path:
    """An adapter of random values on every layer."""
    noise = torch.Generator().manual_seed(seed)
    layers = json.loads((checkpoint / "config.json").read_text("utf-8"))["num_hidden_layers"]
    parts = {}
    for layer in range(layers):
        for module in modules:
            inputs, outputs = sizes(checkpoint)[module]
            down = torch.randn(rank, inputs, generator=noise) / inputs**0.5
            parts[layer, module] = down, torch.randn(outputs, rank, generator=noise) * size
    return write_adapter(folder, parts, rank=rank, **config)


def merged(checkpoint: Path, adapter: Path, folder: Path) -> Path:
    """The checkpoint with the adapter's products added to its matrices, in float32: PEFT's
    `merge_and_unload`."""
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    weights = {k: t.float() for k, t in load_file(checkpoint / "model.safetensors").items()}
    said = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    root = said["r"] ** (0.5 if said.get("use_rslora") else 1)
    parts = load_file(adapter / "adapter_model.safetensors")
    for name, down in parts.items():
        if ".lora_A." in name:
            up = parts[name.replace(".lora_A.", ".lora_B.")]
            target = name.removeprefix("base_model.model.").replace(".lora_A.", ".")
            weights[target] += said["lora_alpha"] / root * up.float() @ down.float()
    save_checkpoint(folder, config | {"torch_dtype": "float32"}, weights)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_bytes((checkpoint / file).read_bytes())
    return folder


def steering_adapter(
    checkpoint: Path, vocabulary: Vocabulary, folder: Path, *, seed: int
) -> list[int]:
    """An adapter with which a crafted checkpoint, asked greedily, always speaks the same frame: its
    seven ids.

    One unit of the last layer's MLP is switched on for every id (dimensions 0 to 7 of the residual
    stream say what an id is, one of them is always set), and what it adds drowns all but the slot.
    So the code of a slot is the one whose row of the head lies most in that direction, which the
    test reads from the weights.
    """
    weights = load_file(checkpoint / "model.safetensors")
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    base = vocabulary.audio_base
    head = weights["lm_head.weight"].float()[base : base + 7 * 4096].view(7, 4096, hidden)
    noise = torch.Generator().manual_seed(seed)
    for _ in range(500):
        way = torch.randn(hidden, generator=noise)
        way[:8] = 0
        way *= 200 / way.norm()
        best, codes = (head @ way).topk(2)
        others = weights["lm_head.weight"][:base].float() @ way
        # The slot that follows has some 44 on top (`checkpoints._craft`); other slots and text have
        # not.
        rest = max(float(best.max()), float(others.max()))
        if (best[:, 0] - best[:, 1]).min() > 3 and rest < best[:, 0].min() + 30:
            break
    else:
        raise AssertionError("no direction has one clear code in every slot")
    flags = torch.zeros(1, hidden)
    flags[0, :8] = 1
    unit = torch.zeros(inner, 1)
    unit[3] = 0.5
    parts = {
        (config["num_hidden_layers"] - 1, "gate_proj"): (flags, unit),
        (config["num_hidden_layers"] - 1, "up_proj"): (flags, unit),
        (config["num_hidden_layers"] - 1, "down_proj"): (2 * unit.T, way[:, None] / 120),
    }
    write_adapter(folder, parts, rank=1, lora_alpha=2)
    return [audio_id(vocabulary, slot, int(codes[slot, 0])) for slot in range(7)]
