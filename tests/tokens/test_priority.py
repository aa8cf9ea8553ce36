"""A new turn's first utterance is generated before utterances that are ahead of their listeners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

import pytest

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.tokens.base import SamplingParams, TokenChunk, TokenGenerator
from orpheus_plugin.tokens.torch.generator import TorchLlama
from orpheus_plugin.tokens.vllm.generator import VllmGenerator
from orpheus_plugin.tokens.vllm.options import VllmOptions
from orpheus_plugin.tokens.vocabulary import Vocabulary
from orpheus_plugin.turn import Turn
from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint
from tests.support.generators import Wrapper

Make = Callable[[ModelFiles, Vocabulary], TokenGenerator]


def torch_llama(files: ModelFiles, vocabulary: Vocabulary) -> TokenGenerator:
    return TorchLlama(files.lm, vocabulary, max_streams=1)


def vllm(files: ModelFiles, vocabulary: Vocabulary) -> TokenGenerator:
    options = VllmOptions(max_streams=1, max_model_len=2048, kv_cache_bytes=256 << 20)
    return VllmGenerator(files.lm, vocabulary, options)


class Watched(Wrapper[TokenGenerator]):
    """A generator with a single place; notes which requests were given it, in order."""

    def __init__(self, inner: TokenGenerator) -> None:
        super().__init__(inner)
        self.asked = 0
        self.served: list[str] = []

    async def passed(
        self, request_id: str, chunks: AsyncIterator[TokenChunk]
    ) -> AsyncIterator[TokenChunk]:
        self.asked += 1
        async with aclosing(cast("Any", chunks)):
            async for chunk in chunks:
                if request_id not in self.served:
                    self.served.append(request_id)
                yield chunk


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(torch_llama, id="torch_llama"),
        pytest.param(vllm, id="vllm", marks=pytest.mark.vllm),
    ],
)
async def test_a_new_turn_goes_before_utterances_that_are_generated_ahead(
    make: Make, crafted_files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No utterance ends before the last one is asked for.
    spec = replace(crafted_files.spec, sampling=SamplingParams(max_tokens=420))
    endless = crafted_checkpoint(text=SMALL_TEXT, stop=0.0)
    # Look ahead at once, not only when the listener has something to hear.
    monkeypatch.setattr("orpheus_plugin.engine.scheduler.MARGIN_S", -1e9)
    made: list[Watched] = []

    def watched(files: ModelFiles, vocabulary: Vocabulary) -> TokenGenerator:
        made.append(Watched(make(files, vocabulary)))
        return made[0]

    engine = LocalEngine(
        EngineConfig(device="cpu", max_turns=3),
        files=replace(crafted_files, spec=spec, lm=endless),
        generator=watched,
    )
    await engine.start()
    (generator,) = made
    generator.asked, generator.served = 0, []

    async def asked(number: int) -> None:
        async with asyncio.timeout(30):
            while generator.asked < number:
                await asyncio.sleep(0.005)

    def say(text: str) -> Turn:
        # A cheap sampler: vLLM's takes 12 ms an id on a CPU to sort for top_p.
        turn = engine.open_turn(SpeechOptions(top_p=1.0, repetition_penalty=1.0))
        turn.push_text(text)
        turn.end()
        return turn

    holder = say("The first one holds the only place for a while.")
    await asked(1)
    first = say("One sentence is spoken now, as soon as there is room. Another one is made ahead.")
    await asked(3)
    second = say("This comes later.")
    await asked(4)
    for turn in (holder, first, second):
        async with turn:
            async for _ in turn:
                pass
    assert generator.served == [
        f"{holder.id}-0",
        f"{first.id}-0",
        f"{second.id}-0",
        f"{first.id}-1",
    ]
    await engine.aclose()
