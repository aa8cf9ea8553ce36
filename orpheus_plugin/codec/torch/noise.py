"""noise.normal in torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def normal(keys: Tensor, positions: Tensor) -> Tensor:
    """See noise.normal: keys int64 [..., 2], positions int64; float32.

    Cost: about 25 elementwise operations on 840 values per row of codes and stream; 1 % of a
    decoding step.
    """
    hashed = _mix(positions & _MASK)
    first = _mix(hashed ^ keys[..., 0])
    second = _mix(first ^ keys[..., 1])
    u = ((first >> 8) + 1).to(torch.float32) * 2.0**-24
    v = (second >> 8).to(torch.float32) * 2.0**-24
    return torch.sqrt(-2.0 * torch.log(u)) * torch.cos(2.0 * math.pi * v)
