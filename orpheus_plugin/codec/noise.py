"""The decoder's noise, one standard normal draw per position of a stream.

SNAC's noise blocks draw `torch.randn` on every call, so the same codes decoded twice, or in other
pieces, differ. Here a draw is a pure function of (stream seed, block, position): nothing is stored,
and it does not matter how a stream is cut into chunks, which streams share its batch, or on which
device it runs. `normal` is the definition; each step has its own way to compute it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MASK = 0xFFFFFFFF


def stream_keys(seed: int, blocks: int) -> NDArray[np.int64]:
    """Keys of one stream, [blocks, 2], each in [0, 2**32). Any Python int is a seed."""
    words = np.random.SeedSequence(seed & (2**64 - 1)).generate_state(2 * blocks, np.uint32)
    return words.astype(np.int64).reshape(blocks, 2)


def _mix(x: NDArray[np.int64]) -> NDArray[np.int64]:
    """A bijection of 32-bit integers (held in int64) with full avalanche: 'lowbias32' of Chris
    Wellons' hash-prospector."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def normal(keys: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard normal draws, of the shape of `positions`, of which only the low 32 bits count.

    Args:
        keys: int64 [..., 2], broadcast against positions; see `stream_keys`.
    """
    hashed = _mix(positions & _MASK)
    first = _mix(hashed ^ keys[..., 0])
    second = _mix(first ^ keys[..., 1])
    # 24 bits each, the first in (0, 1] so that its logarithm is finite (Box-Muller).
    u = ((first >> 8) + 1) * 2.0**-24
    v = (second >> 8) * 2.0**-24
    draws: NDArray[np.float64] = np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)
    return draws
