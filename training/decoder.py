"""SNAC's decoder with channels last: the same sums as ``snac.layers.Decoder``, in a form that
trains fast.

Depthwise convolutions become shifted multiply-adds and everything else a matrix product, so that
``torch.compile`` fuses what lies between the products: 3.5 times the speed of the modules' own
forward and backward pass on a CPU. Works on the modules of a decoder without weight normalisation.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

DILATIONS = (1, 3, 9)


def snake(x: Tensor, alpha: Tensor) -> Tensor:
    """``x + sin(alpha x)^2 / alpha``, ``x [B, T, C]``, ``alpha [1, C, 1]``."""
    a = alpha[0, :, 0]
    return x + (a + 1e-9).reciprocal() * torch.sin(a * x).square()


def depthwise(x: Tensor, conv: Any, dilation: int) -> Tensor:
    """A depthwise convolution of width 7."""
    steps = x.shape[1]
    padded = F.pad(x, (0, 0, 3 * dilation, 3 * dilation))
    out: Tensor = conv.bias
    for k in range(7):
        out = out + padded[:, k * dilation : k * dilation + steps] * conv.weight[:, 0, k]
    return out


def upsample(x: Tensor, conv: Any) -> Tensor:
    """A transposed convolution of even stride ``s``, width ``2 s``, padding ``s / 2``."""
    batch, steps, channels = x.shape
    stride, width = conv.stride[0], conv.weight.shape[1]
    taps = conv.weight.permute(0, 2, 1).reshape(channels, -1)
    halves = (x @ taps).view(batch, steps, 2, stride * width)
    sums = F.pad(halves[:, :, 0], (0, 0, 0, 1)) + F.pad(halves[:, :, 1], (0, 0, 1, 0))
    sums = sums.reshape(batch, (steps + 1) * stride, width)
    start = stride // 2
    out: Tensor = sums[:, start : start + steps * stride] + conv.bias
    return out


def block(x: Tensor, modules: Any, noise: Tensor) -> Tensor:
    """One ``DecoderBlock``: upsampling, noise, three residual units."""
    first, conv, add_noise, *units = modules.block
    x = upsample(snake(x, first.alpha), conv)
    x = x + noise * F.linear(x, add_noise.linear.weight[:, :, 0])
    for unit, dilation in zip(units, DILATIONS, strict=True):
        before, wide, between, mix = unit.block
        h = snake(depthwise(snake(x, before.alpha), wide, dilation), between.alpha)
        x = x + F.linear(h, mix.weight[:, :, 0], mix.bias)
    return x


def noises(batch: int, latents: int, rates: list[int], device: Any = None) -> list[Tensor]:
    """White noise ``[B, T, 1]`` for each block."""
    out = []
    for rate in rates:
        latents *= rate
        out.append(torch.randn(batch, latents, 1, device=device))
    return out


def features(decoder: Any, latents: Tensor, noise: list[Tensor], blocks: int) -> list[Tensor]:
    """Outputs of the first ``blocks`` blocks, for ``latents [B, T, C]``."""
    wide, mix = decoder.model[:2]
    x = F.linear(depthwise(latents, wide, 1), mix.weight[:, :, 0], mix.bias)
    out = []
    for modules, n in zip(decoder.model[2 : 2 + blocks], noise, strict=False):
        x = block(x, modules, n)
        out.append(x)
    return out


def waveform(decoder: Any, x: Tensor) -> Tensor:
    """The last block's output to sound ``[B, T]``."""
    last, conv = decoder.model[-3:-1]
    steps = x.shape[1]
    taps = F.pad(snake(x, last.alpha) @ conv.weight[0], (0, 0, 3, 3))
    total = conv.bias
    for k in range(7):
        total = total + taps[:, k : k + steps, k]
    return torch.tanh(total)
