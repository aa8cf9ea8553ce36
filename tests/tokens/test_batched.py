"""The generators that run a model in this process, CpuLlama and TorchLlama: their arithmetic
against transformers', their scheduling, and what they do with broken checkpoints and deaths."""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import random
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from orpheus_plugin.errors import BadCheckpoint, EngineDied, InvalidOptions, ModelNotFound
from orpheus_plugin.tokens.base import SamplingParams
from orpheus_plugin.tokens.batched import BatchedGenerator
from orpheus_plugin.tokens.cpu.generator import CpuLlama, CpuStepper
from orpheus_plugin.tokens.torch.generator import TorchLlama, TorchStepper
from orpheus_plugin.tokens.vocabulary import SLOTS, Vocabulary
from tests.support.checkpoints import (
    SMALL_TEXT,
    crafted_checkpoint,
    llama_config,
    random_checkpoint,
    random_weights,
    save_checkpoint,
    write_tokenizer,
)
from tests.support.ids import audio_id

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=42)
TEXTS = ("Hi.", "A longer sentence, with a comma and an end. " * 2, "Six words are in this one.")
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


class ExactTorch(TorchLlama):
    """In float32 on any CPU."""

    def __init__(self, model_dir: Path, vocabulary: Vocabulary, **options: Any) -> None:
        super().__init__(model_dir, vocabulary, dtype="float32", **options)


Made = Callable[..., BatchedGenerator]


@pytest.fixture(params=[CpuLlama, ExactTorch], ids=["cpu", "torch"])
def made(request: pytest.FixtureRequest) -> Made:
    found: Made = request.param
    return found


@asynccontextmanager
async def started(made: Made, path: Path, **options: Any) -> AsyncIterator[BatchedGenerator]:
    generator = made(path, Vocabulary.load(path), **options)
    await generator.start()
    try:
        yield generator
    finally:
        await generator.aclose()


async def run(
    generator: BatchedGenerator, prompt: list[int], sampling: SamplingParams, name: str
) -> tuple[list[int], str | None]:
    ids: list[int] = []
    finish = None
    async for chunk in generator.generate(prompt, sampling, name):
        ids += chunk.ids
        finish = chunk.finish_reason
    return ids, finish


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.002)


@torch.inference_mode()
def transformers_greedy(path: Path, prompt: list[int], limit: int) -> list[int]:
    """What transformers' Llama says under the same mask: ids of slot n % 7, and the stop id at slot
    0."""
    from transformers import DynamicCache, LlamaForCausalLM

    vocabulary = Vocabulary.load(path)
    model: Any = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    model.eval()
    cache = DynamicCache(config=model.config)
    given, drawn = torch.tensor([prompt]), []
    for count in range(limit):
        logits = model(given, past_key_values=cache, logits_to_keep=1).logits[0, -1]
        first = audio_id(vocabulary, count % SLOTS, 0)
        allowed = torch.arange(first, first + 4096)
        if count % SLOTS == 0:
            allowed = torch.cat([allowed, torch.tensor([vocabulary.end_of_speech])])
        best = int(allowed[logits[allowed].argmax()])
        if best == vocabulary.end_of_speech:
            break
        drawn.append(best)
        given = torch.tensor([[best]])
    return drawn


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"heads": 4, "kv_heads": 4, "tied": True},
        {"heads": 4, "kv_heads": 2, "layers": 3},
        {"heads": 8, "kv_heads": 2, "head_dim": 16, "rope_scaling": LLAMA3},
        {"heads": 2, "kv_heads": 1, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    ],
    ids=["multi-query", "tied", "grouped", "llama3-rope", "linear-rope"],
)
async def test_greedy_ids_equal_transformers_under_the_same_mask(
    made: Made, shape: dict[str, Any]
) -> None:
    path = random_checkpoint(**shape)
    prompts = [Vocabulary.load(path).prompt("tara", text) for text in TEXTS]
    async with started(made, path, prefill_chunk=16) as generator:
        together = await asyncio.gather(
            *(run(generator, p, GREEDY, f"{n}") for n, p in enumerate(prompts))
        )
    for prompt, (ids, _) in zip(prompts, together, strict=True):
        assert ids == transformers_greedy(path, prompt, GREEDY.max_tokens)


async def test_requests_that_join_and_leave_do_not_change_greedy_output(made: Made) -> None:
    path = random_checkpoint(heads=4, kv_heads=2)
    vocabulary = Vocabulary.load(path)
    chance = random.Random(5)
    jobs = [
        (vocabulary.prompt("tara", "word " * chance.randint(1, 60)), chance.randint(1, 60))
        for _ in range(24)
    ]
    async with started(made, path, max_streams=5, prefill_chunk=32) as generator:

        async def one(name: str, number: int, delay: float) -> list[int]:
            prompt, limit = jobs[number]
            await asyncio.sleep(delay)
            options = SamplingParams(temperature=0.0, repetition_penalty=1.1, max_tokens=limit)
            return (await run(generator, prompt, options, name))[0]

        alone = [await one(f"alone{n}", n, 0) for n in range(len(jobs))]
        crowd = [one(f"crowd{n}", n, chance.random() * 0.2) for n in range(len(jobs))]
        leaving = [
            asyncio.create_task(one(f"leaving{n}", n, chance.random() * 0.2)) for n in range(24)
        ]
        for task in leaving:
            asyncio.get_running_loop().call_later(chance.random() * 0.3, task.cancel)
        assert await asyncio.gather(*crowd) == alone
        await asyncio.gather(*leaving, return_exceptions=True)
        await until(lambda: generator.running == 0)


async def test_bfloat16_weights_stay_close_to_float32() -> None:
    path = random_checkpoint(heads=4, kv_heads=2, hidden=64)
    vocabulary = Vocabulary.load(path)
    ids = torch.tensor(vocabulary.prompt("tara", TEXTS[1]))
    logits = []
    for dtype in ("float32", "bfloat16"):
        model = TorchLlama(path, vocabulary, dtype=dtype, max_streams=1)._load().model
        with torch.inference_mode():
            model.prefill(0, ids[:-1], 0)
            last = len(ids) - 1
            hidden = model.step(ids[-1:], torch.tensor([last]), last, ragged=False)
            logits.append(model.logits(hidden, [0])[0, :4097])
    error = (logits[0] - logits[1]).square().mean().sqrt() / logits[0].std()
    assert error < 0.05


async def test_at_most_max_streams_run_and_the_rest_wait(made: Made) -> None:
    path = crafted_checkpoint(text=SMALL_TEXT, stop=0.0)
    async with started(made, path, max_streams=3) as generator:
        prompt = Vocabulary.load(path).prompt("tara", "Hello.")
        jobs = [
            asyncio.create_task(run(generator, prompt, SamplingParams(max_tokens=140), f"{n}"))
            for n in range(10)
        ]
        seen = 0
        while not all(job.done() for job in jobs):
            seen = max(seen, generator.running)
            await asyncio.sleep(0.001)
        assert seen <= 3
        assert [len(job.result()[0]) for job in jobs] == [140] * 10


async def test_a_request_that_waits_can_be_aborted(made: Made) -> None:
    path = crafted_checkpoint(text=SMALL_TEXT, stop=0.0)
    async with started(made, path, max_streams=1) as generator:
        prompt = Vocabulary.load(path).prompt("tara", "Hello.")
        first = asyncio.create_task(
            run(generator, prompt, SamplingParams(max_tokens=1500), "first")
        )
        waiting = asyncio.create_task(
            run(generator, prompt, SamplingParams(max_tokens=1500), "waiting")
        )
        await until(lambda: generator.running == 1 and "waiting" in generator._requests)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await until(lambda: generator.running == 0)
        assert not generator._requests


async def test_an_abort_takes_effect_within_one_step(made: Made) -> None:
    path = crafted_checkpoint(text=SMALL_TEXT, stop=0.0)
    async with started(made, path) as generator:
        prompt = Vocabulary.load(path).prompt("tara", "Hello.")
        for number in range(10):
            stream = generator.generate(prompt, SamplingParams(max_tokens=1500), f"{number}")
            await anext(stream)
            request = generator._requests[f"{number}"]
            await stream.aclose()  # type: ignore[attr-defined]
            drawn = request.drawn
            await until(lambda: generator.running == 0)
            assert request.drawn <= drawn + 1


async def test_a_long_prompt_does_not_stall_running_requests(made: Made) -> None:
    """Its reading is cut into chunks, and every running request draws an id after each of them."""
    path = crafted_checkpoint(text=SMALL_TEXT, stop=0.0)
    async with started(made, path, prefill_chunk=16) as generator:
        vocabulary = Vocabulary.load(path)
        stream = generator.generate(
            vocabulary.prompt("tara", "Hi."), SamplingParams(max_tokens=2000), "speaks"
        )
        await anext(stream)
        speaking = generator._requests["speaks"]
        long = generator.generate(
            vocabulary.prompt("tara", "x" * 1000), SamplingParams(max_tokens=1), "long"
        )
        before = speaking.drawn
        await anext(long)
        assert speaking.drawn - before >= 1000 // 17
        await stream.aclose()  # type: ignore[attr-defined]


async def test_the_context_limits_what_is_generated(made: Made) -> None:
    path = crafted_checkpoint(text=SMALL_TEXT, stop=0.0)
    async with started(made, path, max_context=100) as generator:
        prompt = Vocabulary.load(path).prompt("tara", "Hello.")
        ids, finish = await run(generator, prompt, SamplingParams(max_tokens=5000), "long")
        assert (len(ids), finish) == (100 - len(prompt), "length")
        with pytest.raises(InvalidOptions, match="no room in a context of 100"):
            generator.generate(prompt * 10, SamplingParams(), "too long")


async def test_a_crash_ends_every_request_and_a_new_start_works(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = crafted_checkpoint(text=SMALL_TEXT, stop=0.0)
    async with started(made, path) as generator:
        prompt = Vocabulary.load(path).prompt("tara", "Hello.")
        jobs = [
            asyncio.create_task(run(generator, prompt, SamplingParams(max_tokens=1500), f"{n}"))
            for n in range(3)
        ]
        await until(lambda: generator.running == 3)

        def broken(*_: object, **__: object) -> list[int]:
            raise RuntimeError("out of memory\nand a long story")

        with monkeypatch.context() as patch:
            patch.setattr(CpuStepper if made is CpuLlama else TorchStepper, "step", broken)
            results = await asyncio.gather(*jobs, return_exceptions=True)
        for result in results:
            assert isinstance(result, EngineDied)
            assert "out of memory" in str(result)
            assert "\n" not in str(result)
        assert generator.running == 0
        with pytest.raises(EngineDied, match="out of memory"):
            generator.generate(prompt, SamplingParams(), "after")
        await generator.start()
        assert len((await run(generator, prompt, SamplingParams(max_tokens=14), "again"))[0]) == 14


async def test_a_generator_that_was_not_started_refuses_requests(made: Made) -> None:
    path = crafted_checkpoint(text=SMALL_TEXT)
    generator = made(path, Vocabulary.load(path))
    with pytest.raises(EngineDied, match="not been started"):
        generator.generate([1], SamplingParams(), "early")
    assert generator.running == 0
    await generator.aclose()


@pytest.mark.parametrize(
    "options",
    [{"max_streams": 0}, {"max_context": 1}, {"prefill_chunk": 0}],
)
def test_impossible_options_are_refused_by_the_constructor(
    made: Made, options: dict[str, Any]
) -> None:
    path = crafted_checkpoint(text=SMALL_TEXT)
    with pytest.raises(InvalidOptions):
        made(path, Vocabulary.load(path), **options)


@pytest.mark.parametrize("options", [{"dtype": "float99"}, {"device": "abacus"}])
def test_unknown_devices_and_dtypes_are_refused_by_the_constructor(options: dict[str, Any]) -> None:
    path = crafted_checkpoint(text=SMALL_TEXT)
    with pytest.raises(InvalidOptions):
        TorchLlama(path, Vocabulary.load(path), **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is not there")
def test_a_missing_gpu_is_refused_by_the_constructor() -> None:
    path = crafted_checkpoint(text=SMALL_TEXT)
    with pytest.raises(InvalidOptions, match="no CUDA GPU"):
        TorchLlama(path, Vocabulary.load(path), device="cuda")


def copy_of(folder: Path) -> Path:
    target = folder / "copy"
    shutil.copytree(crafted_checkpoint(text=SMALL_TEXT), target)
    return target


def change_config(path: Path, **values: Any) -> None:
    config = json.loads((path / "config.json").read_text("utf-8"))
    (path / "config.json").write_text(json.dumps(config | values), "utf-8")


async def refuses(made: Made, path: Path, kind: type[Exception], message: str) -> None:
    vocabulary = Vocabulary.load(crafted_checkpoint(text=SMALL_TEXT))
    with pytest.raises(kind, match=message) as caught:
        await made(path, vocabulary).start()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "mistral"}, "not a Llama"),
        ({"hidden_size": 128}, r"embed_tokens.* is \[\d+, 64\], config.json says \[\d+, 128\]"),
        ({"num_hidden_layers": 3}, "no weight model.layers.2"),
        ({"num_attention_heads": 0}, "not a Llama configuration|impossible"),
        ({"num_key_value_heads": 3}, "impossible sizes"),
        ({"hidden_size": "wide"}, "not a Llama configuration"),
        ({"hidden_size": 1 << 40}, "impossible sizes: hidden"),
        ({"head_dim": 1 << 40}, "impossible sizes: head_dim"),
        ({"num_hidden_layers": 1e308}, "impossible sizes: layers"),
        ({"num_attention_heads": float("inf")}, "not a Llama configuration"),
        ({"max_position_embeddings": 0}, "impossible sizes: max_positions"),
        ({"rms_norm_eps": float("nan")}, "not numbers"),
        ({"rope_theta": 0}, "not numbers|not a Llama configuration"),
        ({"hidden_act": "gelu"}, "activation"),
        ({"attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rotary scaling 'yarn'"),
        ({"vocab_size": 20000}, "20000 ids in the model"),
    ],
)
async def test_an_impossible_configuration_is_refused(
    made: Made, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    path = copy_of(tmp_path)
    change_config(path, **values)
    await refuses(made, path, BadCheckpoint, message)


async def test_missing_and_corrupt_files_are_refused(made: Made, tmp_path: Path) -> None:
    path = copy_of(tmp_path)
    weights = path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    await refuses(made, path, BadCheckpoint, "corrupt or unreadable")
    weights.write_bytes(b"not a checkpoint at all")
    await refuses(made, path, BadCheckpoint, "corrupt or unreadable")
    weights.unlink()
    await refuses(made, path, ModelNotFound, "no model.safetensors")
    (path / "pytorch_model.bin").write_bytes(b"nonsense")
    await refuses(made, path, BadCheckpoint, "corrupt or unreadable")
    for broken in ("{", "[" * 100_000, "[]"):
        (path / "config.json").write_text(broken)
        await refuses(made, path, BadCheckpoint, "cannot be read|not a JSON object")
    (path / "config.json").unlink()
    await refuses(made, path, ModelNotFound, "no config.json")


async def test_weights_that_are_not_finite_are_refused(made: Made, tmp_path: Path) -> None:
    path = copy_of(tmp_path)
    weights = load_file(path / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, path / "model.safetensors")
    await refuses(made, path, BadCheckpoint, "infinite numbers")


async def test_shards_and_pickled_weights_give_the_same_ids_as_one_file(
    made: Made, tmp_path: Path
) -> None:
    size = write_tokenizer(tmp_path / "one", SMALL_TEXT)
    config = llama_config(size, tied=True)
    weights = random_weights(config, scale=0.2)
    save_checkpoint(tmp_path / "one", config, weights)
    weights = {name: tensor.bfloat16() for name, tensor in weights.items()}
    for kind in ("shards", "pickled"):
        folder = tmp_path / kind
        folder.mkdir()
        for name in ("config.json", "tokenizer.json"):
            shutil.copy(tmp_path / "one" / name, folder)
    torch.save(weights, tmp_path / "pickled" / "pytorch_model.bin")
    names = sorted(weights)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: weights[name] for name in part}, tmp_path / "shards" / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    outputs = []
    for kind in ("one", "shards", "pickled"):
        async with started(made, tmp_path / kind) as generator:
            prompt = Vocabulary.load(tmp_path / kind).prompt("tara", "Hello.")
            outputs.append((await run(generator, prompt, GREEDY, "x"))[0])
    assert outputs[0] == outputs[1] == outputs[2]


async def test_two_hundred_requests_cancelled_at_random_moments_hold_nothing(made: Made) -> None:
    path = crafted_checkpoint(text=SMALL_TEXT)
    vocabulary = Vocabulary.load(path)
    chance = random.Random(9)
    async with started(made, path, max_streams=6, prefill_chunk=8) as generator:
        threads = threading.active_count()

        async def one(number: int) -> None:
            prompt = vocabulary.prompt("tara", "word " * chance.randint(1, 40))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.random() * 0.1):
                    await run(generator, prompt, SamplingParams(), f"{number}")

        for batch in range(10):
            await asyncio.gather(*(one(20 * batch + number) for number in range(20)))
        await until(lambda: generator.running == 0)
        assert not generator._requests
        assert threading.active_count() == threads
        worker = generator._worker
        assert worker is not None
        assert not worker._waiting
        prompt = vocabulary.prompt("tara", "Hello.")
        assert (await run(generator, prompt, SamplingParams(max_tokens=7), "after"))[1] == "length"
    assert not worker.thread._thread.is_alive()


def resident_bytes(array: np.ndarray) -> int:
    """What of an array's mapping is in memory."""
    address = array.ctypes.data
    inside = False
    for line in Path("/proc/self/smaps").read_text("utf-8").splitlines():
        head, _, rest = line.partition(" ")
        if "-" in head and ":" not in head:
            first, last = (int(edge, 16) for edge in head.split("-"))
            inside = first <= address < last
        elif inside and head == "Rss:":
            return int(rest.split()[0]) * 1024
    raise AssertionError("no such mapping")


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads Linux' map of memory")
async def test_the_cache_has_memory_only_for_running_requests(
    made: Made,
) -> None:
    path = crafted_checkpoint(text=SMALL_TEXT, stop=0.0)
    async with started(made, path, max_streams=64, max_context=8000) as generator:
        caches = caches_of(generator)
        size = sum(cache.nbytes for cache in caches)
        assert size > 100e6
        places = caches[0].shape[0 if made is CpuLlama else 2]
        prompt = Vocabulary.load(path).prompt("tara", "Hello.")
        used = len(prompt) * size // places // 8000

        async def listener(name: str) -> None:
            count = 0
            async for chunk in generator.generate(prompt, SamplingParams(max_tokens=1800), name):
                count += len(chunk.ids)
                if count > 650 and generator.running == 3:
                    peaks.append(sum(map(resident_bytes, caches)))

        peaks: list[int] = []
        await asyncio.gather(*(listener(f"{n}") for n in range(3)))
        needed = 3 * 650 * size // places // 8000
        assert needed < max(peaks) < 6 * needed
        # A page for each of its rows is what the last prompt, read on its own place, may still
        # hold.
        rows = 2 * caches[0].shape[0] if made is not CpuLlama else 0
        await until(
            lambda: (
                sum(map(resident_bytes, caches)) <= 2 * used + (rows + len(caches)) * mmap.PAGESIZE
            )
        )


def caches_of(generator: BatchedGenerator) -> list[np.ndarray]:
    assert generator._worker is not None
    stepper = generator._worker.stepper
    if isinstance(stepper, CpuStepper):
        return [stepper.streams.keys, stepper.streams.values]
    assert isinstance(stepper, TorchStepper)
    return [stepper.model.cache.numpy()]


async def test_a_seed_gives_the_same_ids_alone_and_among_others_that_join_and_leave() -> None:
    path = random_checkpoint(heads=4, kv_heads=2, hidden=64)
    prompt = Vocabulary.load(path).prompt("tara", "Hello there.")
    chance = random.Random(3)

    async with started(CpuLlama, path, max_streams=6) as generator:

        async def one(name: str, seed: int, delay: float, limit: int) -> list[int]:
            await asyncio.sleep(delay)
            options = SamplingParams(seed=seed, max_tokens=limit)
            return (await run(generator, prompt, options, name))[0]

        alone = [await one(f"alone{seed}", seed, 0, 200) for seed in range(4)]
        others = [one(f"o{n}", 100 + n, n * 0.01, chance.randint(1, 150)) for n in range(20)]
        crowd = [one(f"crowd{seed}", seed, seed * 0.03, 200) for seed in range(4)]
        results = await asyncio.gather(*crowd, *others)
    assert results[:4] == alone
    assert len({tuple(ids) for ids in alone}) == 4
