"""Write the trained voice as a model folder in the hub's layout: Llama, tokenizer, SNAC, model
card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils import parametrize

from training import vocabulary as v
from training.codec import CONFIG, Codec
from training.codes import LETTERS
from training.lm import Size, VoiceModel

SAMPLING = {"do_sample": True, "temperature": 0.3, "top_p": 0.8, "repetition_penalty": 1.0}
"""The model's own sampling. A repetition penalty would punish phonemes for lasting; at temperature
0.6 one more word in fifty is misread."""
LONGEST = 180
"""Characters of text in an utterance that the training data covers."""


def write_json(path: Path, value: Any) -> None:
    """Readable JSON, one trailing newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def config(size: Size, voices: list[str]) -> dict[str, Any]:
    """``config.json``: a Llama, and what the package needs to know of the voices."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size.width,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "head_dim": size.width // size.heads,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "max_position_embeddings": 2048,
        "rms_norm_eps": size.norm_eps,
        "rope_theta": size.theta,
        "rope_scaling": None,
        "initializer_range": 0.02,
        "pretraining_tp": 1,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": v.SIZE,
        "bos_token_id": v.BOS,
        "eos_token_id": v.END_OF_SPEECH,
        "pad_token_id": v.PAD,
        "orpheus": {
            "voices": voices,
            "languages": ["en"],
            "tags": [],
            "spell_numbers": True,
            "sample_rate": CONFIG["sampling_rate"],
            "codec": "snac",
            "license": "apache-2.0",
            "max_text_chars": LONGEST,
        },
    }


LAYER_NAMES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
"""A layer's matrices: our names and transformers'."""


def llama_state(net: VoiceModel) -> dict[str, Tensor]:
    """Weights under transformers' names, bfloat16."""
    out = {"model.embed_tokens.weight": net.table.full(), "model.norm.weight": net.norm}
    for i, block in enumerate(net.blocks):
        at = f"model.layers.{i}."
        for ours, theirs in LAYER_NAMES.items():
            out[f"{at}{theirs}.weight"] = getattr(block, ours).weight
        out[f"{at}input_layernorm.weight"] = block.norm1  # type: ignore[assignment]
        out[f"{at}post_attention_layernorm.weight"] = block.norm2  # type: ignore[assignment]
    return {k: t.detach().to(torch.bfloat16).contiguous() for k, t in out.items()}


def tokenizer() -> dict[str, Any]:
    """``tokenizer.json``: one token a letter, then Orpheus' custom tokens at one offset."""
    vocab = {"<|pad_text|>": v.PAD_TEXT, "<|begin_of_text|>": v.BOS, "<|eot_id|>": v.EOT}
    vocab |= {c: v.FIRST_LETTER + i for i, c in enumerate(LETTERS[1:])}
    named = len(vocab)
    vocab |= {f"<|unused_{i}|>": i for i in range(named, v.CUSTOM)}
    special = [(name, i) for name, i in vocab.items() if len(name) > 1]
    special += [(f"<custom_token_{i}>", v.CUSTOM + i) for i in range(v.SIZE - v.CUSTOM)]
    replace = [
        ("[‘’ʼ`´]", "'"),
        ("[‐‑]", "-"),
        (r"\s*[–—]\s*", ", "),
        ("[;；]", ","),
        ("…", "."),
        (r"\s+", " "),
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for name, i in sorted(special, key=lambda pair: pair[1])
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFKD"},
                {"type": "StripAccents"},
                {"type": "Lowercase"},
                *({"type": "Replace", "pattern": {"Regex": a}, "content": b} for a, b in replace),
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
            ],
            "special_tokens": {
                "<|begin_of_text|>": {
                    "id": "<|begin_of_text|>",
                    "ids": [v.BOS],
                    "tokens": ["<|begin_of_text|>"],
                }
            },
        },
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [],
        },
    }


@torch.no_grad()
def snac_state(codec: Codec) -> dict[str, Tensor]:
    """Weights of ``snac.SNAC`` with our codebooks and decoder; the encoder is not trained.

    The encoder is there so that the class loads. A language model writes the codes of this codec;
    they are never computed from sound.
    """
    from snac import SNAC

    torch.manual_seed(0)
    # Its first level's projection stays random: the rows there are zero.
    model: Any = SNAC(**codec.config)
    plain: dict[str, Any] = dict(codec.decoder.named_modules())
    for name, module in model.decoder.named_modules():
        source: Any = plain.get(name)
        if parametrize.is_parametrized(module):
            module.weight = source.weight.detach()
            if module.bias is not None:
                module.bias.copy_(source.bias)
        elif hasattr(module, "alpha"):
            module.alpha.copy_(source.alpha)
    levels = ((None, None), (codec.middle, codec.middle_out), (codec.fine, codec.fine_out))
    for quantizer, (rows, out) in zip(model.quantizer.quantizers, levels, strict=True):
        book = quantizer.codebook.weight
        book.zero_()
        if rows is None or out is None:
            quantizer.out_proj.bias.zero_()
            continue
        vectors = rows(torch.arange(rows.count()))
        book[:] = vectors.mean(0)  # rows without a meaning get the mean vector
        book[: len(vectors)] = vectors
        quantizer.out_proj.weight = out.weight.detach()
        quantizer.out_proj.bias.copy_(out.bias)
    return {k: t.detach().clone().contiguous() for k, t in model.state_dict().items()}


def export_lm(checkpoint: Path, folder: Path) -> None:
    """Write the language model of a checkpoint (its averaged weights), its configuration and
    tokenizer."""
    saved = torch.load(checkpoint, weights_only=True)
    net = VoiceModel(Size(**saved["size"]))
    net.load_state_dict(saved["average"])
    write_json(folder / "config.json", config(net.size, saved["voices"]))
    ids = {"bos_token_id": v.BOS, "eos_token_id": v.END_OF_SPEECH, "pad_token_id": v.PAD}
    write_json(folder / "generation_config.json", {**ids, **SAMPLING})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(), ensure_ascii=False) + "\n")
    save_file(llama_state(net), folder / "model.safetensors", {"format": "pt"})


def export_codec(checkpoint: Path, folder: Path) -> None:
    """Write the codec of a checkpoint (its averaged weights)."""
    voice = Codec.load(checkpoint)
    (folder / "snac").mkdir(exist_ok=True)
    write_json(folder / "snac" / "config.json", voice.config)
    save_file(snac_state(voice), folder / "snac" / "model.safetensors", {"format": "pt"})


def export(work: Path, folder: Path) -> None:
    """Write ``folder`` from the checkpoints ``lm.pt`` and ``codec.pt`` in ``work``.

    A file without a checkpoint is not changed, so that one of the two may be trained alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = False
    for name, write in (("lm", export_lm), ("codec", export_codec)):
        checkpoint = work / f"{name}.pt"
        if checkpoint.exists():
            write(checkpoint, folder)
            found = True
    if not found:
        raise FileNotFoundError(f"no lm.pt and no codec.pt in {work}: train one first")
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    print(f"{folder}: {size / 2**20:.1f} MiB")
