"""The compiled draw against its definition: the softmax, cut to the nucleus, of the penalised
logits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare

from orpheus_plugin.tokens.cpu import sampler
from tests.support.kernels import from_python

draw = from_python(sampler.draw)

Floats = NDArray[np.float32]
NONE_SEEN = np.zeros(4096, np.uint8)


def row(*values: float) -> Floats:
    logits = np.full(4112, -np.inf, np.float32)
    logits[: len(values)] = values
    return logits


def many(
    logits: Floats,
    count: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    penalty: float = 1.0,
    seen: NDArray[np.uint8] = NONE_SEEN,
    seed: int = 1,
) -> NDArray[np.int64]:
    random = np.array([seed], np.uint64)
    t, p, r = (np.float32(value) for value in (temperature, top_p, penalty))
    return np.array([draw(logits.copy(), seen, t, p, r, random) for _ in range(count)])


def definition(logits: Floats, temperature: float, top_p: float) -> NDArray[np.float64]:
    """Probabilities, by sorting: drop what comes after the mass has reached top_p."""
    p: NDArray[np.float64] = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    p[order[np.cumsum(p[order]) - p[order] >= top_p]] = 0
    p /= p.sum()
    return p


@pytest.mark.parametrize("temperature", [0.3, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.8, 0.95, 1.0])
def test_draws_follow_their_definition(temperature: float, top_p: float) -> None:
    values = np.random.default_rng(3).normal(0, 2.2, 4097)
    logits = row(*values)
    wanted = definition(logits, temperature, top_p)
    drawn = many(logits, 20_000, temperature, top_p)
    assert (wanted[drawn] > 0).all()
    counts = np.bincount(drawn, minlength=len(wanted))
    common = wanted * len(drawn) >= 5
    if common.sum() > 1:
        seen = np.append(counts[common], counts[~common].sum())
        expected = np.append(wanted[common], wanted[~common].sum()) * len(drawn)
        kept = expected > 0
        assert chisquare(seen[kept], expected[kept]).pvalue > 1e-4


def test_a_flat_row_with_a_small_nucleus_is_drawn_exactly() -> None:
    """Many rounds."""
    logits = row(*np.linspace(0, -0.2, 4096))
    wanted = definition(logits, 1.0, 0.01)
    drawn = many(logits, 5000, top_p=0.01)
    nucleus = np.nonzero(wanted)[0]
    counts = np.bincount(drawn, minlength=len(wanted))[nucleus]
    assert counts.sum() == len(drawn)
    assert chisquare(counts, wanted[nucleus] * len(drawn)).pvalue > 1e-4


def test_the_most_probable_is_always_in_the_nucleus_and_greedy_takes_it() -> None:
    assert set(many(row(0.0, 1.0, 0.9), 200, top_p=1e-6)) == {1}
    assert set(many(row(0.0, 1.0, 1.0, 0.9), 5, temperature=0.0)) == {1}


def test_minus_infinity_is_never_drawn() -> None:
    logits = row()
    logits[[7, 4096]] = 0.0
    assert set(many(logits, 500)) == {7, 4096}


def test_the_penalty_divides_positive_and_multiplies_negative_logits_of_what_was_seen() -> None:
    seen = NONE_SEEN.copy()
    seen[[0, 2]] = 1
    logits = row(2.0, 1.0, -1.0, -1.5)
    wanted = definition(row(1.0, 1.0, -2.0, -1.5), 1.0, 1.0)[:4]
    counts = np.bincount(many(logits, 20_000, penalty=2.0, seen=seen), minlength=4)
    assert chisquare(counts, wanted * counts.sum()).pvalue > 1e-4
    assert set(many(row(1.1, 1.0), 5, temperature=0.0, penalty=1.2, seen=seen)) == {1}


def test_a_seed_repeats_its_draws_and_another_does_not() -> None:
    logits = row(*np.random.default_rng(0).normal(size=4096))
    assert np.array_equal(many(logits, 50, seed=5), many(logits, 50, seed=5))
    assert not np.array_equal(many(logits, 50, seed=5), many(logits, 50, seed=6))


def test_a_row_of_nan_draws_an_id() -> None:
    """NaN weights are found at the start by a draw, which has to end."""
    assert 0 <= many(np.full(4112, np.nan, np.float32), 1, top_p=0.8)[0] < 4112
