"""Underruns as they are counted, against a recording of what a listener hears."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import numpy as np

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.events import SAMPLE_RATE, AudioChunk, TurnEnd
from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.tokens.base import TokenChunk
from orpheus_plugin.tokens.cpu.generator import CpuLlama
from orpheus_plugin.tokens.vocabulary import Vocabulary
from orpheus_plugin.turn import Turn
from tests.support.generators import Wrapper

FRAME_S = 2048 / SAMPLE_RATE
PACE_S = 0.7 * FRAME_S
STALL_S = 0.8
STALLS = (49, 119)
"""Ids before which the generator stops for longer than it is ahead of the listener."""


class Stalling(Wrapper[CpuLlama]):
    """Somewhat faster than speech, with two pauses in each utterance."""

    def __init__(self, files: ModelFiles, vocabulary: Vocabulary) -> None:
        super().__init__(CpuLlama(files.lm, vocabulary, max_streams=4))
        self.stalls = 0

    async def passed(
        self, request_id: str, chunks: AsyncIterator[TokenChunk]
    ) -> AsyncIterator[TokenChunk]:
        count = 0
        async for chunk in chunks:
            for number, token_id in enumerate(chunk.ids):
                if count in STALLS:
                    self.stalls += 1
                    await asyncio.sleep(STALL_S)
                count += 1
                if count % 7 == 0:
                    await asyncio.sleep(PACE_S)
                last = number == len(chunk.ids) - 1
                yield TokenChunk([token_id], chunk.finish_reason if last else None)
            if not chunk.ids:
                yield chunk


async def record(turn: Turn) -> tuple[np.ndarray, TurnEnd]:
    """What a listener hears who plays each piece of audio at once: int16, silence in the gaps."""
    heard: list[np.ndarray] = []
    ends_at = 0.0
    async for event in turn:
        if isinstance(event, TurnEnd):
            return np.concatenate(heard), event
        if isinstance(event, AudioChunk):
            now = time.monotonic()
            if heard and now > ends_at:
                heard.append(np.zeros(round((now - ends_at) * SAMPLE_RATE), np.int16))
            heard.append(np.frombuffer(event.pcm, np.int16))
            ends_at = max(now, ends_at) + event.duration_s
    raise AssertionError("no end")


def gaps(recording: np.ndarray, longer_than_s: float) -> int:
    """Runs of silence in it."""
    edges = np.flatnonzero(np.diff(np.concatenate([[1], recording != 0, [1]]).astype(int)))
    lengths = edges[1::2] - edges[::2]
    return int((lengths > longer_than_s * SAMPLE_RATE).sum())


async def test_the_underruns_that_are_counted_are_the_gaps_of_a_recording(
    crafted_files: ModelFiles,
) -> None:
    made: list[Stalling] = []

    def make(files: ModelFiles, vocabulary: Vocabulary) -> Stalling:
        made.append(Stalling(files, vocabulary))
        return made[-1]

    engine = LocalEngine(
        EngineConfig(device="cpu", max_turns=2, measure=False), files=crafted_files, generator=make
    )
    await engine.start()
    try:
        made[0].stalls = 0
        async with engine.open_turn(SpeechOptions(seed=9)) as turn:
            turn.push_text("The quick brown fox jumps over the lazy dog.")
            turn.end()
            recording, end = await record(turn)
    finally:
        await engine.aclose()
    assert made[0].stalls == len(STALLS)
    assert end.stats.underruns >= len(STALLS)
    # A gap of about 20 ms may be one for the engine and none for the listener, or the reverse.
    assert gaps(recording, 0.03) <= end.stats.underruns <= gaps(recording, 0.01)
