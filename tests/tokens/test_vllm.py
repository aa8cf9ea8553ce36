"""VllmGenerator beyond the contract: vLLM's real engine on the CPU, and failures around it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from orpheus_plugin import models
from orpheus_plugin.errors import (
    BadCheckpoint,
    EngineDied,
    InvalidOptions,
    ModelNotFound,
    OrpheusError,
)
from orpheus_plugin.models.devices import vllm_installed
from orpheus_plugin.tokens.base import SamplingParams, TokenChunk
from orpheus_plugin.tokens.frames import FrameAssembler
from orpheus_plugin.tokens.vllm import plugin
from orpheus_plugin.tokens.vllm.generator import VllmGenerator
from orpheus_plugin.tokens.vllm.options import VllmOptions, device_ids, engine_args, graph_sizes
from orpheus_plugin.tokens.vocabulary import Vocabulary
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint
from tests.support.ids import audio_id, slot_and_code

STREAMS = 4
OPTIONS = VllmOptions(max_streams=STREAMS, max_model_len=2048, kv_cache_bytes=256 << 20)
QUICK = SamplingParams(top_p=1.0, repetition_penalty=1.0, max_tokens=1900)


# ---- what needs no engine


def test_graph_sizes_end_with_the_largest_batch() -> None:
    assert graph_sizes(1) == [1]
    assert graph_sizes(6) == [1, 2, 4, 6]
    assert graph_sizes(64) == [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64]
    assert graph_sizes(100)[-3:] == [80, 96, 100]


def test_a_device_is_one_that_vllm_was_built_for() -> None:
    assert device_ids(None, "cuda") is None
    assert device_ids("cuda", "cuda") is None
    assert device_ids("cuda:1", "cuda") == [1]
    assert device_ids("cpu", "cpu") is None
    for device, built_for in (("cuda:1", "cpu"), ("cpu", "cuda"), ("mps", "cuda")):
        with pytest.raises(InvalidOptions, match=f"built for {built_for}"):
            device_ids(device, built_for)


@pytest.mark.parametrize(
    "name", ["max_streams", "max_model_len", "kv_cache_bytes", "stream_interval"]
)
def test_options_are_checked(name: str) -> None:
    with pytest.raises(InvalidOptions, match=name):
        VllmOptions(**{name: 0})  # type: ignore[arg-type]
    with pytest.raises(InvalidOptions, match="max_streams"):
        VllmGenerator("somewhere", Vocabulary(*range(10)), max_streams=0)


def test_the_head_covers_control_and_audio_ids() -> None:
    checkpoint = crafted_checkpoint(text=SMALL_TEXT)
    vocabulary = Vocabulary.load(checkpoint)
    first, end = plugin.overrides(vocabulary)[plugin.ROWS_KEY]
    assert first <= vocabulary.end_of_speech < end
    assert first <= vocabulary.audio_base
    assert end == audio_id(vocabulary, 6, 4095) + 1


@pytest.mark.skipif(vllm_installed(), reason="vLLM is installed")
async def test_a_missing_vllm_is_reported() -> None:
    with pytest.raises(InvalidOptions, match=r"pip install 'orpheus_plugin\[vllm\]'"):
        await VllmGenerator("somewhere", Vocabulary(*range(10))).start()


# ---- on the engine


@pytest.fixture(scope="class")
def vocabulary() -> Vocabulary:
    return Vocabulary.load(crafted_checkpoint(stop=0.0))


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def generator(vocabulary: Vocabulary) -> AsyncIterator[VllmGenerator]:
    generator = VllmGenerator(crafted_checkpoint(stop=0.0), vocabulary, OPTIONS)
    await generator.start()
    yield generator
    await generator.aclose()


@pytest.fixture
def prompt(vocabulary: Vocabulary) -> list[int]:
    return vocabulary.prompt("tara", "Hello there.")


class TestEngine:
    """One engine for all, on a checkpoint that never stops."""

    pytestmark: ClassVar = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="class")]

    async def test_production_sampling(
        self, generator: VllmGenerator, vocabulary: Vocabulary, prompt: list[int]
    ) -> None:
        ids = [
            i async for chunk in generator.generate(prompt, SamplingParams(max_tokens=70),
            "production")
            for i in chunk.ids
        ]  # fmt: skip
        places = [slot_and_code(vocabulary, i) for i in ids]
        assert [place[0] for place in places if place] == [n % 7 for n in range(70)]

    async def test_a_cpu_draws_from_the_codes_of_a_slot_only(
        self, generator: VllmGenerator, vocabulary: Vocabulary, prompt: list[int]
    ) -> None:
        assert await generator.use_sampler("compact") == "compact"
        hot = SamplingParams(temperature=2.0, top_p=1.0, repetition_penalty=5.0, max_tokens=700)
        ids = [i async for chunk in generator.generate(prompt, hot, "hot") for i in chunk.ids]
        places = [slot_and_code(vocabulary, i) for i in ids]
        assert [place[0] for place in places if place] == [n % 7 for n in range(700)]
        assert len(set(ids)) > 690  # the penalty leaves hardly any code for a second time

    async def test_the_sampler_can_be_switched_while_nothing_runs(
        self, generator: VllmGenerator, prompt: list[int]
    ) -> None:
        greedy = SamplingParams(temperature=0.0, repetition_penalty=1.3, max_tokens=70)
        found: list[list[int]] = []
        for kind in ("whole", "compact", "whole", "compact"):
            assert await generator.use_sampler(kind) == kind
            chunks = generator.generate(prompt, greedy, f"greedy-{len(found)}")
            found.append([i async for chunk in chunks for i in chunk.ids])
        assert found[0] == found[1] == found[2] == found[3]

    async def test_warming_up_for_a_gpu_runs_batches_of_each_size_with_kernels_of_its_own(
        self, generator: VllmGenerator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vllm.platforms import current_platform

        generate = generator.generate
        met: set[tuple[int, bool]] = set()

        async def watched(
            prompt: list[int], sampling: SamplingParams, name: str, **more: Any
        ) -> AsyncIterator[TokenChunk]:
            async for chunk in generate(prompt, sampling, name, **more):
                met.add((generator.running, sampling.seed is not None))
                yield chunk

        monkeypatch.setattr(type(current_platform), "is_cuda_alike", lambda self: True)
        monkeypatch.setattr(generator, "generate", watched)
        await generator._warm_up()
        assert {(1, False), (STREAMS, False), (1, True), (2, True), (STREAMS, True)} <= met
        assert generator.running == 0

    async def test_ids_come_one_by_one_and_later_in_frames(
        self, generator: VllmGenerator, prompt: list[int]
    ) -> None:
        options = SamplingParams(top_p=1.0, repetition_penalty=1.0, max_tokens=280)
        sizes = [len(chunk.ids) async for chunk in generator.generate(prompt, options, "interval")]
        assert sum(sizes) == 280
        # A late consumer gets several at once, so that these are bounds.
        assert sizes[0] < 28
        assert len(sizes) <= 28 + (280 - 28) // 7 + 1
        late = sizes[len(sizes) // 2 : -1]
        assert min(late) >= 7

    async def test_the_restricted_head_is_in_use_and_gives_only_its_ids(
        self, generator: VllmGenerator, vocabulary: Vocabulary, prompt: list[int]
    ) -> None:
        if not plugin.installed():
            pytest.skip("the package is not installed with its entry points")
        config = generator.engine.vllm_config.model_config
        assert config.architectures == [plugin.ARCHITECTURE]
        # With its audio ids held down this checkpoint would nearly always draw one of the 128,000
        # text ids.
        from vllm import SamplingParams

        wild = SamplingParams(temperature=2.0, max_tokens=50, ignore_eos=True, detokenize=False)
        wild.logit_bias = dict.fromkeys(range(vocabulary.audio_base, vocabulary.size), -100.0)
        first, end = config.hf_config.orpheus_head_rows
        async for output in generator.engine.generate(
            {"type": "token", "prompt_token_ids": prompt}, wild, "wild"
        ):
            ids = list(output.outputs[0].token_ids)
        assert len(ids) == 50
        assert all(first // 64 * 64 <= i < -(-end // 64) * 64 for i in ids)

    async def test_leaving_frees_the_engine_at_once(
        self, generator: VllmGenerator, prompt: list[int]
    ) -> None:
        for number in range(20):
            async with aclosing(generator.generate(prompt, QUICK, f"left{number}")) as chunks:
                await anext(chunks)
                assert generator.running == 1
            # vLLM's engine process reads its messages in order and clears the cache only if no
            # request holds any of it.
            assert await generator.engine.reset_prefix_cache()
            assert generator.running == 0

    async def test_urgent_requests_go_before_others_that_wait(
        self, generator: VllmGenerator, prompt: list[int]
    ) -> None:
        order: list[str] = []

        async def run(name: str, priority: int, ids: int) -> None:
            options = SamplingParams(top_p=1.0, repetition_penalty=1.0, max_tokens=ids)
            async for _ in generator.generate(prompt, options, name, priority=priority):
                if name not in order:
                    order.append(name)

        async with asyncio.TaskGroup() as group:
            for number in range(STREAMS):
                group.create_task(run(f"holder{number}", 0, 210))
            while len(order) < STREAMS:
                await asyncio.sleep(0.005)
            group.create_task(run("ahead", 1, 7))
            await asyncio.sleep(0.02)
            group.create_task(run("urgent", 0, 7))
        assert order[STREAMS:] == ["urgent", "ahead"]

    async def test_another_dtype_of_ids_is_accepted(
        self, generator: VllmGenerator, prompt: list[int]
    ) -> None:
        import numpy as np

        options = SamplingParams(max_tokens=1)
        async for chunk in generator.generate(np.array(prompt), options, "numpy"):  # type: ignore[arg-type]
            assert len(chunk.ids) == 1

    async def test_a_second_start_does_nothing(self, generator: VllmGenerator) -> None:
        engine = generator.engine
        await generator.start()
        assert generator.engine is engine

    async def test_y_a_hanging_engine_counts_as_dead_and_can_be_restarted(
        self, generator: VllmGenerator, prompt: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("orpheus_plugin.worker_thread.STEP_LIMIT_S", 1.0)
        (core,) = _engine_cores()
        assert core.pid is not None
        speaking = asyncio.create_task(run_one(generator, prompt, 1900))
        while not generator.running:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        assert generator.failure is None
        os.kill(core.pid, signal.SIGSTOP)
        async with asyncio.timeout(30):
            while generator.failure is None:
                await asyncio.sleep(0.01)
            assert "hangs" in str(generator.failure)
            with pytest.raises(EngineDied):
                await run_one(generator, prompt)
            await generator.aclose()  # it gets no event, not even that of its end
            with pytest.raises(EngineDied):
                await speaking
        await asyncio.to_thread(core.join, 5)
        assert not core.is_alive()
        await generator.start()
        assert len(await run_one(generator, prompt)) == 14

    async def test_z_a_dead_engine_ends_its_requests_and_can_be_restarted(
        self, generator: VllmGenerator, prompt: list[int]
    ) -> None:
        async def run(number: int) -> float:
            try:
                async for _ in generator.generate(prompt, QUICK, f"doomed{number}"):
                    pass
            except EngineDied:
                return time.monotonic()
            raise AssertionError("it ended well")

        tasks = [asyncio.create_task(run(number)) for number in range(STREAMS)]
        while generator.running < STREAMS:
            await asyncio.sleep(0.005)
        (core,) = _engine_cores()
        assert core.pid is not None
        killed = time.monotonic()
        os.kill(core.pid, signal.SIGKILL)
        ended = await asyncio.gather(*tasks)
        assert max(ended) - killed < 1.0
        with pytest.raises(EngineDied):
            await run_one(generator, prompt)
        await generator.aclose()
        assert generator.running == 0
        await generator.start()
        assert len(await run_one(generator, prompt)) == 14


def _engine_cores() -> list[multiprocessing.process.BaseProcess]:
    children = multiprocessing.active_children()
    return [child for child in children if child.name.startswith("EngineCore")]


async def run_one(generator: VllmGenerator, prompt: list[int], ids: int = 14) -> list[int]:
    options = SamplingParams(top_p=1.0, repetition_penalty=1.0, max_tokens=ids)
    name = f"{ids} ids"
    return [i async for chunk in generator.generate(prompt, options, name) for i in chunk.ids]


# ---- starts that fail


def _start_in_vain(model_dir: Path, **options: object) -> OrpheusError:
    vocabulary = Vocabulary.load(crafted_checkpoint(text=SMALL_TEXT))
    generator = VllmGenerator(model_dir, vocabulary, VllmOptions(**options))  # type: ignore[arg-type]
    with pytest.raises(OrpheusError) as caught:
        asyncio.run(generator.start())
    return caught.value


class TestFailedStarts:
    pytestmark = pytest.mark.vllm

    def test_a_missing_directory_is_an_error(self, tmp_path: Path) -> None:
        assert isinstance(_start_in_vain(tmp_path / "none"), ModelNotFound)

    def test_a_directory_without_a_model_is_an_error(self, tmp_path: Path) -> None:
        assert isinstance(_start_in_vain(tmp_path), BadCheckpoint)

    @pytest.mark.parametrize("config", ["", "{nonsense", "[]", "{}"])
    def test_a_broken_config_is_an_error(self, tmp_path: Path, config: str) -> None:
        (tmp_path / "config.json").write_text(config)
        assert isinstance(_start_in_vain(tmp_path), BadCheckpoint)

    @pytest.mark.parametrize("kept", [0, 7, 200, -1])
    def test_truncated_weights_are_an_error(self, tmp_path: Path, kept: int) -> None:
        whole = crafted_checkpoint(text=SMALL_TEXT)
        (tmp_path / "config.json").write_bytes((whole / "config.json").read_bytes())
        weights = (whole / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(weights[:kept])
        assert isinstance(_start_in_vain(tmp_path), BadCheckpoint)

    def test_options_that_vllm_refuses_are_an_error(self) -> None:
        error = _start_in_vain(crafted_checkpoint(text=SMALL_TEXT), max_model_len=100_000)
        assert isinstance(error, InvalidOptions)
        assert "100000" in str(error)

    def test_a_device_that_vllm_was_not_built_for_is_an_error(self) -> None:
        from vllm.platforms import current_platform

        other = "cpu" if current_platform.is_cuda_alike() else "cuda"
        checkpoint = crafted_checkpoint(text=SMALL_TEXT)
        generator = VllmGenerator(checkpoint, Vocabulary.load(checkpoint), device=other)
        with pytest.raises(InvalidOptions, match=current_platform.device_type):
            asyncio.run(generator.start())

    def test_vllm_takes_the_gpu_that_is_asked_for(self) -> None:
        """Up to the point where a GPU is opened, which this machine may not have."""
        from vllm.engine.arg_utils import AsyncEngineArgs

        args = AsyncEngineArgs(
            model=str(crafted_checkpoint(text=SMALL_TEXT)),
            skip_tokenizer_init=True,
            enforce_eager=True,
            device_ids=device_ids("cuda:1", "cuda"),
        )
        assert args.create_engine_config().parallel_config.assigned_physical_gpu_ids == [1]

    def test_on_a_gpu_it_requests_only_the_memory_it_needs(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """vLLM wants 92 % of the card free by default, although the codec is on it already."""
        from vllm import platforms
        from vllm.engine.arg_utils import AsyncEngineArgs

        card = SimpleNamespace(
            is_cuda_alike=lambda: True,
            device_type="cuda",
            get_device_total_memory=lambda index: (16 << 30) * (index + 1),
        )
        monkeypatch.setattr(platforms, "current_platform", card)
        checkpoint = crafted_checkpoint(text=SMALL_TEXT)
        vocabulary = Vocabulary.load(checkpoint)
        args = [
            engine_args(checkpoint, vocabulary, options, device)
            for options, device in (
                (VllmOptions(kv_cache_bytes=2 << 30), "cuda"),
                (VllmOptions(kv_cache_bytes=2 << 30), "cuda:1"),
                (VllmOptions(kv_cache_bytes=99 << 30), "cuda"),
            )
        ]
        monkeypatch.undo()
        shares = [AsyncEngineArgs(**arg).gpu_memory_utilization for arg in args]
        weights = (checkpoint / "model.safetensors").stat().st_size
        assert shares[0] * (16 << 30) == pytest.approx(weights + (7 << 29), rel=1e-3)
        assert shares[1] == shares[0] / 2
        assert shares[2] == AsyncEngineArgs.gpu_memory_utilization
        assert not args[0]["enforce_eager"]
        assert args[0]["cudagraph_capture_sizes"] == graph_sizes(64)

    @pytest.mark.parametrize(("threads", "one_process"), [("1", True), ("2", False)])
    def test_one_thread_needs_no_process_beside_the_schedulers(
        self, monkeypatch: pytest.MonkeyPatch, threads: str, one_process: bool
    ) -> None:
        """Where there are more, vLLM's second process is what binds them to cores."""
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        checkpoint = crafted_checkpoint(text=SMALL_TEXT)
        args = engine_args(checkpoint, Vocabulary.load(checkpoint), VllmOptions(), None)
        assert ("distributed_executor_backend" in args) is one_process

    async def test_the_bundled_voice_speaks_although_its_context_is_short(self) -> None:
        files = models.locate("mini")
        vocabulary = Vocabulary.load(files.lm)
        options = VllmOptions(kv_cache_bytes=64 << 20, sampler="whole")
        generator = VllmGenerator(files.lm, vocabulary, options)
        await generator.start()
        try:
            assert generator.engine.model_config.max_model_len == 2048
            prompt = vocabulary.prompt("heart", "Good morning.")
            ids: list[int] = []
            finish = None
            async for chunk in generator.generate(
                prompt, SamplingParams(temperature=0.3, seed=1), "a"
            ):
                ids, finish = [*ids, *chunk.ids], chunk.finish_reason or finish
            codes = FrameAssembler(vocabulary).push(ids)
            assert finish == "stop"
            assert 5 * 4 < len(codes) < 30 * 4  # between half a second and two and a half
            assert len(ids) * 4 == len(codes) * 7  # every id in its slot
        finally:
            await generator.aclose()

    async def test_a_start_that_is_cancelled_leaves_no_process(self) -> None:
        checkpoint = crafted_checkpoint(text=SMALL_TEXT)
        generator = VllmGenerator(
            checkpoint,
            Vocabulary.load(checkpoint),
            VllmOptions(max_model_len=256, kv_cache_bytes=64 << 20),
        )
        starting = asyncio.create_task(generator.start())
        async with asyncio.timeout(300):  # vLLM starts slowly on a busy machine
            while not _engine_cores():
                await asyncio.sleep(0.05)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            assert generator.engine is None
            while _engine_cores():
                await asyncio.sleep(0.05)

    def test_the_engine_ends_with_the_process_that_started_it(self, tmp_path: Path) -> None:
        if not plugin.installed():
            pytest.skip("the package is not installed with its entry points")
        script = tmp_path / "killed.py"
        script.write_text(
            textwrap.dedent(f"""
                import asyncio, multiprocessing, os, signal
                from orpheus_plugin.tokens.vllm.generator import VllmGenerator
                from orpheus_plugin.tokens.vllm.options import VllmOptions
                from orpheus_plugin.tokens.vocabulary import Vocabulary
                async def main():
                    folder = {str(crafted_checkpoint(text=SMALL_TEXT))!r}
                    options = VllmOptions(max_model_len=256, kv_cache_bytes=64 << 20)
                    await VllmGenerator(folder, Vocabulary.load(folder), options).start()
                    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
                    os.kill(os.getpid(), signal.SIGKILL)
                if __name__ == "__main__":
                    asyncio.run(main())
            """)
        )
        told = tmp_path / "told"
        with told.open("w") as out:  # no pipe: a process that lives on would keep it open
            ended = subprocess.run(
                [sys.executable, str(script)], stdout=out, timeout=300, check=False,
                env=os.environ | {"PYTHONPATH": os.getcwd()},
            )  # fmt: skip
        assert ended.returncode == -signal.SIGKILL
        engines = [Path(f"/proc/{pid}") for pid in told.read_text().split()]
        assert engines
        until = time.monotonic() + 120
        while any(engine.exists() for engine in engines):
            assert time.monotonic() < until, "an engine process lives on"
            time.sleep(0.1)

    def test_a_daemonic_process_is_refused(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_start_and_tell, args=(theirs,), daemon=True)
        process.start()
        assert ours.poll(300)
        assert "daemon" in ours.recv()
        process.join()

    def test_a_script_without_a_main_guard_is_reported(self, tmp_path: Path) -> None:
        script = tmp_path / "bot.py"
        script.write_text(
            textwrap.dedent(f"""
                import asyncio
                from orpheus_plugin.tokens.vllm.generator import VllmGenerator
                from orpheus_plugin.tokens.vllm.options import VllmOptions
                from orpheus_plugin.tokens.vocabulary import Vocabulary
                folder = {str(crafted_checkpoint(text=SMALL_TEXT))!r}
                options = VllmOptions(max_model_len=256, kv_cache_bytes=64 << 20)
                asyncio.run(VllmGenerator(folder, Vocabulary.load(folder), options).start())
            """)
        )
        ended = subprocess.run(
            [sys.executable, str(script)],
            capture_output=True, text=True, timeout=300, check=False,
            env=os.environ | {"PYTHONPATH": os.getcwd()},
        )  # fmt: skip
        assert ended.returncode != 0
        assert "EngineDied: vLLM did not start" in ended.stderr
        assert f'{script} starts it without: if __name__ == "__main__":' in ended.stderr


def _start_and_tell(pipe: object) -> None:
    generator = VllmGenerator("somewhere", Vocabulary(*range(10)))
    try:
        asyncio.run(generator.start())
    except InvalidOptions as error:
        pipe.send(str(error))  # type: ignore[attr-defined]
