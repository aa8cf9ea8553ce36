"""Reference codecs with random weights, and what the tests ask of them."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from snac import SNAC
from snac.layers import NoiseBlock

from orpheus_plugin.codec.batcher import CodecBatcher
from orpheus_plugin.codec.config import SnacConfig
from orpheus_plugin.codec.cpu.decoder import CpuDecoder
from orpheus_plugin.codec.step import StreamingDecoder
from orpheus_plugin.codec.torch.step import TorchDecoder
from orpheus_plugin.codec.weights import SnacWeights
from tests.support.codecs import FULL_SIZE, SMALL


def make_reference(config: dict[str, Any], seed: int = 0) -> SNAC:
    torch.manual_seed(seed)
    model = SNAC(**config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("alpha"):  # all ones at first; a mistake per channel would not show
            parameter.uniform_(0.3, 2.0)
    return model


def make_weights(reference: SNAC, config: dict[str, Any]) -> SnacWeights:
    state = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    return SnacWeights.from_state(SnacConfig.from_dict(config), state)


Made = Callable[..., StreamingDecoder]
TUNED = partial(TorchDecoder, tuned=True)
Codes = NDArray[np.int64]


@pytest.fixture(params=[CpuDecoder, TorchDecoder, TUNED], ids=["cpu", "torch", "tuned"])
def made(request: pytest.FixtureRequest) -> Made:
    """The step under test; the suite runs over both."""
    found: Made = request.param
    return found


def random_codes(frames: int, seed: int = 0) -> NDArray[np.int64]:
    """int64 [4 * frames, 3] as a stream is pushed: coarse four times, mid twice."""
    rng = np.random.default_rng(seed)
    levels = [rng.integers(0, 4096, frames * k).repeat(4 // k) for k in (1, 2, 4)]
    return np.stack(levels, axis=1)


def decode_in_chunks(
    streaming: StreamingDecoder, codes: NDArray[np.int64], chunks: Sequence[int], **options: Any
) -> list[NDArray[np.float32]]:
    """Decode in one lane, cutting `codes` (and its padding) into the given chunk sizes, the last
    one repeated."""
    lane = streaming.lane(0, **options)
    lane.end = len(codes)
    padded = np.concatenate([codes, np.zeros((streaming.flush_rows, 3), np.int64)])
    pieces, at, sizes = [], 0, list(chunks)
    while at < len(padded):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        pieces.append(streaming.step([lane], padded[None, at : at + size])[0])
        at += size
    return pieces


@contextlib.contextmanager
def noise_block(forward: Any) -> Iterator[None]:
    old = NoiseBlock.forward
    NoiseBlock.forward = forward
    try:
        yield
    finally:
        NoiseBlock.forward = old


def reference_decode(
    reference: SNAC, codes: NDArray[np.int64], noise: Any = lambda _self, x: x
) -> NDArray[np.float32]:
    """One-shot decode of whole frames by the snac package; noise off unless given."""
    levels = [torch.from_numpy(codes[:: 4 // k, i].copy())[None] for i, k in enumerate((1, 2, 4))]
    with noise_block(noise), torch.inference_mode():
        samples: NDArray[np.float32] = reference.decode(levels)[0, 0].numpy()
        return samples


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two spinning OpenMP threads on a small shared machine cost more than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_reference() -> SNAC:
    return make_reference(SMALL)


@pytest.fixture(scope="session")
def full_reference() -> SNAC:
    return make_reference(FULL_SIZE)


async def assert_serves_together(
    batcher: CodecBatcher, reference: SNAC, *, tolerance: float
) -> None:
    """Eight listeners at once, row by row: each hears what the one-shot decode gives. Closes it."""
    batcher.start()

    async def speak(codes: Codes) -> NDArray[np.float32]:
        stream = batcher.open_stream(noise=False)
        for row in codes:
            stream.push(row[None])
            await asyncio.sleep(0)
        stream.finish()
        return np.concatenate([piece async for piece in stream])

    jobs = [random_codes(frames, frames) for frames in range(1, 9)]
    for codes, got in zip(jobs, await asyncio.gather(*map(speak, jobs)), strict=True):
        wanted = reference_decode(reference, codes)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)
    batcher.close()
