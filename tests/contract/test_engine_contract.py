"""The contract of every SpeechEngine: one suite over LocalEngine and RemoteEngine.

Once also over vLLM with the codec in its worker: one engine for all tests, because vLLM starts
slowly.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.errors import (
    AtCapacity,
    EngineDied,
    InvalidOptions,
    TextTooLong,
    TurnClosed,
    UnknownVoice,
)
from orpheus_plugin.events import AudioChunk, TurnEnd, TurnEvent, Word
from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.remote.engine import RemoteEngine
from orpheus_plugin.speech_engine import SpeechEngine
from orpheus_plugin.tokens.vllm.options import VllmOptions
from orpheus_plugin.tokens.vocabulary import Vocabulary
from orpheus_plugin.turn import Turn

TEXT = "The quick brown fox jumps over the lazy dog. It does so every single day. Why is that?"
MAX_TURNS = 4


@pytest.fixture(scope="module")
def in_vllm(crafted_files: ModelFiles) -> Iterator[LocalEngine]:
    config = EngineConfig(
        device="cpu",
        generator="vllm",
        generator_options=VllmOptions(max_model_len=2048, kv_cache_bytes=64 << 20),
        codec_process="vllm",
        max_turns=MAX_TURNS,
    )
    engine = LocalEngine(config, files=crafted_files)
    with ThreadPoolExecutor(1) as elsewhere:  # on the test's thread a loop runs already
        elsewhere.submit(asyncio.run, engine.start()).result()
        yield engine
        elsewhere.submit(asyncio.run, engine.aclose()).result()


@pytest.fixture(params=["local", "remote", pytest.param("in_vllm", marks=pytest.mark.vllm)])
async def engine(
    request: pytest.FixtureRequest, crafted_files: ModelFiles
) -> AsyncIterator[SpeechEngine]:
    if request.param == "in_vllm":
        shared: LocalEngine = request.getfixturevalue("in_vllm")
        yield shared
        return
    local = LocalEngine(EngineConfig(device="cpu", max_turns=MAX_TURNS), files=crafted_files)
    if request.param == "local":
        await local.start()
        yield local
        await local.aclose()
        return
    from tests.support.servers import serving

    async with serving(local) as server:
        remote = RemoteEngine(server.url)
        await remote.start()
        yield remote
        await remote.aclose()


async def read(turn: Turn) -> list[TurnEvent]:
    async with asyncio.timeout(60):
        return [event async for event in turn]


async def speak(engine: SpeechEngine, text: str, **options: object) -> list[TurnEvent]:
    async with engine.open_turn(SpeechOptions(**options)) as turn:  # type: ignore[arg-type]
        turn.push_text(text)
        turn.end()
        return await read(turn)


def pcm(events: Sequence[TurnEvent]) -> bytes:
    return b"".join(event.pcm for event in events if isinstance(event, AudioChunk))


async def settle(engine: SpeechEngine) -> None:
    """Until nothing speaks; a remote engine knows it within a second."""
    async with asyncio.timeout(5):
        while engine.health().active_turns:
            await asyncio.sleep(0.02)


async def test_speed_and_loudness_are_those_of_the_turn(engine: SpeechEngine) -> None:
    plain, fast, soft = [
        np.frombuffer(pcm(await speak(engine, TEXT, seed=3, **options)), "<i2").astype(float)
        for options in ({}, {"speed": 1.5}, {"gain_db": -12.0})
    ]
    assert fast.size * 1.5 == pytest.approx(plain.size, rel=0.02)
    assert np.abs(soft).mean() == pytest.approx(np.abs(plain).mean() * 10 ** (-12 / 20), rel=0.02)
    with pytest.raises(InvalidOptions, match="speed"):
        SpeechOptions(speed=3.0)


async def test_a_character_cut_in_two_is_whole_again(engine: SpeechEngine) -> None:
    async with engine.open_turn() as turn:
        for piece in ("Hello \ud83d", "\ude00 there.", " \ud83d"):
            turn.push_text(piece)
        turn.end()
        words = [event.text for event in await read(turn) if isinstance(event, Word)]
    assert words == ["Hello", "😀", "there."]


async def test_events_come_in_order_and_end_once(engine: SpeechEngine) -> None:
    events = await speak(engine, TEXT, seed=3)
    *before, end = events
    assert isinstance(end, TurnEnd)
    assert end.reason == "done"
    assert not any(isinstance(event, TurnEnd) for event in before)
    position = 0
    last_audio = {e.utterance: i for i, e in enumerate(events) if isinstance(e, AudioChunk)}
    for index, event in enumerate(before):
        if isinstance(event, AudioChunk):
            assert event.position == position
            assert event.samples > 0
            position += event.samples
        elif isinstance(event, Word) and index < last_audio[event.utterance]:
            # Words that an utterance ended too early for come after its audio; time is counted in
            # 10 ms.
            assert event.start_s >= position / 24_000 - 0.02
    assert [event.text for event in before if isinstance(event, Word)] == TEXT.split()
    assert end.stats.audio_s == pytest.approx(position / 24_000)
    assert end.stats.tokens > 0
    assert end.stats.ttfa_s is not None
    assert end.stats.text_chars == len(TEXT)


async def test_the_prompts_tokens_are_counted(
    engine: SpeechEngine, crafted_files: ModelFiles
) -> None:
    prompt = Vocabulary.load(crafted_files.lm).prompt("leo", "Hello there.")
    end = (await speak(engine, "Hello there.", voice="leo"))[-1]
    assert isinstance(end, TurnEnd)
    # An utterance that is begun again reads its prompt again.
    assert end.stats.prompt_tokens == len(prompt) * (1 + end.stats.retries)


async def test_a_seed_repeats_its_audio(engine: SpeechEngine) -> None:
    """Up to the last bit: how pieces fall into batches changes the order of additions."""
    first, again = [
        np.frombuffer(pcm(await speak(engine, "Hello there, my friend.", seed=11)), "<i2").astype(
            int
        )
        for _ in range(2)
    ]
    assert len(first) == len(again) > 0
    assert np.abs(first - again).max() <= 3


async def test_turns_at_once_do_not_mix(engine: SpeechEngine) -> None:
    texts = ["One two three four.", "Alpha beta gamma delta.", "Red green blue."]
    alone = [pcm(await speak(engine, text, seed=n)) for n, text in enumerate(texts)]
    together = await asyncio.gather(*(speak(engine, text, seed=n) for n, text in enumerate(texts)))
    for text, events in zip(texts, together, strict=True):
        assert [event.text for event in events if isinstance(event, Word)] == text.split()
    assert [len(pcm(events)) for events in together] == [len(audio) for audio in alone]


async def test_deltas_are_joined_as_they_come(engine: SpeechEngine) -> None:
    async with engine.open_turn() as turn:
        for at in range(0, len(TEXT), 3):
            turn.push_text(TEXT[at : at + 3])
            await asyncio.sleep(0)
        turn.end()
        words = [event.text for event in await read(turn) if isinstance(event, Word)]
    assert words == TEXT.split()


async def test_flush_speaks_the_pushed_text_and_the_turn_continues(engine: SpeechEngine) -> None:
    async with engine.open_turn() as turn:
        turn.push_text("Hi")
        turn.flush()
        events = turn.__aiter__()
        async with asyncio.timeout(30):
            while not isinstance(await anext(events), AudioChunk):
                pass
        turn.push_text(" there.")
        turn.end()
        words = []
        async with asyncio.timeout(30):
            async for event in events:
                if isinstance(event, Word):
                    words.append(event.text)
        assert "there." in words


async def test_a_turn_without_text_has_no_audio(engine: SpeechEngine) -> None:
    for text in ("", "   "):
        events = await speak(engine, text)
        assert len(events) == 1
        assert isinstance(events[0], TurnEnd)
        assert events[0].reason == "done"


async def test_cancel_ends_the_iteration_and_frees_the_engine(engine: SpeechEngine) -> None:
    turn = engine.open_turn()
    turn.push_text(TEXT * 5)
    reading = asyncio.create_task(read(turn))
    await asyncio.sleep(0.3)
    async with asyncio.timeout(5):
        await turn.cancel()
        events = await reading
    assert isinstance(events[-1], TurnEnd)
    assert events[-1].reason == "cancelled"
    await turn.cancel()
    await settle(engine)
    with pytest.raises(TurnClosed):
        turn.push_text("more")


async def test_leaving_the_iterator_frees_the_engine(engine: SpeechEngine) -> None:
    async with engine.open_turn() as turn:
        turn.push_text(TEXT * 5)
        turn.end()
        async for event in turn:
            if isinstance(event, AudioChunk):
                break
    await settle(engine)
    assert (await speak(engine, "And on it goes."))[-1].reason == "done"  # type: ignore[union-attr]


async def test_an_unknown_voice_is_refused_at_once_and_case_does_not_matter(
    engine: SpeechEngine,
) -> None:
    assert engine.voices == ("tara", "leo")
    assert engine.check_voice(None) == "tara"
    assert engine.check_voice("LEO") == "leo"
    for call in (engine.check_voice, lambda voice: engine.open_turn(SpeechOptions(voice=voice))):
        with pytest.raises(UnknownVoice, match="tara, leo"):
            call("nobody")


async def test_too_much_text_is_refused_before_any_of_it_is_spoken(engine: SpeechEngine) -> None:
    async with engine.open_turn() as turn:
        with pytest.raises(TextTooLong):
            turn.push_text("x" * 6_145)
        turn.push_text("Short enough.")
        turn.end()
        assert (await read(turn))[-1].reason == "done"  # type: ignore[union-attr]


async def test_one_turn_too_many_is_refused_and_the_others_continue(engine: SpeechEngine) -> None:
    turns = [engine.open_turn() for _ in range(MAX_TURNS)]
    with pytest.raises(AtCapacity):  # at opening here, at reading from a server
        extra = engine.open_turn()
        extra.push_text("No room.")
        extra.end()
        await read(extra)
    for turn in turns:
        turn.push_text("There is room.")
        turn.end()
    for events in await asyncio.gather(*(read(turn) for turn in turns)):
        assert isinstance(events[-1], TurnEnd)
    await settle(engine)
    assert pcm(await speak(engine, "Room again."))


async def test_turns_in_line_speak_in_their_order_when_places_come_free(
    engine: SpeechEngine,
) -> None:
    speaking = [engine.open_turn() for _ in range(MAX_TURNS)]
    order: list[int] = []

    async def wait_and_speak(number: int, turn: Turn) -> None:
        turn.push_text("My turn has come.")
        turn.end()
        async for event in turn:
            if isinstance(event, AudioChunk) and number not in order:
                order.append(number)

    waiting = [engine.open_turn(max_wait_s=30) for _ in range(3)]
    tasks = [asyncio.create_task(wait_and_speak(n, turn)) for n, turn in enumerate(waiting)]
    async with asyncio.timeout(5):
        while engine.health().waiting != 3:
            await asyncio.sleep(0.02)
    assert not order
    async with asyncio.timeout(60):
        for number, turn in enumerate(speaking[:3]):
            await turn.cancel()
            while len(order) <= number:
                await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
    assert order == [0, 1, 2]
    await speaking[3].cancel()
    await settle(engine)
    assert engine.health().waiting == engine.load().waiting == 0


async def test_a_turn_that_waited_too_long_gets_at_capacity(engine: SpeechEngine) -> None:
    speaking = [engine.open_turn() for _ in range(MAX_TURNS)]
    began = asyncio.get_running_loop().time()
    late = engine.open_turn(max_wait_s=0.3)
    with pytest.raises(AtCapacity, match=r"0\.3 s"):
        await read(late)
    assert asyncio.get_running_loop().time() - began >= 0.29
    for turn in speaking:
        await turn.cancel()
    await settle(engine)
    assert pcm(await speak(engine, "Room again."))


async def test_a_cancelled_turn_leaves_the_line(engine: SpeechEngine) -> None:
    speaking = [engine.open_turn() for _ in range(MAX_TURNS)]
    first, second = engine.open_turn(max_wait_s=30), engine.open_turn(max_wait_s=30)
    second.push_text("Here I am.")
    second.end()
    await first.cancel()
    await speaking[0].cancel()
    assert pcm(await read(second))
    for turn in speaking[1:]:
        await turn.cancel()
    await settle(engine)
    assert engine.health().waiting == 0


@pytest.mark.parametrize("max_wait_s", [-1.0, float("nan"), 1e9, "long"])
async def test_an_impossible_wait_is_refused(engine: SpeechEngine, max_wait_s: float) -> None:
    with pytest.raises(InvalidOptions, match="max_wait_s"):
        engine.open_turn(max_wait_s=max_wait_s)


async def test_an_engine_lists_its_models_voices_languages_and_tags(engine: SpeechEngine) -> None:
    assert engine.languages == ("en",)
    assert engine.tags == ("laugh",)


async def test_any_event_loop_may_open_turns(engine: SpeechEngine) -> None:
    sizes: list[int] = []

    def elsewhere() -> None:
        sizes.append(len(pcm(asyncio.run(speak(engine, "From another loop.")))))

    threads = [threading.Thread(target=elsewhere) for _ in range(2)]
    for thread in threads:
        thread.start()
    here = await speak(engine, "From this loop.")
    for thread in threads:
        await asyncio.to_thread(thread.join, 30)
    assert pcm(here)
    assert len(sizes) == 2
    assert all(sizes)


async def test_health_counts_turns(engine: SpeechEngine) -> None:
    health = engine.health()
    assert health.ready
    assert health.model == "crafted"
    assert (health.active_turns, health.max_turns) == (0, MAX_TURNS)
    turn = engine.open_turn()
    async with asyncio.timeout(3):
        while engine.health().active_turns != 1:
            await asyncio.sleep(0.02)
    await turn.cancel()
    await settle(engine)


async def test_a_closed_engine_opens_no_turns(engine: SpeechEngine) -> None:
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(EngineDied):
        engine.open_turn()
