"""The batcher decodes many streams exactly, never leaks a slot, and ends every stream with an error
when it dies."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pytest

from orpheus_plugin.codec.batcher import CodecBatcher
from orpheus_plugin.codec.cpu.decoder import CpuDecoder
from orpheus_plugin.codec.policy import GPU, ChunkPolicy
from orpheus_plugin.codec.step import Lane
from orpheus_plugin.codec.stream import CodecStream, Samples
from orpheus_plugin.errors import AtCapacity, EngineDied
from tests.support.codecs import SMALL

from .conftest import Codes, make_reference, make_weights, random_codes, reference_decode

REFERENCE = make_reference(SMALL)
WEIGHTS = make_weights(REFERENCE, SMALL)
TOLERANCE = 1e-5


@pytest.fixture
def batcher() -> Iterator[CodecBatcher]:
    made = CodecBatcher(CpuDecoder(WEIGHTS, slots=64))
    made.start()
    yield made
    made.close()
    assert made.active == 0


async def listen(stream: CodecStream) -> Samples:
    pieces = [piece async for piece in stream]
    assert all(piece.dtype == np.float32 and len(piece) for piece in pieces)
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


async def speak(
    batcher: CodecBatcher,
    codes: Codes,
    sizes: Sequence[int] = (1,),
    pause: Callable[[], float] | None = None,
    **options: Any,
) -> Samples:
    stream = batcher.open_stream(**options)
    listening = asyncio.create_task(listen(stream))
    at, turn = 0, 0
    while at < len(codes):
        size = sizes[turn % len(sizes)]
        stream.push(codes[at : at + size])
        at, turn = at + size, turn + 1
        if pause is not None:
            await asyncio.sleep(pause())
    stream.finish()
    return await listening


async def test_one_frame_is_decoded_completely(batcher: CodecBatcher) -> None:
    codes = random_codes(1)
    got = await speak(batcher, codes, (4,), noise=False)
    np.testing.assert_allclose(got, reference_decode(REFERENCE, codes), rtol=0, atol=TOLERANCE)


async def test_many_streams_at_once_are_each_exact(batcher: CodecBatcher) -> None:
    rng = np.random.default_rng(0)
    jobs = [random_codes(int(rng.integers(1, 16)), seed) for seed in range(40)]
    results = await asyncio.gather(
        *(
            speak(
                batcher,
                codes,
                tuple(rng.integers(1, 9, 5)),
                lambda: rng.random() * 0.01,
                noise=False,
            )
            for codes in jobs
        )
    )
    for codes, got in zip(jobs, results, strict=True):
        np.testing.assert_allclose(got, reference_decode(REFERENCE, codes), rtol=0, atol=TOLERANCE)
    assert batcher.active == 0


async def test_noise_is_the_streams_own_alone_and_in_a_batch(batcher: CodecBatcher) -> None:
    codes = random_codes(6)
    alone = await speak(batcher, codes, (24,), seed=11)
    first, second, *_ = await asyncio.gather(
        speak(batcher, codes, (1, 3), lambda: 0.001, seed=11),
        speak(batcher, codes, (2,), lambda: 0.002, seed=12),
        *(speak(batcher, random_codes(5, n), (1,), seed=n) for n in range(5)),
    )
    np.testing.assert_allclose(first, alone, rtol=0, atol=TOLERANCE)
    assert np.abs(second - alone).max() > 1e-3


async def test_audio_starts_with_the_tenth_row_without_waiting_for_more(
    batcher: CodecBatcher,
) -> None:
    stream = batcher.open_stream()
    stream.push(random_codes(3)[:9])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.1)
    stream.push(random_codes(3)[9:10])
    assert len(await asyncio.wait_for(anext(stream), 5)) == 363
    stream.close()


async def test_nothing_pushed_ends_clean(batcher: CodecBatcher) -> None:
    stream = batcher.open_stream()
    stream.finish()
    stream.finish()
    assert len(await listen(stream)) == 0
    assert batcher.active == 0


@pytest.mark.parametrize(
    "bad", [[[0, 0, 4096]], [[-1, 0, 0]], [[0.5, 1.0, 2.0]], [1, 2, 3], [[1, 2]], [["a", "b", "c"]]]
)
async def test_bad_codes_are_refused_and_the_stream_continues(
    batcher: CodecBatcher, bad: list[Any]
) -> None:
    codes = random_codes(2)
    stream = batcher.open_stream(noise=False)
    stream.push(codes[:3])
    with pytest.raises(ValueError, match="code"):
        stream.push(bad)
    stream.push(codes[3:])
    stream.finish()
    with pytest.raises(ValueError, match="finished"):
        stream.push(codes)
    np.testing.assert_allclose(
        await listen(stream), reference_decode(REFERENCE, codes), rtol=0, atol=TOLERANCE
    )


async def test_with_all_slots_in_use_a_stream_is_refused_until_one_is_free(
    batcher: CodecBatcher,
) -> None:
    streams = [batcher.open_stream() for _ in range(64)]
    with pytest.raises(AtCapacity):
        batcher.open_stream()
    streams[5].close()
    streams[5].close()
    assert batcher.active == 63
    batcher.open_stream().close()
    for stream in streams:
        stream.close()
    assert batcher.active == 0


async def test_closing_at_random_leaks_no_slot_and_leaves_other_streams_exact(
    batcher: CodecBatcher,
) -> None:
    rng = np.random.default_rng(1)

    async def closing(seed: int) -> None:
        stream = batcher.open_stream()
        listening = asyncio.create_task(listen(stream))
        stream.push(random_codes(4, seed))
        await asyncio.sleep(rng.random() * 0.05)
        stream.close()
        stream.push(random_codes(1))
        stream.finish()
        await listening

    threads = threading.active_count()
    for round_ in range(6):
        before = batcher.active
        await asyncio.gather(*(closing(seed) for seed in range(30)))
        assert batcher.active == before, round_
    streams = [batcher.open_stream(noise=False) for _ in range(20)]
    for number, stream in enumerate(streams):
        stream.push(random_codes(6, number))
        if number % 2:
            stream.close()
        else:
            stream.finish()
    for number, stream in enumerate(streams):
        if number % 2 == 0:
            wanted = reference_decode(REFERENCE, random_codes(6, number))
            np.testing.assert_allclose(await listen(stream), wanted, rtol=0, atol=TOLERANCE)
    assert batcher.active == 0
    assert threading.active_count() == threads


async def test_a_cancelled_listener_can_listen_again(batcher: CodecBatcher) -> None:
    codes = random_codes(3)
    stream = batcher.open_stream(noise=False)
    listening = asyncio.create_task(anext(stream))
    await asyncio.sleep(0.01)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    stream.push(codes)
    stream.finish()
    np.testing.assert_allclose(
        await listen(stream), reference_decode(REFERENCE, codes), rtol=0, atol=TOLERANCE
    )


async def test_the_listener_with_the_least_audio_left_is_served_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With room for one lane a step, the stream with the earliest deadline gets all of its audio
    first."""
    batcher = CodecBatcher(CpuDecoder(WEIGHTS, slots=3), max_lanes=1)
    launch = batcher._decoder.launch
    stepped: list[int] = []

    def noting(lanes: Sequence[Lane], codes: Codes) -> Callable[[], list[Samples]]:
        stepped.extend(lane.slot for lane in lanes)
        return launch(lanes, codes)

    monkeypatch.setattr(batcher._decoder, "launch", noting)
    now = time.monotonic()
    streams = {name: batcher.open_stream() for name in "abc"}
    for name, left in (("a", 30.0), ("b", 10.0), ("c", 20.0)):
        streams[name].deadline = partial(float, now + left)
        streams[name].push(random_codes(8))
        streams[name].finish()

    batcher.start()
    await asyncio.gather(*(listen(stream) for stream in streams.values()))
    batcher.close()
    slots = {stream.lane.slot: name for name, stream in streams.items()}
    assert [slots[slot] for slot, _ in groupby(stepped)] == ["b", "c", "a"]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> tuple[CodecBatcher, list[int]]:
    """A batcher that is stepped by hand, and the rows of each step it has taken."""
    batcher = CodecBatcher(CpuDecoder(WEIGHTS, slots=1), clock=lambda: 100.0)
    steps = []
    launch = batcher._decoder.launch

    def counting(lanes: Sequence[Lane], codes: Codes) -> Callable[[], list[Samples]]:
        steps.append(codes.shape[1])
        return launch(lanes, codes)

    monkeypatch.setattr(batcher._decoder, "launch", counting)
    return batcher, steps


def test_the_first_sound_comes_with_two_rows_if_one_row_takes_as_long(
    stepped: tuple[CodecBatcher, list[int]],
) -> None:
    batcher, steps = stepped
    batcher._policy = ChunkPolicy(flush=10, max_lanes=1, sizes=GPU)  # as on a GPU
    stream = batcher.open_stream()
    for row in random_codes(3)[:11]:
        stream.push(row[None])
        batcher.run_ready()
    assert steps == [4, 4, 2]
    assert stream.delivered == 363
    stream.close()


@pytest.mark.parametrize(
    ("left", "pushed", "wanted"),
    [
        (0.0, 7, [4]),  # the three behind could not be heard before a tenth comes
        (0.0, 9, [4, 4, 1]),
        (0.0, 11, [4, 4, 2]),  # the tenth is the first to be heard; from there on in pairs
        (0.0, 33, [4] * 8),
        (0.0, 34, [4] * 8 + [2]),
        (0.0, 39, [4] * 9),  # the beginning is over: a few rows are not worth a step
        (0.2, 15, [4, 4, 4, 2]),
        (0.3, 15, [4, 4, 4]),
        (0.7, 15, [8]),
        (0.7, 16, [8, 8]),
        (5.0, 7, []),
        (5.0, 15, [8]),
        (5.0, 40, [16, 16, 8]),
    ],
)
def test_the_more_a_listener_has_left_the_larger_the_chunks(
    stepped: tuple[CodecBatcher, list[int]], left: float, pushed: int, wanted: list[int]
) -> None:
    batcher, steps = stepped
    stream = batcher.open_stream()
    stream.deadline = lambda: 100.0 + left
    stream.push(random_codes(10)[:pushed])
    batcher.run_ready()
    assert steps == wanted
    stream.finish()
    batcher.run_ready()
    assert stream.delivered == 512 * pushed


async def test_codes_that_wait_for_a_larger_chunk_are_decoded_in_time_when_no_more_come(
    batcher: CodecBatcher,
) -> None:
    patient, hurried = batcher.open_stream(), batcher.open_stream()
    began = time.monotonic()
    patient.deadline = lambda: began + 1000
    patient.push(random_codes(1))
    hurried.deadline = lambda: began + 0.6
    hurried.push(random_codes(2)[:6])
    await until(lambda: hurried.lane.position == 4)
    assert began + 0.6 - time.monotonic() <= 0.512
    hurried.push(random_codes(2)[6:])
    await until(lambda: hurried.lane.position == 8)
    assert patient.lane.position == 0
    patient.close()
    hurried.close()


async def test_idle_thread_sleeps(batcher: CodecBatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    picks = 0
    pick = batcher._pick

    def counting() -> Any:
        nonlocal picks
        picks += 1
        return pick()

    monkeypatch.setattr(batcher, "_pick", counting)
    stream = batcher.open_stream()
    stream.push(random_codes(1))
    await asyncio.sleep(0.3)
    before = picks
    await asyncio.sleep(0.3)
    assert picks == before
    stream.close()


async def test_a_worker_that_dies_ends_every_stream_with_engine_died(
    batcher: CodecBatcher, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = [batcher.open_stream() for _ in range(3)]
    listening = [asyncio.create_task(listen(stream)) for stream in streams]

    def broken(*_args: Any, **_options: Any) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(batcher._decoder, "launch", broken)
    streams[0].push(random_codes(1))
    for task in listening:
        with pytest.raises(EngineDied, match="device lost"):
            await asyncio.wait_for(task, 5)
    assert batcher.active == 0
    with pytest.raises(EngineDied):
        batcher.open_stream()
    streams[1].push(random_codes(1))
    streams[1].close()
    assert "the codec died" in caplog.text


async def test_closing_ends_open_streams_and_the_thread() -> None:
    batcher = CodecBatcher(CpuDecoder(WEIGHTS, slots=2))
    batcher.start()
    batcher.start()
    thread = batcher._thread
    assert thread is not None
    listening = asyncio.create_task(listen(batcher.open_stream()))
    await asyncio.sleep(0)
    batcher.close()
    batcher.close()
    with pytest.raises(EngineDied):
        await asyncio.wait_for(listening, 5)
    assert not thread._thread.is_alive()


async def test_a_finished_stream_is_not_kept_alive(batcher: CodecBatcher) -> None:
    stream = batcher.open_stream()
    stream.push(random_codes(1))
    stream.finish()
    await listen(stream)
    gone = weakref.ref(stream)
    await asyncio.sleep(0.05)
    del stream
    gc.collect()
    assert gone() is None


def test_a_closed_event_loop_does_not_affect_other_streams(batcher: CodecBatcher) -> None:
    stream = batcher.open_stream()

    listening = stream.__anext__()

    async def leave() -> None:
        # No task: Python complains of one that is left on a closed loop, and none can be ended.
        listening.send(None)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    assert stream.waiting is not None
    assert stream.waiting[0] is loop
    stream.push(random_codes(5))
    codes = random_codes(2)
    got = asyncio.run(speak(batcher, codes, (8,), noise=False))
    np.testing.assert_allclose(got, reference_decode(REFERENCE, codes), rtol=0, atol=TOLERANCE)
    listening.close()
    stream.close()
