"""The step for a GPU that a language model also uses, as far as it can be tested on a CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from orpheus_plugin.codec.batcher import CodecBatcher
from orpheus_plugin.codec.policy import GPU, GPU_TUNED
from orpheus_plugin.codec.step import Lane
from orpheus_plugin.codec.torch.output import RING, OutputRing
from orpheus_plugin.codec.torch.step import TorchDecoder
from orpheus_plugin.models.devices import compiler_missing
from tests.support.codecs import SMALL

from .conftest import (
    assert_serves_together,
    make_reference,
    make_weights,
    random_codes,
    reference_decode,
)

REFERENCE = make_reference(SMALL)
WEIGHTS = make_weights(REFERENCE, SMALL)


def test_samples_stay_until_so_many_more_steps_were_begun_as_the_ring_has_buffers() -> None:
    ring = OutputRing(torch.device("cpu"))
    begun = [ring.take(torch.full((3, 2), float(number))) for number in range(RING)]
    assert [float(samples().max()) for samples in begun] == [0.0, 1.0, 2.0, 3.0]


def test_a_buffer_grows_with_what_it_is_given() -> None:
    ring = OutputRing(torch.device("cpu"))
    for rows in (1, 5, 2, 9, 3, 9, 1):
        assert ring.take(torch.ones(rows, 2))().shape == (rows, 2)


def test_the_next_step_begins_before_the_last_one_is_waited_for() -> None:
    decoder = TorchDecoder(WEIGHTS, slots=2, tuned=True)
    codes = random_codes(4)
    lane = decoder.lane(0, noise=False)
    lane.end = len(codes)
    padded = np.concatenate([codes, np.zeros((10, 3), np.int64)])
    pieces = []
    begun: list[Callable[[], list[NDArray[np.float32]]]] = []
    for at in range(0, len(padded), 2):
        begun.append(decoder.launch([lane], padded[None, at : at + 2]))
        if len(begun) >= decoder.depth:
            pieces.append(begun.pop(0)()[0])
    pieces += [result()[0] for result in begun]
    wanted = reference_decode(REFERENCE, codes)
    np.testing.assert_allclose(np.concatenate(pieces), wanted, rtol=0, atol=1e-5)


async def test_the_batcher_serves_many_streams_with_it() -> None:
    batcher = CodecBatcher(TorchDecoder(WEIGHTS, slots=8, tuned=True))
    await assert_serves_together(batcher, REFERENCE, tolerance=1e-5)


def test_without_a_compiler_it_says_so_and_is_not_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiler_missing("cpu") == "there is no compiler (g++ or clang++)"
    with caplog.at_level(logging.WARNING):
        decoder = TorchDecoder(WEIGHTS, slots=1, tuned=True)
    assert "not compiled: there is no compiler" in caplog.text
    codes = random_codes(2)
    np.testing.assert_allclose(
        decoder.decode(codes, noise=False), reference_decode(REFERENCE, codes), atol=1e-5
    )


class OnGpu(TorchDecoder):
    """A decoder that batches as on a GPU, and counts steps whose shape was not warmed up, as a GPU
    does."""

    def __init__(self, tuned: bool) -> None:
        super().__init__(WEIGHTS, slots=40)
        self.sizes = GPU_TUNED if tuned else GPU
        self.shapes: list[tuple[int, int]] = []

    def warm_up(self, shapes: Sequence[tuple[int, int]]) -> None:
        self.shapes += shapes

    def _run(self, lanes: Sequence[Lane], codes: NDArray[np.int64]) -> NDArray[np.float32]:
        n = codes.shape[1]
        self.eager_steps += not any(s >= len(lanes) and m == n for s, m in self.shapes)
        return np.zeros((len(lanes), n * 512), np.float32)


@pytest.mark.parametrize("tuned", [False, True])
def test_no_step_has_a_shape_that_was_not_captured(tuned: bool) -> None:
    rng = np.random.default_rng(1)
    decoder = OnGpu(tuned)
    now = [0.0]
    batcher = CodecBatcher(decoder, clock=lambda: now[0])
    batcher.start()
    batcher.close()

    def later(ahead_s: float) -> float:
        return now[0] + ahead_s

    batcher = CodecBatcher(decoder, clock=lambda: now[0])
    streams = [
        batcher.open_stream(noise=False, deadline=partial(later, ahead))
        for ahead in rng.exponential(0.5, 40)
    ]
    left = [int(rng.integers(1, 200)) for _ in streams]
    while any(left):
        for index, stream in enumerate(streams):
            if left[index]:
                n = min(left[index], int(rng.integers(1, 30)))
                stream.push(np.zeros((n, 3), np.int64))
                left[index] -= n
                if not left[index]:
                    stream.finish()
        now[0] += float(rng.exponential(0.1))
        batcher.run_ready()
    now[0] += 100.0
    batcher.run_ready()
    assert batcher.active == 0
    steps, eager = batcher.steps
    assert steps > 50
    assert eager == 0
