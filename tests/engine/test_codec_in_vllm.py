"""The codec in vLLM's worker: what travels, and the codec's own suite over it, without vLLM and in
the real one.

The engine's suite over it is in tests/contract/test_engine_contract.py.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpheus_plugin.codec.batcher import CodecBatcher
from orpheus_plugin.codec.noise import stream_keys
from orpheus_plugin.codec.step import FAR, Lane
from orpheus_plugin.engine.codec_in_vllm import (
    WORKER,
    Batch,
    CodecWorker,
    WorkerCodec,
    samples_from_bytes,
    samples_to_bytes,
)
from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.factory import build_parts
from orpheus_plugin.errors import EngineDied, InvalidOptions
from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.tokens.vllm.generator import VllmGenerator
from orpheus_plugin.tokens.vllm.options import VllmOptions
from orpheus_plugin.tokens.vocabulary import Vocabulary
from tests.codec.test_batcher import (  # noqa: F401 - the suite, over the fixture of this file
    REFERENCE,
    speak,
    test_a_cancelled_listener_can_listen_again,
    test_a_closed_event_loop_does_not_affect_other_streams,
    test_a_finished_stream_is_not_kept_alive,
    test_a_worker_that_dies_ends_every_stream_with_engine_died,
    test_audio_starts_with_the_tenth_row_without_waiting_for_more,
    test_bad_codes_are_refused_and_the_stream_continues,
    test_closing_at_random_leaks_no_slot_and_leaves_other_streams_exact,
    test_codes_that_wait_for_a_larger_chunk_are_decoded_in_time_when_no_more_come,
    test_idle_thread_sleeps,
    test_many_streams_at_once_are_each_exact,
    test_noise_is_the_streams_own_alone_and_in_a_batch,
    test_nothing_pushed_ends_clean,
    test_one_frame_is_decoded_completely,
    test_with_all_slots_in_use_a_stream_is_refused_until_one_is_free,
)
from tests.codec.test_decoder import write_snapshot
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint

SLOTS = 64


@pytest.fixture(scope="session")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The snapshot of the codec that the suite compares with."""
    folder = tmp_path_factory.mktemp("codec")
    return write_snapshot(folder, REFERENCE.state_dict(), name="model.safetensors")


class Loop:
    """An event loop on a thread of its own, as an engine has."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class Alone(CodecWorker):
    """A worker without vLLM, and the generator that calls it."""

    device = "cpu"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop | None = loop
        self.running = 0
        self.calls: list[str] = []

    async def call_worker(self, method: str, *args: Any) -> Any:
        self.calls.append(method)
        return getattr(self, method)(*args)


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def vllm(loop: Loop) -> Iterator[VllmGenerator]:
    checkpoint = crafted_checkpoint(text=SMALL_TEXT)
    options = VllmOptions(max_streams=8, max_model_len=2048, kv_cache_bytes=64 << 20)
    generator = VllmGenerator(checkpoint, Vocabulary.load(checkpoint), options, worker=WORKER)
    loop.run(generator.start())
    yield generator
    loop.run(generator.aclose())


@pytest.fixture(params=["alone", pytest.param("vllm", marks=pytest.mark.vllm)])
def batcher(request: pytest.FixtureRequest, loop: Loop, codec: Path) -> Iterator[CodecBatcher]:
    generator: Any = (
        Alone(loop.loop) if request.param == "alone" else request.getfixturevalue("vllm")
    )
    made = CodecBatcher(WorkerCodec(generator, codec, slots=SLOTS, device="cpu"))
    made.start()
    yield made
    made.close()
    assert made.active == 0


@given(
    lanes=st.lists(
        st.tuples(st.integers(0, 63), st.integers(0, 5000), st.booleans(), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    n=st.integers(1, 16),
)
def test_a_batch_arrives_as_it_was_sent(lanes: list[tuple[int, int, bool, bool]], n: int) -> None:
    sent = Batch(
        7,
        [
            Lane(slot, stream_keys(slot, 4) if noisy else None, position, 6000 if ended else FAR)
            for slot, position, noisy, ended in lanes
        ],
        np.arange(len(lanes) * n * 3).reshape(len(lanes), n, 3) % 4096,
    )
    got = Batch.from_bytes(sent.to_bytes())
    assert got.number == 7
    assert got.codes.flags.writeable  # as in the warm-up: compiled loops are compiled for a type
    np.testing.assert_array_equal(got.codes, sent.codes)
    for ours, theirs in zip(sent.lanes, got.lanes, strict=True):
        assert (ours.slot, ours.position, ours.end) == (theirs.slot, theirs.position, theirs.end)
        assert (ours.keys is None) == (theirs.keys is None)
        if ours.keys is not None:
            np.testing.assert_array_equal(ours.keys, theirs.keys)


@pytest.mark.parametrize("shape", [(1, 512), (3, 2048), (2, 0)])
def test_samples_arrive_as_they_were_sent(shape: tuple[int, int]) -> None:
    sent = np.random.default_rng(0).random(shape[::-1], dtype=np.float32).T  # not contiguous
    number, got, eager = samples_from_bytes(samples_to_bytes(9, sent, 3))
    assert eager == 3
    assert number == 9
    np.testing.assert_array_equal(sent, got)


def test_a_call_begins_a_batch_and_brings_the_samples_of_the_last(loop: Loop, codec: Path) -> None:
    worker = Alone(loop.loop)
    steps = WorkerCodec(worker, codec, slots=2, device="cpu")  # type: ignore[arg-type]
    steps.warm_up([(1, 4)])
    lane = steps.lane(0, noise=False)
    codes = np.zeros((1, 4, 3), np.int64)
    first = steps.launch([lane], codes)
    second = steps.launch([lane], codes)
    third = steps.launch([lane], codes)
    assert lane.position == 12
    lengths = [len(result()[0]) for result in (second, first, third)]
    assert lengths == [0, 0, 12 * 512 - 4757]
    assert worker.calls.count("orpheus_codec_step") <= 3 + 3


def test_while_the_model_is_busy_a_call_waits_for_nothing(loop: Loop, codec: Path) -> None:
    worker = Alone(loop.loop)
    steps = WorkerCodec(worker, codec, slots=1, device="cpu")  # type: ignore[arg-type]
    steps.warm_up([(1, 4)])
    gate = threading.Event()
    assert worker._orpheus_codec is not None
    worker._orpheus_codec._thread.submit(gate.wait)  # the codec's thread is blocked
    batch = Batch(1, [steps.lane(0)], np.zeros((1, 4, 3), np.int64)).to_bytes()
    assert worker.orpheus_codec_step(batch, 0.0) == []
    assert worker.orpheus_codec_step(None, 0.01) == []
    gate.set()
    (done,) = worker.orpheus_codec_step(None, 60.0)
    assert samples_from_bytes(done)[0] == 1
    assert worker.orpheus_codec_step(None, 60.0) == []


async def test_a_vllm_that_is_gone_ends_the_codecs_streams(loop: Loop, codec: Path) -> None:
    worker = Alone(loop.loop)
    made = CodecBatcher(WorkerCodec(worker, codec, slots=2, device="cpu"))  # type: ignore[arg-type]
    made.start()
    worker.loop = None
    with pytest.raises(EngineDied, match="not running"):
        await speak(made, np.zeros((12, 3), np.int64), (12,))
    made.close()


def test_the_codec_of_vllm_needs_vllm(crafted_files: ModelFiles) -> None:
    config = EngineConfig(device="cpu", generator="torch", codec_process="vllm")
    with pytest.raises(InvalidOptions, match="codec_process='vllm' needs the vllm generator"):
        build_parts(config, crafted_files, device="cpu", streams=2)


@pytest.mark.vllm
async def test_samples_flow_while_the_model_is_at_work(
    loop: Loop, vllm: VllmGenerator, codec: Path
) -> None:
    """Calls are served between the steps of requests that run, and the requests get all their
    ids."""
    from orpheus_plugin.tokens.base import SamplingParams

    made = CodecBatcher(WorkerCodec(vllm, codec, slots=8, device="cpu"))
    await asyncio.to_thread(made.start)
    prompt = vllm._vocabulary.prompt("tara", "Hello there.")

    async def generate(number: int) -> int:
        options = SamplingParams(temperature=2.0, max_tokens=350)
        chunks: AsyncIterator[Any] = vllm.generate(prompt, options, f"beside{number}")
        return sum([len(chunk.ids) async for chunk in chunks])

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*(generate(number) for number in range(4)))

    generating = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(all_of_them(), loop.loop))
    while not vllm.running:
        await asyncio.sleep(0.005)
    codes = np.random.default_rng(0).integers(0, 4096, (40, 3))
    sounds = await asyncio.gather(*(speak(made, codes, (1, 4), noise=False) for _ in range(4)))
    assert [len(sound) for sound in sounds] == [40 * 512] * 4
    for sound in sounds[1:]:
        np.testing.assert_allclose(sound, sounds[0], rtol=0, atol=1e-5)
    assert min(await generating) > 0
    made.close()
