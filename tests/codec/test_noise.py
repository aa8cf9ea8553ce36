"""The noise is standard normal, white, and a function of seed, block and position only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from orpheus_plugin.codec.cpu import layers
from orpheus_plugin.codec.noise import normal, stream_keys
from orpheus_plugin.codec.stream import Samples
from orpheus_plugin.codec.torch.noise import normal as torch_normal
from tests.support.kernels import from_python

compiled_normal = from_python(layers.normal)

Ints = NDArray[np.int64]


def draws(seed: int, block: int, count: int, start: int = 0) -> NDArray[np.float64]:
    return normal(stream_keys(seed, 4)[block], np.arange(start, start + count))


def compiled(keys: Ints, positions: Ints) -> Samples:
    out = np.empty(len(positions), np.float32)
    compiled_normal(keys, int(positions[0]), out)
    return out


def in_torch(keys: Ints, positions: Ints) -> Samples:
    return torch_normal(torch.from_numpy(keys), torch.from_numpy(positions)).numpy()


@pytest.mark.parametrize("step", [compiled, in_torch])
@pytest.mark.parametrize("start", [-3000, 0, 2**32 - 500, 2**40])
def test_each_step_draws_what_is_defined(
    step: Callable[[Ints, Ints], NDArray[Any]], start: int
) -> None:
    keys, positions = stream_keys(4, 2)[1], np.arange(start, start + 20_000)
    np.testing.assert_allclose(step(keys, positions), normal(keys, positions), rtol=0, atol=3e-6)


def test_draws_are_standard_normal_and_white() -> None:
    x = draws(1, 3, 400_000)
    assert abs(x.mean()) < 0.01
    assert abs(x.std() - 1) < 0.01
    assert abs((x**3).mean()) < 0.02
    assert abs((x**4).mean() - 3) < 0.06
    for lag in (1, 2, 3, 8, 64, 512):
        assert abs(np.mean(x[lag:] * x[:-lag])) < 0.01


def test_seeds_and_blocks_are_independent() -> None:
    series = [draws(seed, block, 100_000) for seed in (0, 1, 2**63) for block in range(4)]
    correlation = np.corrcoef(series) - np.eye(len(series))
    assert np.abs(correlation).max() < 0.02


def test_a_draw_depends_on_its_position_only() -> None:
    np.testing.assert_array_equal(draws(3, 0, 100)[40:60], draws(3, 0, 20, start=40))
    assert np.isfinite(draws(3, 0, 1000, start=2**32 - 500)).all()


def test_any_integer_is_a_seed() -> None:
    for seed in (-1, 0, 2**80):
        assert stream_keys(seed, 2).shape == (2, 2)
