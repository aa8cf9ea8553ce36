"""On a GPU: captured graphs give what the one-shot decode gives, with unused lanes, too."""

from __future__ import annotations

import numpy as np
import pytest
from snac import SNAC

from orpheus_plugin.codec.batcher import CodecBatcher
from orpheus_plugin.codec.step import Lane
from orpheus_plugin.codec.stream import Samples
from orpheus_plugin.codec.torch.step import TorchDecoder
from tests.support.codecs import SMALL

from .conftest import assert_serves_together, make_weights, random_codes, reference_decode

pytestmark = pytest.mark.gpu


def test_captured_graphs_are_exact_for_lanes_joining_and_leaving(small_reference: SNAC) -> None:
    streaming = TorchDecoder(make_weights(small_reference, SMALL), slots=8, device="cuda")
    streaming.warm_up([(size, n) for size in (1, 2, 4, 8) for n in (1, 2, 4, 8)])
    jobs = [random_codes(frames, frames) for frames in range(1, 9)]
    lanes: dict[int, Lane] = {}
    got: dict[int, list[Samples]] = {i: [] for i in range(8)}
    for index, codes in enumerate(jobs):
        lanes[index] = streaming.lane(index, noise=False)
        lanes[index].end = len(codes)
    for turn in range(200):
        alive = [i for i in lanes if lanes[i].position < lanes[i].end + streaming.flush_rows]
        if not alive:
            break
        chosen = alive[turn % 2 :: 2] or alive
        n = (1, 2, 4, 8, 3)[turn % 5]
        batch = np.zeros((len(chosen), n, 3), np.int64)
        for row, i in enumerate(chosen):
            part = jobs[i][lanes[i].position : lanes[i].position + n]
            batch[row, : len(part)] = part
        for i, piece in zip(chosen, streaming.step([lanes[i] for i in chosen], batch), strict=True):
            got[i].append(piece)
    for i, codes in enumerate(jobs):
        wanted = reference_decode(small_reference, codes)
        np.testing.assert_allclose(np.concatenate(got[i]), wanted, rtol=0, atol=1e-4)


async def test_the_batcher_serves_from_a_gpu(small_reference: SNAC) -> None:
    batcher = CodecBatcher(
        TorchDecoder(make_weights(small_reference, SMALL), slots=8, device="cuda")
    )
    await assert_serves_together(batcher, small_reference, tolerance=1e-4)
