"""LoRA adapters on every token engine: each request speaks with its own and is not changed by the
others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio

from orpheus_plugin.errors import BadCheckpoint, InvalidOptions
from orpheus_plugin.tokens.base import SamplingParams, TokenGenerator
from orpheus_plugin.tokens.cpu.generator import CpuLlama
from orpheus_plugin.tokens.torch.generator import TorchLlama
from orpheus_plugin.tokens.vllm.generator import VllmGenerator
from orpheus_plugin.tokens.vllm.options import VllmOptions
from orpheus_plugin.tokens.vocabulary import Vocabulary
from tests.support.adapters import merged, random_adapter, steering_adapter
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint
from tests.support.generators import started

pytestmark = pytest.mark.asyncio(loop_scope="module")

Make = Callable[[Path, Vocabulary, dict[str, Path]], TokenGenerator]
GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=35)
WAIT = 120


def cpu(model: Path, vocabulary: Vocabulary, adapters: dict[str, Path]) -> TokenGenerator:
    return CpuLlama(model, vocabulary, max_streams=16, adapters=adapters)


def torch_on_cpu(model: Path, vocabulary: Vocabulary, adapters: dict[str, Path]) -> TokenGenerator:
    return TorchLlama(
        model, vocabulary, max_streams=16, adapters=adapters, device="cpu", dtype="float32"
    )


def torch_on_gpu(model: Path, vocabulary: Vocabulary, adapters: dict[str, Path]) -> TokenGenerator:
    return TorchLlama(
        model, vocabulary, max_streams=16, adapters=adapters, device="cuda", dtype="float32"
    )


def vllm(model: Path, vocabulary: Vocabulary, adapters: dict[str, Path]) -> TokenGenerator:
    options = VllmOptions(
        max_streams=16, max_model_len=2048, kv_cache_bytes=256 << 20, dtype="float32"
    )
    return VllmGenerator(model, vocabulary, options, adapters=adapters)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(cpu, id="cpu"),
        pytest.param(torch_on_cpu, id="torch"),
        pytest.param(torch_on_gpu, id="torch_cuda", marks=pytest.mark.gpu),
        pytest.param(vllm, id="vllm", marks=pytest.mark.vllm),
    ],
)
def make(request: pytest.FixtureRequest) -> Make:
    found: Make = request.param
    return found


@dataclass(frozen=True)
class Voices:
    """Three adapters of one checkpoint.

    Attributes:
        folders: "anna" and "bert" each always speak one frame, "carl" is random.
        frames: the frames of the first two.
    """

    checkpoint: Path
    vocabulary: Vocabulary
    folders: dict[str, Path]
    frames: dict[str, list[int]]

    def prompt(self, text: str = "Hello there.") -> list[int]:
        return self.vocabulary.prompt("tara", text)


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Voices:
    checkpoint = crafted_checkpoint(text=SMALL_TEXT)
    vocabulary = Vocabulary.load(checkpoint)
    folder = tmp_path_factory.mktemp("adapters")
    frames = {
        name: steering_adapter(checkpoint, vocabulary, folder / name, seed=seed)
        for seed, name in enumerate(("anna", "bert"))
    }
    carl = random_adapter(
        checkpoint, folder / "carl", rank=5, size=0.1, lora_alpha=3, use_rslora=True
    )
    folders = {"anna": folder / "anna", "carl": carl, "bert": folder / "bert"}
    return Voices(checkpoint, vocabulary, folders, frames)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def generator(make: Make, voices: Voices) -> AsyncIterator[TokenGenerator]:
    async with started(make(voices.checkpoint, voices.vocabulary, voices.folders)) as made:
        yield made


async def ids_of(
    generator: TokenGenerator, prompt: list[int], sampling: SamplingParams, **options: Any
) -> list[int]:
    name = options.pop("name", "one")
    chunks = generator.generate(prompt, sampling, name, **options)
    async with aclosing(cast("Any", chunks)):
        return [i async for chunk in chunks for i in chunk.ids]


async def test_an_adapter_does_exactly_what_its_weights_say(
    generator: TokenGenerator, voices: Voices
) -> None:
    for name, frame in voices.frames.items():
        found = await ids_of(generator, voices.prompt(), GREEDY, adapter=name)
        assert found == frame * 5
    assert voices.frames["anna"] != voices.frames["bert"]


async def test_an_adapter_equals_the_model_it_merges_into(
    generator: TokenGenerator, voices: Voices, tmp_path: Path
) -> None:
    whole = merged(voices.checkpoint, voices.folders["carl"], tmp_path / "merged")
    async with started(cpu(whole, voices.vocabulary, {})) as reference:
        wanted = await ids_of(reference, voices.prompt(), GREEDY)
    assert await ids_of(generator, voices.prompt(), GREEDY, adapter="carl") == wanted
    assert await ids_of(generator, voices.prompt(), GREEDY) != wanted


async def test_the_base_speaks_as_without_adapters(
    generator: TokenGenerator, voices: Voices
) -> None:
    async with started(cpu(voices.checkpoint, voices.vocabulary, {})) as plain:
        wanted = await ids_of(plain, voices.prompt(), GREEDY)
    assert await ids_of(generator, voices.prompt(), GREEDY) == wanted


async def test_sixteen_requests_of_several_voices_are_as_each_is_alone(
    generator: TokenGenerator, voices: Voices
) -> None:
    kinds = [None, "anna", "carl", "bert"]
    asked = [
        (
            kinds[number % 4],
            voices.prompt("Hello. " * (1 + number % 5)),
            replace(GREEDY, max_tokens=21 + number) if number % 3 else
            SamplingParams(seed=number, max_tokens=21 + number),
        )
        for number in range(16)
    ]  # fmt: skip
    alone = [await ids_of(generator, prompt, how, adapter=kind) for kind, prompt, how in asked]
    async with asyncio.timeout(WAIT):
        together = await asyncio.gather(
            *(
                ids_of(generator, prompt, how, adapter=kind, name=f"many{number}")
                for number, (kind, prompt, how) in enumerate(asked)
            )
        )
    assert together == alone


async def test_an_unknown_adapter_is_refused_and_others_continue(
    generator: TokenGenerator, voices: Voices
) -> None:
    with pytest.raises(InvalidOptions, match="anna, carl, bert"):
        await ids_of(generator, voices.prompt(), GREEDY, adapter="dora")
    assert await ids_of(generator, voices.prompt(), GREEDY, adapter="anna", name="next")


async def test_an_adapter_of_another_model_is_an_error_at_start(
    make: Make, voices: Voices, tmp_path: Path
) -> None:
    wide = crafted_checkpoint(hidden=128, text=SMALL_TEXT)
    other = random_adapter(wide, tmp_path / "other")
    generator = make(voices.checkpoint, voices.vocabulary, {**voices.folders, "other": other})
    with pytest.raises(BadCheckpoint, match=r"adapter 'other'.*another model"):
        await generator.start()
    await generator.aclose()
