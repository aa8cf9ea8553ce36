"""A replayed phrase is a turn like any other: audio, words, interruptions, figures."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.errors import GenerationFailed, InvalidOptions
from orpheus_plugin.events import AudioChunk, TurnEvent, Word
from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.tokens.phrases import CacheOptions
from tests.engine.test_local import idle, pcm, settle, speak

GREETING = "Hello, this is the front desk. How can I help you today?"


@pytest.fixture
async def engine(crafted_files: ModelFiles) -> AsyncIterator[LocalEngine]:
    config = EngineConfig(device="cpu", max_turns=4, cache=CacheOptions(takes=1))
    made = LocalEngine(config, files=crafted_files)
    await made.start()
    try:
        yield made
    finally:
        await made.aclose()


def words(events: list[TurnEvent]) -> list[Word]:
    return [event for event in events if isinstance(event, Word)]


async def test_a_replay_is_the_same_audio_and_words(engine: LocalEngine) -> None:
    first = await speak(engine, GREETING, seed=3)
    second = await speak(engine, GREETING, seed=3)
    assert engine.load().cache_hits == len({word.utterance for word in words(first)})
    assert pcm(second) == pcm(first)
    assert [word.text for word in words(second)] == [word.text for word in words(first)]
    assert engine.load().cached_s > 1


async def test_warming_up_keeps_nothing(engine: LocalEngine) -> None:
    load = engine.load()
    assert (load.cache_hits, load.cache_misses, load.cache_bytes) == (0, 0, 0)
    assert engine.health().generator == "CpuLlama"


async def test_a_primed_phrase_is_replayed_from_the_first_turn_on(engine: LocalEngine) -> None:
    await engine.prime([GREETING, "", "Goodbye."])
    misses = engine.load().cache_misses
    assert misses
    for text in (GREETING, "Goodbye."):
        assert pcm(await speak(engine, text))
    assert engine.load().cache_misses == misses
    await engine.prime([GREETING])
    assert engine.load().cache_misses == misses


async def test_an_engine_primes_itself_and_text_in_pieces_is_the_same_phrase(
    crafted_files: ModelFiles,
) -> None:
    cache = CacheOptions(takes=2, prime=(GREETING,))
    engine = LocalEngine(EngineConfig(device="cpu", max_turns=4, cache=cache), files=crafted_files)
    await engine.start()
    try:
        misses = engine.load().cache_misses
        turn = engine.open_turn()
        for word in GREETING.split(" "):
            turn.push_text(word + " ")
        turn.end()
        assert pcm([event async for event in turn])
        assert engine.load().cache_misses == misses
        await speak(engine, GREETING, voice="leo")
        assert engine.load().cache_misses > misses
    finally:
        await engine.aclose()


async def test_a_replay_that_is_interrupted_leaves_nothing(engine: LocalEngine) -> None:
    await engine.prime([GREETING])
    for _ in range(10):
        turn = engine.open_turn(SpeechOptions())
        turn.push_text(GREETING)
        turn.end()
        async for event in turn:
            if isinstance(event, AudioChunk):
                break
        await turn.cancel()
    await settle(lambda: idle(engine))


async def test_priming_needs_a_cache(crafted_engine: LocalEngine) -> None:
    with pytest.raises(InvalidOptions, match="CacheOptions"):
        await crafted_engine.prime(["Hello."])


async def test_inaudible_speech_is_not_kept(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as deaf:
        deaf.setattr("orpheus_plugin.engine.trim.ONSET_RMS", 10.0)
        with pytest.raises(GenerationFailed):
            await speak(engine, "Hello there.", seed=1)
    assert engine.load().cache_bytes == 0
    assert pcm(await speak(engine, "Hello there.", seed=1))
    assert engine.load().cache_hits == 0
