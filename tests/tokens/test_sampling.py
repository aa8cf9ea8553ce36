"""The batched draw against the same distribution worked out row by row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from orpheus_plugin.tokens.base import SamplingParams
from orpheus_plugin.tokens.torch.llama import COLUMNS, SPARE, STOP
from orpheus_plugin.tokens.torch.sampler import Sampler

CPU = torch.device("cpu")
PLAIN = SamplingParams(temperature=1.0, top_p=1.0, repetition_penalty=1.0)


def row(values: dict[int, float]) -> torch.Tensor:
    """Logits that are -inf but at the given columns."""
    logits = torch.full((1, COLUMNS), float("-inf"))
    for column, value in values.items():
        logits[0, column] = value
    return logits


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> np.ndarray:
    """Probabilities after temperature and top-p, by sorting: drop what comes after the mass has
    reached top_p."""
    p: np.ndarray = (logits.double() / temperature).softmax(-1).numpy()
    order = np.argsort(-p, kind="stable")
    before = np.cumsum(p[order]) - p[order]
    kept = np.zeros_like(p)
    kept[order[before < top_p]] = p[order[before < top_p]]
    kept /= kept.sum()
    return kept


@dataclass
class Drawer:
    """Draws many times from one row of logits: as many streams as draws, one step."""

    draws: int = 4000

    def __call__(self, logits: torch.Tensor, options: SamplingParams, seed: int = 0) -> np.ndarray:
        sampler = Sampler(self.draws, 14, CPU)
        for stream in range(self.draws):
            one = SamplingParams(options.temperature, options.top_p, 1.0, seed=seed + stream)
            sampler.join(stream, one)
        return sampler.draw(logits.repeat(self.draws, 1), [0] * self.draws).numpy()


def total_variation(drawn: np.ndarray, expected: np.ndarray) -> float:
    seen = np.bincount(drawn, minlength=COLUMNS) / len(drawn)
    return float(np.abs(seen - expected).sum() / 2)


@pytest.mark.parametrize("temperature", [0.3, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.8, 0.95, 1.0])
def test_draws_follow_temperature_and_nucleus(temperature: float, top_p: float) -> None:
    values = torch.randn(30, generator=torch.Generator().manual_seed(3)) * 2
    logits = row({int(c): float(v) for c, v in zip(range(0, 90, 3), values, strict=True)})
    expected = nucleus(logits[0], temperature, top_p)
    drawn = Drawer()(logits, SamplingParams(temperature, top_p, 1.0))
    assert set(drawn) <= set(np.nonzero(expected)[0])
    assert total_variation(drawn, expected) < 0.04


def test_a_flat_row_with_a_small_nucleus_is_drawn_exactly() -> None:
    """Many rounds of rejection, then sorting."""
    values = torch.linspace(0, -0.2, 4096)
    logits = torch.cat([values, torch.tensor([-0.3, float("-inf")])])[None]
    expected = nucleus(logits[0], 1.0, 0.01)
    drawn = Drawer()(logits, SamplingParams(1.0, 0.01, 1.0))
    assert set(drawn) <= set(np.nonzero(expected)[0])
    assert total_variation(drawn, expected) < 0.05


def test_the_most_probable_id_is_always_in_the_nucleus() -> None:
    logits = row({5: 1.0, 6: 0.9})
    assert set(Drawer(200)(logits, SamplingParams(1.0, 1e-6, 1.0))) == {5}


def test_greedy_takes_the_highest_logit_beside_rows_that_sample() -> None:
    sampler = Sampler(3, 14, CPU)
    for stream, temperature in enumerate((0.0, 1.0, 0.0)):
        sampler.join(stream, SamplingParams(temperature, 0.8, 1.0, seed=stream))
    logits = row({9: 1.0, 8: 1.1, 7: 1.0})
    drawn = sampler.draw(logits.repeat(3, 1), [0, 0, 0]).tolist()
    assert drawn[0] == drawn[2] == 8
    assert drawn[1] in (7, 8, 9)


def test_the_stop_id_and_nothing_but_finite_columns_can_be_drawn() -> None:
    assert set(Drawer(500)(row({STOP: 0.0, 4095: 0.0}), PLAIN)) == {STOP, 4095}


def test_a_seed_repeats_its_draws_whatever_else_is_in_the_batch() -> None:
    logits = torch.randn(20, COLUMNS, generator=torch.Generator().manual_seed(0))
    logits[:, SPARE] = float("-inf")

    def run(place: int, others: int) -> list[int]:
        sampler = Sampler(others + 1, 200, CPU)
        for stream in range(others + 1):
            seed = 42 if stream == place else 100 + stream
            sampler.join(stream, SamplingParams(0.9, 0.9, 1.1, seed=seed))
        batch = [logits[n : n + 1].repeat(others + 1, 1) for n in range(20)]
        return [int(sampler.draw(b, [n] * (others + 1))[place]) for n, b in enumerate(batch)]

    alone = run(0, 0)
    assert alone == run(0, 3) == run(2, 5)


def test_no_seed_draws_a_fresh_one() -> None:
    logits = torch.zeros(1, COLUMNS)
    logits[:, SPARE] = float("-inf")
    drawn = set()
    for _ in range(5):
        sampler = Sampler(1, 14, CPU)
        sampler.join(0, PLAIN)
        drawn.add(int(sampler.draw(logits.clone(), [0])[0]))
    assert len(drawn) > 1


def test_the_penalty_is_over_the_ids_drawn_in_the_same_slot() -> None:
    """Positive logits are divided, negative ones multiplied, once however often an id came."""
    penalty = 1.5
    sampler = Sampler(1, 70, CPU)
    sampler.join(0, SamplingParams(0.0, 1.0, penalty))
    history: dict[int, set[int]] = {slot: set() for slot in range(7)}
    noise = torch.Generator().manual_seed(2)
    for count in range(63):
        logits = row({c: float(torch.randn(1, generator=noise)) for c in (1, 2, 3)})
        if count % 9 == 0:  # all negative
            logits -= 5
        expected = logits[0].clone()
        for code in history[count % 7]:
            value = expected[code]
            expected[code] = value / penalty if value > 0 else value * penalty
        chosen = int(sampler.draw(logits.clone(), [count])[0])
        assert chosen == int(expected.argmax())
        history[count % 7].add(chosen)


def test_a_reused_place_forgets_its_last_request() -> None:
    sampler = Sampler(2, 70, CPU)
    sampler.join(0, SamplingParams(0.0, 1.0, 100.0))
    logits = row({1: 1.0, 2: 0.9})
    for count in range(0, 14, 7):
        sampler.draw(logits.clone(), [count])
    sampler.join(0, SamplingParams(0.0, 1.0, 100.0))
    assert [int(sampler.draw(logits.clone(), [n])[0]) for n in (0, 7)] == [1, 2]


def test_a_moved_stream_continues_unchanged() -> None:
    logits = torch.randn(100, COLUMNS, generator=torch.Generator().manual_seed(0))
    logits[:, SPARE] = float("-inf")

    def run(moved: bool) -> list[int]:
        sampler = Sampler(2, 200, CPU)
        sampler.join(0, SamplingParams(1.0, 0.9, 1.3, seed=1))
        sampler.join(1, SamplingParams(0.7, 0.8, 1.2, seed=2))
        out = []
        for n in range(100):
            if moved and n >= 37:
                if n == 37:
                    sampler.move(1, 0)
                out.append(int(sampler.draw(logits[n : n + 1].clone(), [n])[0]))
            else:
                out.append(int(sampler.draw(logits[n : n + 1].repeat(2, 1), [n, n])[1]))
        return out

    assert run(moved=True) == run(moved=False)
