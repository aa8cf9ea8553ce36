"""Draws one id from a row of logits: temperature, nucleus, repetition penalty, and a stream's own
random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orpheus_plugin.kernels.compiled import compiled, compiled_sum
from orpheus_plugin.kernels.products import LANES
from orpheus_plugin.kernels.scalars import exp, f4

u8 = np.uint64
Floats = NDArray[np.float32]


@compiled
def draw(
    logits: Floats,
    seen: NDArray[np.uint8],
    temperature: Any,
    top_p: Any,
    penalty: Any,
    random: NDArray[np.uint64],
) -> int:
    """A column of `logits`, [n] with n a multiple of 16, changed in place. -inf is never drawn.

    The nucleus is drawn from without sorting: draw from all, keep what lies in the nucleus (the
    mass of what is more probable stays below top_p), and where it does not, draw again among the
    more probable. What is kept has exactly the nucleus' distribution; ids as probable as its last
    one belong to it. 1.3 rounds are usual.

    Args:
        seen: uint8 [up to n]; 1 where the penalty applies: positive logits are divided by it,
            negative ones multiplied.
        temperature: 0 takes the first of the highest.
        top_p: 1 and more is all of the mass.
        random: uint64 [1], the stream's state; advanced once a round.
    """
    if penalty != f4(1):
        for j in range(len(seen)):
            if seen[j]:
                logits[j] = logits[j] / penalty if logits[j] > 0 else logits[j] * penalty
    best = np.argmax(logits)
    if temperature == f4(0):
        return int(best)
    highest = logits[best]
    for j in range(len(logits)):
        below = (logits[j] - highest) / temperature
        logits[j] = exp(below) if below > f4(-80) else f4(0)

    weights = logits.reshape((-1, LANES))
    sums = np.empty(len(weights), np.float32)
    floor = f4(0)  # only what is more probable counts
    whole = left = mass_above(weights, floor, sums)
    while True:
        chosen = find(weights, floor, sums, next_uniform(random) * left)
        if top_p >= f4(1):
            return chosen
        floor = logits[chosen]
        left = mass_above(weights, floor, sums)
        if left < top_p * whole or left == 0:
            return chosen


@compiled_sum
def mass_above(weights: Floats, floor: Any, sums: Floats) -> float:
    """The sum of all weights above `floor`; `sums` gets that of each row."""
    for b in range(len(weights)):
        total = f4(0)
        for j in range(LANES):
            total += weights[b, j] if weights[b, j] > floor else f4(0)
        sums[b] = total
    return running_sum(sums)


@compiled
def running_sum(sums: Floats) -> float:
    """In the order in which `find` adds."""
    total = 0.0
    for b in range(len(sums)):
        total += sums[b]
    return total


@compiled
def find(weights: Floats, floor: Any, sums: Floats, target: float) -> int:
    """Where the running sum of the weights above `floor` passes `target`, which is below their
    whole sum."""
    running, row = 0.0, 0
    while row + 1 < len(sums) and running + sums[row] <= target:
        running += sums[row]
        row += 1
    found = row * LANES
    for j in range(LANES):
        if weights[row, j] > floor:
            found = row * LANES + j
            running += weights[row, j]
            if running > target:
                break
    return found


@compiled
def next_uniform(random: NDArray[np.uint64]) -> float:
    """In [0, 1), in steps of 2**-32. SplitMix64 (Steele, Lea, Flood 2014;
    prng.di.unimi.it/splitmix64.c)."""
    random[0] += u8(0x9E3779B97F4A7C15)
    z = random[0]
    z = (z ^ (z >> u8(30))) * u8(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> u8(27))) * u8(0x94D049BB133111EB)
    z ^= z >> u8(31)
    return float(z >> u8(32)) * 2.0**-32
