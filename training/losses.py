"""Distances between two sounds: of what is heard, and of the wave where the codes determine it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RESOLUTIONS = ((64, 16), (128, 32), (256, 64), (512, 128), (1024, 256), (2048, 512))
"""Window and hop of each spectrum, in samples at 24 kHz."""
WAVE_FROM = 256
"""Shortest window of the distance in the wave."""
WAVE_TOP = 2600
"""Hz above which that distance is not taken: where the phase cannot be met it only asks for
silence."""
MEL = 5.0
"""Weight of the log-mel distance: without it three quarters of what is compared lies above 3 kHz,
and vowels suffer."""


def mel_filters(n_fft: int, bands: int = 80, rate: int = 24000) -> Tensor:
    """Triangular mel filters ``[bands, n_fft // 2 + 1]``."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    points = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    freq = np.linspace(0, rate / 2, n_fft // 2 + 1)
    low, mid, high = points[:-2, None], points[1:-1, None], points[2:, None]
    return torch.tensor(
        np.maximum(0, np.minimum((freq - low) / (mid - low), (high - freq) / (high - mid))),
        dtype=torch.float32,
    )


FILTERS = {
    n: mel_filters(n, bands)
    for n, bands in ((128, 16), (256, 24), (512, 40), (1024, 80), (2048, 128))
}


def spectra(x: Tensor) -> list[Tensor]:
    """Complex spectra ``[B, bins, steps]`` of ``x [B, T]`` at each resolution."""
    return [
        torch.stft(x, n, h, window=torch.hann_window(n, device=x.device), return_complex=True)
        for n, h in RESOLUTIONS
    ]


def sizes(spectrum: Tensor) -> Tensor:
    """Magnitudes, with a gradient that stays finite at 0."""
    return torch.view_as_real(spectrum).square().sum(-1).add(1e-10).sqrt()


def floor(n: int) -> float:
    """Magnitude at window ``n`` below which a difference is not heard."""
    return 1e-3 * float(np.sqrt(n / 1024))


def heard(made: list[Tensor], real: list[Tensor]) -> Tensor:
    """Distance in log-magnitude, relative magnitude and log-mel, mean over resolutions."""
    total = torch.zeros((), device=made[0].device)
    for (n, _), a, b in zip(RESOLUTIONS, made, real, strict=True):
        y, x, least = sizes(a), sizes(b), floor(n)
        total = total + (y.clamp(min=least).log() - x.clamp(min=least).log()).abs().mean()
        total = total + 0.5 * (y - x).norm() / x.norm().clamp(min=1e-2)
        if n in FILTERS:
            filters = FILTERS[n].to(y.device)
            mel_y, mel_x = (filters @ y).clamp(min=least), (filters @ x).clamp(min=least)
            total = total + MEL * (mel_y.log() - mel_x.log()).abs().mean()
    return total / len(RESOLUTIONS)


def envelope(spectrum: Tensor, n: int) -> Tensor:
    """Mean size of the bins around each (250 Hz by three steps), for windows of n samples. Divided
    by it, a weak harmonic counts as much as a strong one. It is never zero."""
    half = max(1, 125 * n // 24000)
    mean = F.avg_pool2d(
        spectrum.abs()[:, None], (2 * half + 1, 3), 1, (half, 1), count_include_pad=False
    )
    return mean[:, 0] + 3 * floor(n)


def wave_weights(real: list[Tensor], voiced: list[Tensor], top: float) -> list[Tensor | None]:
    """Weight of each bin in :func:`wave`: how much of it the voiced part is, over the local
    envelope.

    Args:
        real, voiced: spectra of the sound and of its voiced part, which follows from the codes.
        top: Hz up to which bins count; it rises, so that low harmonics are learnt first.
    """
    weights: list[Tensor | None] = []
    for (n, _), x, v in zip(RESOLUTIONS, real, voiced, strict=True):
        if n < WAVE_FROM:
            weights.append(None)
            continue
        bins = WAVE_TOP * n // 24000
        x, v = x[:, :bins], v[:, :bins]
        size, rest = v.abs().square(), (x - v).abs().square()
        hz = torch.arange(bins, device=x.device) * (24000 / n)
        share = size / (size + rest + 1e-6) * torch.sigmoid((top - hz) / 150)[:, None]
        weights.append(share / envelope(x, n))
    return weights


def wave(made: list[Tensor], real: list[Tensor], weights: list[Tensor | None]) -> Tensor:
    """Complex distance as a share of the signal, weighted, mean over resolutions."""
    shares = []
    for a, b, w in zip(made, real, weights, strict=True):
        if w is not None:
            a, b = a[:, : w.shape[1]], b[:, : w.shape[1]]
            shares.append((w * sizes(a - b)).sum() / (w * b.abs()).sum())
    return torch.stack(shares).mean()
