"""The codec's decoder: SNAC's own, trained on the codes that :mod:`training.codes` defines.

No encoder is trained: the codes of an utterance are known from the teacher. Training finds the
sound of every row (the codebooks, through small tables of what a row means) and the weights of
SNAC's decoder, end to end on the waveform (:mod:`training.codec_train`). The indices do not change,
so the language model and the codec can be trained at the same time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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
"""The shape of a codec made from nothing; a checkpoint carries its own."""


def latent_dim(config: dict[str, Any]) -> int:
    """Width of what the decoder is given."""
    return int(config["encoder_dim"] * 2 ** len(config["encoder_rates"]))


class Rows(nn.Module):
    """Codebook rows. A small network makes a row's vector from its meaning; each row adds a part of
    its own."""

    def __init__(self, sizes: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.parts = nn.ModuleList(nn.Embedding(n, 64) for n in sizes)
        self.mix = nn.Sequential(
            nn.Linear(64 * len(sizes), 256), nn.GELU(), nn.Linear(256, dim), nn.LayerNorm(dim)
        )
        self.own = nn.Parameter(torch.zeros(self.count(), dim))

    def forward(self, row: Tensor) -> Tensor:
        """Vectors of row numbers; the last part counts fastest."""
        vectors, left = [], row
        for size, part in zip(self.sizes[::-1], list(self.parts)[::-1], strict=True):
            vectors.append(part(left % size))
            left = left // size
        out: Tensor = self.mix(torch.cat(vectors, -1)) + F.embedding(row, self.own)
        return out

    @torch.no_grad()
    def set(self, vectors: Tensor) -> None:
        """Make the rows these vectors ``[count, dim]``; the network adds nothing at first."""
        last: Any = self.mix[-1]
        last.weight.zero_()
        last.bias.zero_()
        self.own.copy_(vectors)

    def count(self) -> int:
        """Number of rows in use."""
        return int(np.prod(self.sizes))


class Codec(nn.Module):
    """Codes ``[B, frames, 7]`` to sound ``[B, 2048 * frames]``.

    SNAC's weight normalisation is taken off for training (the optimiser does better on plain
    matrices) and put back at export.
    """

    def __init__(self, config: dict[str, Any] = CONFIG) -> None:
        super().__init__()
        from snac.layers import Decoder

        self.config = config
        dim, latent = config["codebook_dim"], latent_dim(config)
        self.middle = Rows((PITCHES, PHASES, LEVELS), dim)
        self.fine = Rows((len(PHONEMES), REMAINING, 2), dim)
        self.middle_out = nn.Conv1d(dim, latent, 1)
        self.fine_out = nn.Conv1d(dim, latent, 1)
        self.decoder = Decoder(
            latent,
            config["decoder_dim"],
            config["decoder_rates"],
            noise=config["noise"],
            depthwise=config["depthwise"],
            attn_window_size=None,
        )
        with torch.enable_grad():  # or else what is left would not be a parameter
            for module in self.decoder.modules():
                if parametrize.is_parametrized(module):
                    parametrize.remove_parametrizations(module, "weight")

    def latents(self, codes: Tensor) -> Tensor:
        """Codes ``[B, frames, 7]`` to ``[B, latent_dim, 4 * frames]``."""
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

    @classmethod
    def load(cls, path: Path) -> Codec:
        """The averaged weights of a checkpoint."""
        saved = torch.load(path, weights_only=True)
        codec = cls(saved["config"])
        codec.load_state_dict(saved["average"])
        return codec.eval()
