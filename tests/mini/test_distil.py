"""Two decoders become one: the low band of the first, the rest of the second."""

from __future__ import annotations

import torch

from tests.mini.test_recipe import codes_of_a_melody
from tests.mini.test_widen import FIRST, SECOND
from training.codec import Codec
from training.distil import Distillation, crossover


def tone(hz: float) -> torch.Tensor:
    return torch.sin(2 * torch.pi * hz * torch.arange(24000) / 24000)[None]


def test_a_crossover_takes_each_side_from_the_right_one() -> None:
    low, high = tone(300), tone(2000)
    got = crossover(low + tone(3000), high + tone(200), 800)
    torch.testing.assert_close(got, low + high, atol=0.02, rtol=0)


def test_the_joined_decoder_comes_nearer_to_the_crossover() -> None:
    torch.manual_seed(0)
    run = Distillation(Codec(FIRST), Codec(SECOND))
    codes = codes_of_a_melody()
    losses = []
    for _ in range(12):
        torch.manual_seed(1)  # the same noise in each step
        losses.append(run.train_step(codes, 0.0))
    assert losses[-1] < losses[0]
    assert run.average.config == run.learner.config
