"""The streaming step equals the one-shot decode, whatever the chunks, the batch and the slot's
former streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus_plugin.codec.cpu.decoder import CpuDecoder
from orpheus_plugin.codec.noise import normal
from orpheus_plugin.codec.step import Lane, StreamingDecoder
from orpheus_plugin.codec.stream import Samples
from orpheus_plugin.codec.torch.step import TorchDecoder, _Plan
from tests.support.codecs import FULL_SIZE, SMALL

from .conftest import (
    Codes,
    Made,
    decode_in_chunks,
    make_reference,
    make_weights,
    random_codes,
    reference_decode,
)

TOLERANCE = 1e-5
REFERENCE = make_reference(SMALL)
WEIGHTS = make_weights(REFERENCE, SMALL)


def run_alone(
    streaming: StreamingDecoder, codes: Codes, chunks: list[int], **lane_options: Any
) -> Samples:
    """The pieces of `decode_in_chunks` as one."""
    return np.concatenate(decode_in_chunks(streaming, codes, chunks, **lane_options))


def test_delay_is_the_receptive_field_and_state_is_as_documented(made: Made) -> None:
    streaming = made(make_weights(make_reference(FULL_SIZE), FULL_SIZE), slots=1)
    assert streaming.delay == 4757
    assert streaming.flush_rows == 10
    assert streaming.config.state_floats == 119_232


@settings(max_examples=25, deadline=None)
@given(
    frames=st.integers(1, 12),
    chunks=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    seed=st.integers(0, 99),
)
def test_any_chunking_equals_one_shot_decode(
    made: Made, frames: int, chunks: list[int], seed: int
) -> None:
    codes = random_codes(frames, seed)
    got = run_alone(made(WEIGHTS, slots=1), codes, chunks, noise=False)
    wanted = reference_decode(REFERENCE, codes)
    assert got.dtype == np.float32
    assert got.shape == wanted.shape == (2048 * frames,)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE)


def test_full_size_decoder_streams_exactly(made: Made) -> None:
    reference = make_reference(FULL_SIZE)
    codes = random_codes(6)
    streaming = made(make_weights(reference, FULL_SIZE), slots=1)
    got = run_alone(streaming, codes, [1, 1, 2, 4], noise=False)
    np.testing.assert_allclose(got, reference_decode(reference, codes), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("slots", [1, 7, 64])
def test_streams_joining_and_leaving_at_random_are_each_exact(made: Made, slots: int) -> None:
    rng = np.random.default_rng(slots)
    streaming = made(WEIGHTS, slots=slots)
    waiting = [
        random_codes(int(rng.integers(1, 9)), seed) for seed in range(slots + slots // 2 + 2)
    ]
    wanted = [reference_decode(REFERENCE, codes) for codes in waiting]
    queue = list(range(len(waiting)))
    free = list(range(slots))
    running: dict[int, Lane] = {}
    got: dict[int, list[Samples]] = {i: [] for i in queue}
    while queue or running:
        while queue and free and rng.random() < 0.7:
            slot, index = free.pop(int(rng.integers(len(free)))), queue.pop(0)
            lane = streaming.lane(slot, noise=False)
            lane.end = len(waiting[index])
            running[index] = lane
        if not running:
            continue
        n = int(rng.integers(1, 7))
        chosen = [index for index in running if rng.random() < 0.8] or [next(iter(running))]
        lanes = [running[index] for index in chosen]
        batch = np.zeros((len(lanes), n, 3), np.int64)
        for row, index in enumerate(chosen):
            part = waiting[index][lanes[row].position : lanes[row].position + n]
            batch[row, : len(part)] = part
        for index, piece in zip(chosen, streaming.step(lanes, batch), strict=True):
            got[index].append(piece)
            over = running[index].position >= running[index].end + streaming.flush_rows
            hangs_up = rng.random() < 0.02
            if over or hangs_up:
                free.append(running.pop(index).slot)
    for index, pieces in got.items():
        samples = np.concatenate(pieces)
        np.testing.assert_allclose(samples, wanted[index][: len(samples)], rtol=0, atol=TOLERANCE)
    assert any(len(np.concatenate(pieces)) == len(wanted[i]) for i, pieces in got.items())


def test_noise_does_not_depend_on_chunks_or_batch(made: Made) -> None:
    codes = random_codes(5)
    streaming = made(WEIGHTS, slots=3)
    alone = run_alone(streaming, codes, [64], seed=7)
    assert not np.allclose(alone, run_alone(streaming, codes, [64], seed=8), atol=1e-3)
    np.testing.assert_allclose(
        alone, run_alone(streaming, codes, [3, 1, 2, 5], seed=7), rtol=0, atol=TOLERANCE
    )

    lanes = [streaming.lane(0, seed=1), streaming.lane(1, seed=7), streaming.lane(2, noise=False)]
    padded = np.concatenate([codes, np.zeros((streaming.flush_rows, 3), np.int64)])
    for lane in lanes:
        lane.end = len(codes)
    steps = [
        streaming.step(lanes, np.repeat(padded[None, i : i + 5], 3, 0)) for i in range(0, 30, 5)
    ]
    batched = [np.concatenate(pieces) for pieces in zip(*steps, strict=True)]
    np.testing.assert_allclose(batched[1], alone, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(
        batched[2], reference_decode(REFERENCE, codes), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("made", [CpuDecoder, TorchDecoder])
def test_a_streams_samples_are_the_same_to_the_last_bit_in_any_chunks_and_batch(
    made: Made,
) -> None:
    """One seed gives one file, although the chunks of a turn depend on the machine's load."""
    codes = random_codes(5)
    padded = np.concatenate([codes, np.zeros((10, 3), np.int64)])
    streaming = made(WEIGHTS, slots=5)
    alone = run_alone(streaming, codes, [4], seed=7)
    for chunks in ([1], [2], [3], [16], [1, 2, 4, 16]):
        assert np.array_equal(alone, run_alone(streaming, codes, chunks, seed=7))
    for company in (2, 3, 5):
        lanes = [streaming.lane(slot, seed=7) for slot in range(company)]
        for lane in lanes:
            lane.end = len(codes)
        steps = [
            streaming.step(lanes, np.repeat(padded[None, i : i + 3], company, 0))
            for i in range(0, 30, 3)
        ]
        for pieces in zip(*steps, strict=True):
            assert np.array_equal(alone, np.concatenate(pieces))


def test_noise_enters_where_the_reference_adds_it(made: Made) -> None:
    """Given our draws, the snac package makes our samples: same layer, same positions, same
    scale."""
    codes = random_codes(4)
    streaming = made(WEIGHTS, slots=1)
    keys = streaming.lane(0, seed=5).keys
    assert keys is not None
    blocks = iter(range(4))

    def ours(block: Any, x: torch.Tensor) -> torch.Tensor:
        draws = normal(keys[next(blocks)], np.arange(x.shape[-1]))
        noise: torch.Tensor = torch.from_numpy(draws).float() * block.linear(x)
        return x + noise

    wanted = reference_decode(REFERENCE, codes, noise=ours)
    np.testing.assert_allclose(
        run_alone(streaming, codes, [3], seed=5), wanted, rtol=0, atol=TOLERANCE
    )


def test_a_slot_forgets_its_last_stream_even_if_that_one_went_to_nan(made: Made) -> None:
    streaming = made(WEIGHTS, slots=1)
    states: list[Any]
    if isinstance(streaming, CpuDecoder):
        states = [streaming._state]
    else:
        assert isinstance(streaming, TorchDecoder)
        states = [pool for pools in streaming._pools for pool in pools]
    for state in states:
        state[:] = float("nan")
    codes = random_codes(3)
    got = run_alone(streaming, codes, [1], noise=False)
    np.testing.assert_allclose(got, reference_decode(REFERENCE, codes), rtol=0, atol=TOLERANCE)


def test_first_samples_come_with_the_tenth_row(made: Made) -> None:
    streaming = made(WEIGHTS, slots=1)
    lane, codes = streaming.lane(0), random_codes(4)
    sizes = [len(streaming.step([lane], codes[None, i : i + 1])[0]) for i in range(12)]
    assert sizes == [0] * 9 + [363, 512, 512]


def test_warm_up_leaves_running_streams_alone(made: Made) -> None:
    streaming = made(WEIGHTS, slots=1)
    codes = random_codes(4)
    lane = streaming.lane(0, noise=False)
    lane.end = len(codes)
    pieces = [streaming.step([lane], codes[None])[0]]
    streaming.warm_up([(1, 1), (2, 4)])
    pieces.append(streaming.step([lane], np.zeros((1, 10, 3), np.int64))[0])
    np.testing.assert_allclose(
        np.concatenate(pieces), reference_decode(REFERENCE, codes), rtol=0, atol=TOLERANCE
    )


def test_a_captured_shape_reads_each_steps_inputs_where_it_was_captured() -> None:
    """What a CUDA graph does, on a CPU: always the same work on the same memory, unused lanes
    included."""
    plain, captured = (TorchDecoder(WEIGHTS, slots=3) for _ in range(2))
    whole = _Plan(skip=[False] * len(WEIGHTS.config.stages))
    with torch.inference_mode():
        inputs = captured._inputs([Lane(3), Lane(3)], np.zeros((4, 2, 3), np.int64))
        audio = captured._forward(inputs, whole)

    class Graph:
        replays = 0

        def replay(self) -> None:
            self.replays += 1
            audio.copy_(captured._forward(inputs, whole))

    graph: Any = Graph()
    captured._graphs[2, 4] = graph, inputs, audio
    jobs = [random_codes(frames, frames) for frames in (6, 3)]
    for streaming in (plain, captured):
        lanes = [streaming.lane(slot, seed=slot, noise=slot == 0) for slot in (0, 1)]
        for lane, codes in zip(lanes, jobs, strict=True):
            lane.end = len(codes)
        got: list[list[Samples]] = [[], []]
        for turn in range(9):
            chosen = [0] if turn in (1, 2) else [0, 1]
            batch = np.zeros((len(chosen), 4, 3), np.int64)
            for row, i in enumerate(chosen):
                part = jobs[i][lanes[i].position : lanes[i].position + 4]
                batch[row, : len(part)] = part
            for i, piece in zip(
                chosen, streaming.step([lanes[i] for i in chosen], batch), strict=True
            ):
                got[i].append(piece)
        if streaming is plain:
            wanted = [np.concatenate(pieces) for pieces in got]
        else:
            assert graph.replays == 9
            for pieces, samples in zip(got, wanted, strict=True):
                np.testing.assert_allclose(np.concatenate(pieces), samples, rtol=0, atol=TOLERANCE)
                assert np.abs(samples).max() > 0.01
