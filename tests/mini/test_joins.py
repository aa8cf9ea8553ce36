"""The join between two decoded chunks is not audible in the bundled voice's speech."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.mini_voice import MODEL, ROWS, SLOTS, Voice
from orpheus_plugin.codec import open_decoder

from ..codec.conftest import decode_in_chunks, reference_decode

SENTENCES = (
    "Thanks for calling, how can I help you today?",
    "The technician will arrive between nine and eleven in the morning.",
    "Unfortunately, we are out of stock until the end of next week.",
)
HOP = 64
WINDOW = 256
CHUNKS = ([4], [1], [3, 5, 2, 9])
"""Rows a step: whole frames as in a running stream, one by one, and irregular."""


@pytest.fixture(scope="module")
def voice() -> Voice:
    return Voice()


@pytest.fixture(scope="module")
def spoken(voice: Voice) -> list[NDArray[np.int64]]:
    """The codes ``[n, 3]`` of each sentence as the language model says it."""
    found = []
    for ids, _ in voice.generate(list(SENTENCES)):
        slots = (np.array(ids, np.int64).reshape(-1, SLOTS) - voice.audio) % ROWS
        levels = (slots[:, [0]], slots[:, [1, 4]], slots[:, [2, 3, 5, 6]])
        found.append(np.stack([c.reshape(-1).repeat(4 // c.shape[1]) for c in levels], axis=1))
    return found


def stream(
    codes: NDArray[np.int64], sizes: list[int], **options: Any
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Decoded sound, and the samples at which one chunk was joined to the one before."""
    streaming = open_decoder(MODEL / "snac", slots=1)
    pieces = decode_in_chunks(streaming, codes, sizes * len(codes), **options)
    ends = np.cumsum([len(p) for p in pieces])[:-1]
    return np.concatenate(pieces), ends[(ends > WINDOW) & (ends < 512 * len(codes) - WINDOW)]


def flux(sound: NDArray[np.float32]) -> NDArray[np.float64]:
    """Spectral flux every ``HOP`` samples: the rise of the log spectrum from one window to the
    next."""
    windows = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP] * np.hanning(WINDOW)
    spectrum = np.log(np.abs(np.fft.rfft(windows)) + 1e-3)
    rise: NDArray[np.float64] = np.maximum(np.diff(spectrum, axis=0), 0).mean(axis=1)
    return rise


def at_joins(sound: NDArray[np.float32], joins: NDArray[np.int64]) -> tuple[Any, Any]:
    """Flux where a window first reaches over a join, and everywhere else."""
    rise = flux(sound)
    # Difference i compares the windows that end at i * HOP + WINDOW and one hop later.
    first = (joins - WINDOW) // HOP
    near = np.unique((first[:, None] + np.arange(WINDOW // HOP + 1)).clip(0, len(rise) - 1))
    elsewhere = np.ones(len(rise), bool)
    elsewhere[near] = False
    return rise[near], rise[elsewhere]


def stands_out(joined: Any, others: Any) -> bool:
    """Whether joins have more flux than other places have: in the middle or at the top of the
    distribution."""
    return bool(
        np.median(joined) > np.quantile(others, 0.6)
        or (joined > np.quantile(others, 0.99)).mean() > 0.03
    )


@pytest.mark.parametrize("sizes", CHUNKS)
def test_streaming_equals_the_one_shot_decode(
    voice: Voice, spoken: list[NDArray[np.int64]], sizes: list[int]
) -> None:
    for codes in spoken:
        sound, _ = stream(codes, sizes, noise=False)
        wanted = reference_decode(voice.codec, codes)
        assert sound.shape == wanted.shape
        np.testing.assert_allclose(sound, wanted, rtol=0, atol=1e-5)


def test_flux_at_joins_is_the_same_as_elsewhere(spoken: list[NDArray[np.int64]]) -> None:
    parts = [at_joins(*stream(codes, [4], seed=3)) for codes in spoken]
    joined, others = (np.concatenate(p) for p in zip(*parts, strict=True))
    assert len(joined) > 200
    assert not stands_out(joined, others)


def test_the_measure_finds_a_click_at_a_join(spoken: list[NDArray[np.int64]]) -> None:
    """Decoding each frame by itself, without the state of the one before, clicks: the measure above
    finds it."""
    streaming = open_decoder(MODEL / "snac", slots=1)
    pieces = []
    for codes in spoken:
        for at in range(0, len(codes), 4):
            alone = codes[at : at + 4]
            whole = [len(alone) + streaming.flush_rows]
            pieces += decode_in_chunks(streaming, alone, whole, seed=3)
    ends = np.cumsum([len(p) for p in pieces])[1:-2]
    with torch.no_grad():
        joined, others = at_joins(np.concatenate(pieces), ends)
    assert stands_out(joined, others)
