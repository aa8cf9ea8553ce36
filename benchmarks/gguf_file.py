"""A GGUF file of a Llama checkpoint, for llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from orpheus_plugin.tensors import float32, read_tensors
from orpheus_plugin.tokens.llama import LlamaShape


def write_gguf(model_dir: Path, path: Path) -> None:
    """Write a Llama checkpoint as llama.cpp reads it, in float16. Needs the `gguf` package."""
    import gguf

    shape, tensors = LlamaShape.read(model_dir), read_tensors(model_dir)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(shape.max_positions)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(float(shape.rope["rope_theta"]))
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_vocab_size(shape.vocab)
    writer.add_tokenizer_model("no_vocab")
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
    }
    parts = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for layer in range(shape.layers):
        for theirs, ours in parts.items():
            names[f"model.layers.{layer}.{theirs}.weight"] = f"blk.{layer}.{ours}.weight"
    for theirs, ours in names.items():
        values = float32(tensors[theirs])
        heads = {"attn_q": shape.heads, "attn_k": shape.kv_heads}.get(ours.split(".")[-2])
        if heads is not None:  # llama.cpp rotates neighbours, the checkpoint halves
            values = values.reshape(heads, 2, -1, shape.hidden).swapaxes(1, 2)
            values = np.ascontiguousarray(values).reshape(-1, shape.hidden)
        writer.add_tensor(ours, values.astype(np.float16) if values.ndim == 2 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
