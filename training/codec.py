"""The codec's decoder: SNAC's own, taught to speak the codes that :mod:`training.codes` defines.

There is no encoder to learn: the codes of an utterance are known from the teacher. What is learned
is the sound of every row (the codebooks, through small tables of what a row means) and SNAC's
decoder, end to end on the waveform (:mod:`training.codec_train`). The indices stay as they are, so
the language model and the codec can be trained side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from training.codes import LEVELS, PHASES, PHONEMES, PITCHES, REMAINING, ROWS

CONFIG: dict[str, Any] = {
    "sampling_rate": 24000,
    "encoder_dim": 8,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 256,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": ROWS,
    "codebook_dim": 32,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}
LATENT_DIM = CONFIG["encoder_dim"] * 2 ** len(CONFIG["encoder_rates"])


class Rows(nn.Module):
    """Codebook rows from the few things a row says, through a small network."""

    def __init__(self, sizes: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.parts = nn.ModuleList(nn.Embedding(n, 64) for n in sizes)
        self.mix = nn.Sequential(
            nn.Linear(64 * len(sizes), 256), nn.GELU(), nn.Linear(256, dim), nn.LayerNorm(dim)
        )

    def forward(self, row: Tensor) -> Tensor:
        """Vectors of row numbers; the last part counts fastest."""
        vectors = []
        for size, part in zip(self.sizes[::-1], list(self.parts)[::-1], strict=True):
            vectors.append(part(row % size))
            row = row // size
        out: Tensor = self.mix(torch.cat(vectors, -1))
        return out

    def count(self) -> int:
        """Number of rows in use."""
        return int(np.prod(self.sizes))


class Codec(nn.Module):
    """Codes ``[B, frames, 7]`` to sound ``[B, 2048 * frames]``.

    SNAC's weight normalisation is taken off for training (the optimiser does better on plain
    matrices) and put back at export.
    """

    def __init__(self) -> None:
        super().__init__()
        from snac.layers import Decoder

        dim = CONFIG["codebook_dim"]
        self.middle = Rows((PITCHES, PHASES, LEVELS), dim)
        self.fine = Rows((len(PHONEMES), REMAINING, 2), dim)
        self.middle_out = nn.Conv1d(dim, LATENT_DIM, 1)
        self.fine_out = nn.Conv1d(dim, LATENT_DIM, 1)
        self.decoder = Decoder(
            LATENT_DIM,
            CONFIG["decoder_dim"],
            CONFIG["decoder_rates"],
            noise=CONFIG["noise"],
            depthwise=CONFIG["depthwise"],
            attn_window_size=None,
        )
        for module in self.decoder.modules():
            if parametrize.is_parametrized(module):
                parametrize.remove_parametrizations(module, "weight")

    def latents(self, codes: Tensor) -> Tensor:
        """Codes ``[B, frames, 7]`` to ``[B, 128, 4 * frames]``."""
        m = self.middle(codes[:, :, [1, 4]].flatten(1)).transpose(1, 2)
        f = self.fine(codes[:, :, [2, 3, 5, 6]].flatten(1)).transpose(1, 2)
        latents: Tensor = self.middle_out(m).repeat_interleave(2, -1) + self.fine_out(f)
        return latents

    def forward(self, codes: Tensor) -> Tensor:
        """The sound of codes."""
        sound: Tensor = self.decoder(self.latents(codes))[:, 0]
        return sound

    def matrices(self) -> list[nn.Parameter]:
        """The weights that mix channels (for Muon)."""
        found: list[nn.Parameter] = []
        for m in self.decoder.modules():
            if isinstance(m, nn.Conv1d | nn.ConvTranspose1d) and m.groups == 1:
                weight: Any = m.weight
                if min(weight.shape[0], weight[0].numel()) >= 16:
                    found.append(weight)
        return found
