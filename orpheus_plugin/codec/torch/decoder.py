"""SNAC's decoder in torch: the folded weights as modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orpheus_plugin.codec.torch.elementwise import EAGER, Elementwise
from orpheus_plugin.codec.torch.layers import Block, Head, ResidualUnit, Snake, Stem
from orpheus_plugin.codec.weights import SnacWeights


class SnacDecoder(nn.Module):
    """SNAC's quantiser tables and decoder, weight norm folded, without the encoder.

    Attributes:
        tables: float [3, 4096, latent_dim]: for each level the output projection of every codebook
            row, so that a latent is the sum of three rows.
        stages: stem, blocks, head in order; `layers.py` says how they step.
    """

    tables: Tensor
    work: Elementwise = EAGER

    def __init__(self, weights: SnacWeights) -> None:
        super().__init__()
        self.config = config = weights.config
        self.register_buffer("tables", torch.from_numpy(weights.tables))

        def below(prefix: str) -> dict[str, Tensor]:
            return {k: torch.from_numpy(v) for k, v in weights.below(prefix).items()}

        blocks = len(config.decoder_rates)
        stages: list[Stem | Block | Head] = [Stem(below("decoder.model."))]
        for number, rate in enumerate(config.decoder_rates):
            stages.append(Block(below(f"decoder.model.{number + 2}."), rate, noise=config.noise))
        snake, last = below(f"decoder.model.{blocks + 2}."), below(f"decoder.model.{blocks + 3}.")
        stages.append(Head(snake["alpha"], last["weight"], last["bias"]))
        self.stages = stages
        self._stages = nn.ModuleList(stages)  # registered, so that .to() reaches them
        self.requires_grad_(False)
        self.eval()

    def use(self, work: Elementwise) -> None:
        """How the work between the products is done, in place of `elementwise.EAGER`."""
        self.work = work
        for module in self.modules():
            if isinstance(module, Snake | ResidualUnit | Block):
                module.work = work

    @property
    def device(self) -> torch.device:
        return self.tables.device

    @property
    def dtype(self) -> torch.dtype:
        return self.tables.dtype

    def embed(self, codes: Tensor) -> Tensor:
        """int64 codes [rows, batch, 3] (coarse, mid, fine) -> latents [rows, batch, latent_dim]."""
        latents = self.tables[0][codes[..., 0]]
        latents += self.tables[1][codes[..., 1]]
        latents += self.tables[2][codes[..., 2]]
        return latents
