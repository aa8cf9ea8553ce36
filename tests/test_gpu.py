"""The whole engine on a GPU, with the bundled voice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.events import AudioChunk, TurnEnd
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.tokens.base import SamplingParams
from orpheus_plugin.tokens.torch.generator import TorchLlama
from orpheus_plugin.tokens.vocabulary import Vocabulary
from tests.support.checkpoints import random_checkpoint

pytestmark = pytest.mark.gpu
TEXT = "Your order is on its way, and it should be with you by tomorrow evening."


async def test_greedy_ids_on_the_gpu_are_those_of_the_processor() -> None:
    path = random_checkpoint(hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16)
    vocabulary = Vocabulary.load(path)
    prompt = vocabulary.prompt("tara", TEXT)
    greedy = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=70)
    spoken = []
    for device in ("cpu", "cuda"):
        generator = TorchLlama(path, vocabulary, max_streams=2, device=device, dtype="float32")
        await generator.start()
        ids: list[int] = []
        async for chunk in generator.generate(prompt, greedy, device):
            ids += chunk.ids
        spoken.append(ids)
        await generator.aclose()
    assert spoken[0] == spoken[1]
    assert len(spoken[0]) == 70


@pytest.mark.parametrize("generator", ["torch", pytest.param("vllm", marks=pytest.mark.vllm)])
async def test_the_bundled_voice_speaks_whole_turns_at_once(generator: Any) -> None:
    engine = LocalEngine(
        EngineConfig(model="mini", device="cuda", generator=generator, max_turns=8)
    )
    await engine.start()
    try:
        turns = [engine.open_turn(SpeechOptions()) for _ in range(8)]
        for turn in turns:
            turn.push_text(TEXT)
            turn.end()
        for turn in turns:
            events = [event async for event in turn]
            pcm = np.concatenate(
                [np.frombuffer(e.pcm, np.int16) for e in events if isinstance(e, AudioChunk)]
            )
            assert isinstance(events[-1], TurnEnd)
            assert events[-1].reason == "done"
            assert 2.5 < len(pcm) / 24_000 < 9
            assert np.abs(pcm.astype(float)).mean() > 100
    finally:
        await engine.aclose()
