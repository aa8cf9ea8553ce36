"""SNAC snapshots with random weights, made on the spot and laid out as the hub's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from snac import SNAC

from tests.support.checkpoints import kept

FULL_SIZE: dict[str, Any] = {
    "sampling_rate": 24000,
    "encoder_dim": 48,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 1024,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": 4096,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}
SMALL: dict[str, Any] = FULL_SIZE | {"encoder_dim": 2, "decoder_dim": 64}


def random_codec(config: dict[str, Any] = SMALL, seed: int = 0) -> Path:
    """A SNAC snapshot (config.json, model.safetensors) whose output is noise at some -20 dBFS."""

    def make(folder: Path) -> None:
        torch.manual_seed(seed)
        model = SNAC(**config).eval()
        with torch.inference_mode():
            codes = [torch.randint(0, 4096, (1, n)) for n in (16, 32, 64)]
            level = float(model.decode(codes).std())
        state = model.state_dict()
        last = max(
            (name for name in state if name.startswith("decoder.") and name.endswith("original0")),
            key=lambda name: int(name.split(".")[2]),
        )
        state[last] = state[last] * (0.1 / max(level, 1e-6))
        save_file({name: t.contiguous() for name, t in state.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config), "utf-8")

    return kept(("codec", sorted(config.items(), key=str), seed), make)
