"""Orpheus checkpoints made on the spot, with no network: the full vocabulary on a tiny Llama.

`crafted_checkpoint` has weights set by hand so that any engine, without a mask, emits well-formed
frames from it: every audio id makes an id of the next slot the only likely one (which code is as
good as random), text makes slot 0 follow, and the stop id is possible only after slot 6.
`random_checkpoint` has nothing but noise: for comparing engines' arithmetic.

Both are made once and kept in the system's temporary directory, under a name that holds everything
they depend on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers

_VERSION = 4  # raise it when what is written changes
AUDIO_IDS = 7 * 4096
CUSTOM_TOKENS = 10 + AUDIO_IDS + 2
FULL_TEXT = 128_000
SMALL_TEXT = 256
_LLAMA3_SPECIALS = {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 6: "<|start_header_id|>",
                    7: "<|end_header_id|>", 8: "<|eom_id|>", 9: "<|eot_id|>"}  # fmt: skip


def write_tokenizer(folder: Path, text: int = FULL_TEXT) -> int:
    """Write a tokenizer.json laid out as Orpheus': bytes, filler up to `text`, 256 specials, custom
    tokens.

    Its template adds a bos, as Llama's does. Returns the number of ids: 156,940 for the full text
    vocabulary.
    """
    vocab = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab |= {f"<filler_{i}>": i for i in range(len(vocab), text)}
    specials = [_LLAMA3_SPECIALS.get(i, f"<|reserved_special_token_{i}|>") for i in range(256)]
    names = specials + [f"<custom_token_{n}>" for n in range(CUSTOM_TOKENS)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    bos = "<|begin_of_text|>"
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": text + i, "content": name, **flags, "special": i < 256}
            for i, name in enumerate(names)
        ],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [text], "tokens": [bos]}},
        },
        "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
        "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "ignore_merges": False, "vocab": vocab, "merges": []},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": bos,
                "eos_token": "<|eot_id|>",
            }
        ),
        "utf-8",
    )
    return text + len(names)


def llama_config(
    vocab_size: int,
    *,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 2,
    kv_heads: int = 1,
    head_dim: int = 32,
    inner: int | None = None,
    tied: bool = False,
    rope_scaling: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A config.json of a Llama."""
    text = vocab_size - 256 - CUSTOM_TOKENS
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner or 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": rope_scaling,
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "mlp_bias": False,
        "vocab_size": vocab_size,
        "bos_token_id": text,
        "eos_token_id": text + 256 + 2,
        "torch_dtype": "bfloat16",
    }


def random_weights(
    config: dict[str, Any], seed: int = 0, scale: float = 0.05, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """Weights of a Llama of that config, by the names of Hugging Face checkpoints; bf16 on a
    GPU."""
    noise = torch.Generator(device).manual_seed(seed)
    kind = torch.float32 if device == "cpu" else torch.bfloat16

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=noise, device=device, dtype=kind) * scale

    hidden, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    weights = {"model.embed_tokens.weight": matrix(config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        shapes = {
            "self_attn.q_proj": (heads * size, hidden),
            "self_attn.k_proj": (kv_heads * size, hidden),
            "self_attn.v_proj": (kv_heads * size, hidden),
            "self_attn.o_proj": (hidden, heads * size),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        for name, shape in shapes.items():
            weights[f"model.layers.{layer}.{name}.weight"] = matrix(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            gain = 1 + 0.1 * torch.randn(hidden, generator=noise, device=device)
            weights[f"model.layers.{layer}.{name}.weight"] = gain
    weights["model.norm.weight"] = 1 + 0.1 * torch.randn(hidden, generator=noise, device=device)
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(config["vocab_size"], hidden)
    return weights


def _craft(weights: dict[str, torch.Tensor], config: dict[str, Any], stop: float) -> None:
    """Set the weights so that slot follows slot. Dimension s of the residual stream says "this is
    slot s", 7 "text"."""
    device = weights["model.norm.weight"].device
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    audio = vocab - AUDIO_IDS - 2
    end_of_speech = audio - 8
    slot = torch.arange(AUDIO_IDS, device=device) // 4096
    ids = audio + torch.arange(AUDIO_IDS, device=device)
    loud = math.sqrt(hidden)  # so loud that the rest hardly counts in the norms
    noise = torch.Generator(device).manual_seed(1)
    embedding = torch.randn(vocab, hidden, generator=noise, device=device) * 0.3
    # The logits of a slot's codes differ by about as much in any width.
    head = torch.randn(vocab, hidden, generator=noise, device=device) * (1.2 / loud)
    embedding[:, :8] = 0
    head[:, :8] = 0
    embedding[ids, slot] = loud
    embedding[:audio, 7] = loud
    gap = 40 / (0.9 * loud)  # a logit of about 40 for the slot that follows, 0 for all else
    head[ids, (slot + 6) % 7] = gap
    head[ids[:4096], 7] = gap
    if stop > 0:  # the chance of the stop id after each frame, at temperature 0.6
        head[end_of_speech] = 0
        odds = 0.6 * math.log(4096 * stop / (1 - stop))
        head[end_of_speech, 6] = gap + odds / (0.9 * loud)
    for name, tensor in weights.items():
        if name.endswith("layernorm.weight") or name == "model.norm.weight":
            tensor.fill_(1)
        if config["num_hidden_layers"] > 8 and name.endswith(("o_proj.weight", "down_proj.weight")):
            # The noise of many blocks would hide the slot; they are computed all the same.
            tensor.zero_()
    weights["model.embed_tokens.weight"] = embedding
    weights["lm_head.weight"] = head


def save_checkpoint(folder: Path, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Path:
    """Write config.json and model.safetensors (bf16 unless the config says float32)."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = torch.float32 if config["torch_dtype"] == "float32" else torch.bfloat16
    save_file(
        {name: tensor.to("cpu", kind).contiguous() for name, tensor in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    return folder


def crafted_checkpoint(
    *,
    stop: float = 0.02,
    hidden: int = 64,
    layers: int = 2,
    text: int = FULL_TEXT,
    device: str = "cpu",
    **shape: int,
) -> Path:
    """A checkpoint that emits well-formed frames and ends each utterance by itself.

    Args:
        stop: chance of the end after each frame, at temperature 0.6; 0 never ends, 1 ends after the
            first frame.
        hidden: width; by default with heads of 32 and half as many key-value heads.
        text: size of the text vocabulary; SMALL_TEXT makes a checkpoint of 4M parameters instead of
            20M.
        device: where the weights are made up; for large models a GPU, which takes seconds.
        shape: heads, kv_heads, head_dim and inner as in `llama_config`.
    """

    def make(folder: Path) -> None:
        size = write_tokenizer(folder, text)
        heads: dict[str, Any] = {"heads": hidden // 32, "kv_heads": max(1, hidden // 64)} | shape
        config = llama_config(size, hidden=hidden, layers=layers, **heads)
        weights = random_weights(config, scale=0.02, device=device)
        _craft(weights, config, min(stop, 0.999999))
        save_checkpoint(folder, config, weights)
        (folder / "generation_config.json").write_text(
            json.dumps({"temperature": 0.6, "top_p": 0.8, "repetition_penalty": 1.1}), "utf-8"
        )

    return kept(("crafted", stop, hidden, layers, text, sorted(shape.items())), make)


def random_checkpoint(*, text: int = SMALL_TEXT, seed: int = 0, **shape: Any) -> Path:
    """A Llama of random fp32 weights with Orpheus' ids; `shape` as in `llama_config`."""

    def make(folder: Path) -> None:
        size = write_tokenizer(folder, text)
        config = llama_config(size, **shape) | {"torch_dtype": "float32"}
        save_checkpoint(folder, config, random_weights(config, seed=seed, scale=0.2))

    return kept(("random", text, seed, sorted(shape.items())), make)


def kept(key: object, make: Callable[[Path], None]) -> Path:
    """The directory of that key, made if it is not there yet; safe with several processes at
    once."""
    digest = hashlib.sha256(repr((_VERSION, key)).encode()).hexdigest()[:16]
    shelf = Path(tempfile.gettempdir()) / f"orpheus-test-checkpoints-{os.getuid()}"
    folder = shelf / digest
    if folder.is_dir():
        return folder
    shelf.mkdir(exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=shelf))
    make(fresh)
    try:
        fresh.rename(folder)
    except OSError:  # another process was quicker
        shutil.rmtree(fresh, ignore_errors=True)
    return folder
