"""Discriminators: small networks that learn to tell the teacher's sound from the decoder's. Their
loss makes the decoder's noise natural.

Some read spectrograms of short and medium windows (as in UnivNet), some the wave folded at a prime
period (as in HiFi-GAN). They have a tenth of the sizes used there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.losses import RESOLUTIONS, sizes

SPECTROGRAMS = (1, 2, 3, 4)
"""Which of the losses' resolutions are looked at: windows of 128 to 1024 samples."""
PERIODS = (2, 3, 5, 7, 11)
SLOPE = 0.1

Verdict = tuple[Tensor, list[Tensor]]
"""A map of how real each place sounds (1: real), and the features on the way."""


class Layers(nn.Module):
    """A stack of convolutions; the last one gives the score."""

    def __init__(self, shapes: list[tuple[int, int, tuple[int, int]]], kernel: tuple[int, int]):
        super().__init__()
        pad = (kernel[0] // 2, kernel[1] // 2)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, kernel, stride=s, padding=pad) for a, b, s in shapes
        )
        last = (3, 3 if kernel[1] > 1 else 1)
        self.last = nn.Conv2d(shapes[-1][1], 1, last, padding=(1, last[1] // 2))

    def forward(self, x: Tensor) -> Verdict:
        """Score of ``x [B, 1, height, width]``."""
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return self.last(x), features


class SpectrogramJudge(Layers):
    """A discriminator of log-magnitudes at one resolution."""

    def __init__(self, resolution: int, width: int = 16) -> None:
        w = width
        super().__init__(
            [(1, w, (2, 1)), (w, w, (2, 1)), (w, 2 * w, (2, 2)), (2 * w, 2 * w, (2, 2))], (5, 3)
        )
        self.resolution = resolution

    def judge(self, sound: Tensor, spectra: list[Tensor]) -> Verdict:
        """Score of a sound whose spectra are given."""
        x = sizes(spectra[self.resolution]).clamp(min=1e-4).log()[:, None] / 4 + 0.8
        verdict: Verdict = self(x)
        return verdict


class PeriodJudge(Layers):
    """A discriminator of every ``period``-th sample."""

    def __init__(self, period: int, width: int = 16) -> None:
        w = width
        shapes = [(1, w, (3, 1)), (w, 2 * w, (3, 1)), (2 * w, 4 * w, (3, 1))]
        super().__init__([*shapes, (4 * w, 4 * w, (1, 1))], (5, 1))
        self.period = period

    def judge(self, sound: Tensor, spectra: list[Tensor]) -> Verdict:
        """Score of a sound ``[B, T]``."""
        rows = sound.shape[1] // self.period
        folded = sound[:, : rows * self.period].reshape(len(sound), 1, rows, self.period)
        verdict: Verdict = self(4 * folded)
        return verdict


def judges(width: int = 16) -> nn.ModuleList:
    """All of them."""
    assert max(SPECTROGRAMS) < len(RESOLUTIONS)
    looking = [SpectrogramJudge(n, width) for n in SPECTROGRAMS]
    return nn.ModuleList([*looking, *(PeriodJudge(p, width) for p in PERIODS)])


def blame(on_real: Tensor, on_made: Tensor) -> Tensor:
    """Least-squares loss of a discriminator."""
    return ((1 - on_real) ** 2).mean() + (on_made**2).mean()


def unlike(made: list[Tensor], real: list[Tensor]) -> Tensor:
    """Distance of features (feature matching)."""
    return torch.stack(
        [(a - b.detach()).abs().mean() for a, b in zip(made, real, strict=True)]
    ).sum()
