"""Readouts of the voice's source from the decoder's features. With them the decoder learns to keep
the phase that the codes give.

The codes give pitch and phase exactly, but a decoder that is trained on speech alone does not learn
this: while it is far off, every phase is equally wrong, and a harmonic's phase error is the
fundamental's times its number. So linear readouts of the decoder's features are trained to give the
bare harmonics: cosine and sine of each below 1.4 kHz from the features at 3 kHz, and two pulse
trains up to 4 kHz from those at 12 kHz. The exported codec does not contain the readouts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.codes import LEVELS, PHASES, PITCH_BASE, PITCHES, STEP

HARMONICS = 6
RATES = (3000, 12000)
"""Rates of the features that are read, after the second and the third block."""
TOPS = (1400, 4000)
EDGE = 1536
"""Samples at 24 kHz at both ends of a stretch that lack context and are not judged."""


def turns(codes: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """Phase in turns and frequency (0: unvoiced) of
    ``codes [B, frames, 7]``, ``[B, T]`` at ``rate`` Hz.

    A value stands for the middle of its samples, as a transposed convolution places it.
    """
    middle = codes[:, :, [1, 4]].flatten(1)
    number = (middle // (PHASES * LEVELS)).clamp(max=PITCHES - 1)
    hz = (number + PITCH_BASE) * (24000 / STEP / PHASES) * (number > 0)
    start = (middle // LEVELS) % PHASES / PHASES
    hop = 24000 // rate
    at = torch.arange(0, STEP, hop, device=codes.device) + (hop - 1) / 2
    phase = (start[..., None] + hz[..., None] * at / 24000) % 1
    return phase.flatten(1), hz.repeat_interleave(STEP // hop, 1)


def harmonics(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[B, T, 2 * HARMONICS]`` at 3 kHz, and where they count.

    Where the voice is silent they are 0, which counts, too. A harmonic above the top does not
    count.
    """
    phase, hz = turns(codes, RATES[0])
    number = torch.arange(1, HARMONICS + 1, device=codes.device)
    below = (hz[..., None] > 0) & (hz[..., None] * number < TOPS[0])
    angle = 2 * torch.pi * phase[..., None] * number
    wanted = torch.cat([angle.cos() * below, angle.sin() * below], -1)
    return wanted, torch.cat([below | (hz == 0)[..., None]] * 2, -1).float()


def pulse_trains(codes: Tensor) -> Tensor:
    """Sums of all cosines and of all sines below 4 kHz, ``[B, T, 2]`` at 12 kHz."""
    phase, hz = turns(codes, RATES[1])
    count = (TOPS[1] / hz.clamp(min=60)).floor()
    angle = 2 * torch.pi * phase
    half = (angle / 2).sin()
    flat = half.abs() < 1e-4
    below = 2 * half.masked_fill(flat, 1)
    top = (count + 0.5) * angle
    cosines = torch.where(flat, count, top.sin() / below - 0.5)
    sines = torch.where(flat, 0, ((angle / 2).cos() - top.cos()) / below)
    return torch.stack([cosines, sines], -1) * (hz > 0)[..., None] / 4


class Source(nn.Module):
    """Readouts of the source, and how wrong they are."""

    def __init__(self, channels: tuple[int, int]) -> None:
        super().__init__()
        self.at_3k = nn.Linear(channels[0], 2 * HARMONICS)
        self.at_12k = nn.Linear(channels[1], 2)

    def low(self, x: Tensor, wanted: Tensor, counts: Tensor) -> Tensor:
        """Error of the harmonics as a share of their energy, mean over harmonics; features
        ``[B, T, C]``."""
        edge = EDGE * RATES[0] // 24000
        wanted, counts = wanted[:, edge:-edge], counts[:, edge:-edge]
        off = (self.at_3k(x[:, edge:-edge]) - wanted).square() * counts
        share: Tensor = off.sum((0, 1)) / wanted.square().sum((0, 1)).clamp(min=1)
        return share.mean()

    def high(self, x: Tensor, wanted: Tensor) -> Tensor:
        """Error of the pulse trains as a share of their energy."""
        edge = EDGE * RATES[1] // 24000
        wanted = wanted[:, edge:-edge]
        off = (self.at_12k(x[:, edge:-edge]) - wanted).square().sum()
        share: Tensor = off / wanted.square().sum().clamp(min=1)
        return share
