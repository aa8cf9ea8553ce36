"""Shapes of models, for figures that need no trained weights: Orpheus 3B as published (config.json
of canopylabs/orpheus-3b-0.1-ft), and the bundled voice."""

from __future__ import annotations

from typing import Any

ORPHEUS_3B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "vocab_size": 156940,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "torch_dtype": "bfloat16",
}
AUDIO_ROWS = 156940 - 128256
"""Rows of its head that belong to control and audio ids: 28,684."""

BUNDLED: dict[str, Any] = {
    "hidden": 256,
    "layers": 6,
    "heads": 4,
    "kv_heads": 4,
    "head_dim": 64,
    "inner": 688,
}
"""The bundled voice, as arguments of `crafted_checkpoint`."""
