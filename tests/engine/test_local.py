"""The engine as its users see it: ordered audio, no resources left, errors that affect only their
own turn."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import pytest

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.delivery import Delivery
from orpheus_plugin.engine.local import RATES, LocalEngine, shared_engine
from orpheus_plugin.engine.scheduler import Scheduler
from orpheus_plugin.errors import (
    AtCapacity,
    BadCheckpoint,
    EngineDied,
    GenerationFailed,
    InvalidOptions,
    TextTooLong,
    UnknownVoice,
)
from orpheus_plugin.events import AudioChunk, TurnEnd, TurnEvent, Word
from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.text.amounts import amounts
from orpheus_plugin.text.cutter import UtteranceCutter
from orpheus_plugin.text.numerals import number_words
from orpheus_plugin.tokens.base import TokenChunk
from orpheus_plugin.tokens.torch.generator import TorchLlama
from orpheus_plugin.tokens.vocabulary import Vocabulary
from orpheus_plugin.turn import Turn
from tests.support.generators import Wrapper
from tests.support.ids import audio_id

TEXT = (
    "The quick brown fox jumps over the lazy dog."
    " It does so every single day, come rain or shine. Why is that?"
)


async def speak(engine: LocalEngine, text: str, **options: object) -> list[TurnEvent]:
    async with engine.open_turn(SpeechOptions(**options)) as turn:  # type: ignore[arg-type]
        turn.push_text(text)
        turn.end()
        return [event async for event in turn]


def pcm(events: Sequence[TurnEvent]) -> bytes:
    return b"".join(event.pcm for event in events if isinstance(event, AudioChunk))


def idle(engine: LocalEngine) -> bool:
    parts = engine._supervisor.parts
    assert parts is not None
    return not (
        parts.generator.running
        or parts.codec.active
        or engine._turns
        or engine.health().active_turns
    )


async def settle(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


# ---- speech


async def test_a_turn_is_gapless_audio_with_every_word_before_its_sound(
    crafted_engine: LocalEngine,
) -> None:
    events = await speak(crafted_engine, TEXT, seed=6)
    assert isinstance(events[-1], TurnEnd)
    assert events[-1].reason == "done"
    position = 0
    last_audio = {e.utterance: i for i, e in enumerate(events) if isinstance(e, AudioChunk)}
    for index, event in enumerate(events):
        if isinstance(event, AudioChunk):
            assert event.position == position
            position += event.samples
        elif isinstance(event, Word) and index < last_audio[event.utterance]:
            # Words that an utterance ended too early for come after its audio; time is counted in
            # 10 ms.
            assert event.start_s >= position / 24_000 - 0.02
    words = [event for event in events if isinstance(event, Word)]
    assert [word.text for word in words] == TEXT.split()
    assert all(a.start_s <= b.start_s for a, b in itertools.pairwise(words))
    assert words[-1].end_s <= position / 24_000 + 1e-6
    stats = events[-1].stats
    assert stats.audio_s == pytest.approx(position / 24_000)
    assert stats.utterances >= 2
    assert stats.tokens >= stats.utterances * 7
    assert stats.ttfa_s is not None
    assert idle(crafted_engine)


async def test_deltas_and_one_push_of_the_same_text_say_the_same_words(
    crafted_engine: LocalEngine,
) -> None:
    async with crafted_engine.open_turn() as turn:
        for at in range(0, len(TEXT), 3):
            turn.push_text(TEXT[at : at + 3])
            await asyncio.sleep(0)
        turn.end()
        words = [event.text async for event in turn if isinstance(event, Word)]
    assert words == TEXT.split()


async def test_the_same_seed_speaks_the_same_samples(crafted_engine: LocalEngine) -> None:
    first = await speak(crafted_engine, "Hello there, my friend.", seed=11)
    again = await speak(crafted_engine, "Hello there, my friend.", seed=11)
    other = await speak(crafted_engine, "Hello there, my friend.", seed=12)
    assert pcm(first) == pcm(again) != pcm(other)


async def test_untrimmed_audio_is_whole_frames(crafted_engine: LocalEngine) -> None:
    events = await speak(crafted_engine, "Hi!", seed=1, trim_leading_silence=False)
    tokens = events[-1].stats.tokens  # type: ignore[union-attr]
    assert len(pcm(events)) // 2 == tokens // 7 * 2048


async def test_flush_speaks_the_pushed_text_and_the_turn_continues(
    crafted_engine: LocalEngine,
) -> None:
    async with crafted_engine.open_turn(SpeechOptions(seed=5)) as turn:
        turn.push_text("Hi")
        turn.flush()
        events = turn.__aiter__()
        async with asyncio.timeout(10):
            first = await anext(events)
            while not isinstance(first, AudioChunk):
                first = await anext(events)
        turn.push_text("And more.")
        turn.end()
        words = [event.text async for event in events if isinstance(event, Word)]
    assert words == ["And", "more."]


async def test_waiting_for_text_is_not_counted_as_work_and_begins_a_new_stretch(
    crafted_engine: LocalEngine,
) -> None:
    async with crafted_engine.open_turn(SpeechOptions(seed=1)) as turn:
        turn.push_text("Hello there.")
        turn.flush()
        events = turn.__aiter__()
        while not isinstance(await anext(events), AudioChunk):
            pass
        (scheduler,) = crafted_engine._turns.values()
        meter = scheduler.meter
        async with asyncio.timeout(20):
            while scheduler.generating or meter.clock.ahead_s > 0:
                await asyncio.sleep(0.01)
        first_s, busy_s = meter.stats.audio_s, meter.busy_s
        assert meter.stretch_s == first_s
        await asyncio.sleep(0.1)
        assert meter.busy_s == busy_s
        turn.push_text("And so on.")
        turn.end()
        async for _ in events:
            pass
    assert meter.stretch_s == pytest.approx(meter.stats.audio_s - first_s)
    assert meter.busy_s > busy_s
    assert crafted_engine._ended.audio_s == meter.stats.audio_s


async def test_turns_of_several_event_loops_share_the_engine(crafted_engine: LocalEngine) -> None:
    results: list[int] = []

    def caller(seed: int) -> None:
        events = asyncio.run(speak(crafted_engine, "One engine for all.", seed=seed))
        results.append(len(pcm(events)))

    threads = [threading.Thread(target=caller, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert len(results) == 4
    assert all(results)


# ---- cancelling


async def test_cancel_frees_the_engine_within_a_step(crafted_engine: LocalEngine) -> None:
    turn = crafted_engine.open_turn()
    turn.push_text(TEXT * 4)
    turn.end()
    async for event in turn:
        if isinstance(event, AudioChunk):
            break
    await turn.cancel()
    assert not crafted_engine._turns
    await settle(lambda: idle(crafted_engine), 1.0)  # the generator's step in flight


async def test_two_hundred_cancels_at_random_moments_leave_nothing_in_the_engine(
    crafted_engine: LocalEngine,
) -> None:
    rng = random.Random(7)
    await speak(crafted_engine, "Hi.")
    await settle(lambda: idle(crafted_engine))
    loop = crafted_engine._supervisor._loop
    assert loop is not None
    tasks, threads = asyncio.all_tasks(loop), set(threading.enumerate())

    async def read(turn: Turn) -> None:
        async for _ in turn:
            await asyncio.sleep(0)

    async def one(delay: float, style: int) -> None:
        turn = crafted_engine.open_turn()
        turn.push_text(TEXT)
        if rng.random() < 0.5:
            turn.end()
        if style == 0:
            await asyncio.sleep(delay)
            await turn.cancel()
        elif style == 1:  # the reader's task is cancelled
            reading = asyncio.create_task(read(turn))
            await asyncio.sleep(delay)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        else:  # the reader leaves
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay + 0.001):
                    await read(turn)

    for _ in range(25):
        await asyncio.gather(*(one(rng.random() * 0.15, rng.randrange(3)) for _ in range(8)))
        await settle(lambda: crafted_engine.health().active_turns == 0)
    await settle(lambda: idle(crafted_engine) and asyncio.all_tasks(loop) == tasks)
    new = {thread.name for thread in set(threading.enumerate()) - threads}
    assert not any(name.startswith("orpheus") for name in new)
    assert pcm(await speak(crafted_engine, "Still here."))


async def test_a_caller_whose_loop_is_gone_frees_the_engine(crafted_engine: LocalEngine) -> None:
    async def abandon() -> Scheduler:
        turn = crafted_engine.open_turn()
        turn.push_text(20 * TEXT)
        turn.end()
        await settle(lambda: turn.id in crafted_engine._turns)
        return crafted_engine._turns[turn.id]

    scheduler = await asyncio.to_thread(asyncio.run, abandon())
    await settle(lambda: idle(crafted_engine), 20)
    assert scheduler.queued, "it was all spoken, to nobody"


# ---- limits and bad input


async def test_a_turn_beyond_capacity_is_refused_at_once(crafted_engine: LocalEngine) -> None:
    turns = [crafted_engine.open_turn() for _ in range(8)]
    with pytest.raises(AtCapacity, match="8 turns"):
        crafted_engine.open_turn()
    await turns[0].cancel()
    await crafted_engine.open_turn().cancel()
    for turn in turns:
        await turn.cancel()
    assert idle(crafted_engine)


async def test_an_unknown_voice_is_refused_where_the_turn_is_opened(
    crafted_engine: LocalEngine,
) -> None:
    with pytest.raises(UnknownVoice, match="tara, leo"):
        crafted_engine.open_turn(SpeechOptions(voice="nobody"))
    assert crafted_engine.voices == ("tara", "leo")
    assert idle(crafted_engine)


@pytest.mark.parametrize("text", ["", " \n\t ", "😀🎉", "...", "\0\0", "**", "<nosuchtag>"])
async def test_text_with_nothing_to_speak_is_a_clean_empty_turn(
    crafted_engine: LocalEngine, text: str
) -> None:
    events = await speak(crafted_engine, text)
    assert not pcm(events)
    assert isinstance(events[-1], TurnEnd)
    assert events[-1].reason == "done"


@pytest.mark.parametrize("text", ["Hi\0 there.", "x" * 2000, "<laugh>", "日本語", "\ud800 ok"])
async def test_odd_text_is_spoken_and_others_are_unharmed(
    crafted_engine: LocalEngine, text: str
) -> None:
    odd, plain = await asyncio.gather(
        speak(crafted_engine, text), speak(crafted_engine, "Good morning.")
    )
    assert pcm(odd)
    assert pcm(plain)


async def test_bad_input_does_not_affect_other_turns(crafted_engine: LocalEngine) -> None:
    speaking = asyncio.create_task(speak(crafted_engine, TEXT * 2, seed=3))
    with pytest.raises(UnknownVoice):
        crafted_engine.open_turn(SpeechOptions(voice="nobody"))
    async with crafted_engine.open_turn() as turn:
        with pytest.raises(TextTooLong):
            turn.push_text("x" * 6_145)
    for text in ("", "😀🎉", "\0\0", "x" * 2000):
        assert isinstance((await speak(crafted_engine, text))[-1], TurnEnd)
    events = await speaking
    assert [e.text for e in events if isinstance(e, Word)] == (TEXT * 2).split()
    await settle(lambda: idle(crafted_engine))


# ---- when things go wrong


class Wrapped(Wrapper[TorchLlama]):
    """A real generator whose requests can be tampered with."""

    def __init__(self, files: ModelFiles, vocabulary: Vocabulary) -> None:
        super().__init__(TorchLlama(files.lm, vocabulary, max_streams=16, device="cpu"))
        self.vocabulary = vocabulary
        self.dead = False
        self.loops: list[int] = []  # indices of requests that loop
        self.requests = 0
        self.most = 0

    async def start(self) -> None:
        self.dead = False
        await super().start()

    async def passed(
        self, request_id: str, chunks: AsyncIterator[TokenChunk]
    ) -> AsyncIterator[TokenChunk]:
        index = self.requests
        self.requests += 1
        if index in self.loops:
            frame = [audio_id(self.vocabulary, slot, 0) for slot in range(7)]
            while True:
                await asyncio.sleep(0)
                yield TokenChunk(frame)
        async for chunk in chunks:
            self.most = max(self.most, self.inner.running)
            if self.dead:
                raise EngineDied("killed by the test")
            yield chunk


@pytest.fixture
async def wrapped(crafted_files: ModelFiles) -> AsyncIterator[tuple[LocalEngine, Wrapped]]:
    made: list[Wrapped] = []

    def make(files: ModelFiles, vocabulary: Vocabulary) -> Wrapped:
        made.append(Wrapped(files, vocabulary))
        return made[-1]

    engine = LocalEngine(EngineConfig(device="cpu"), files=crafted_files, generator=make)
    await engine.start()
    try:
        yield engine, made[0]
    finally:
        await engine.aclose()


async def test_an_engine_that_is_ready_has_loaded_the_numbers_of_its_language(
    crafted_files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    number_words.cache_clear()
    amounts.cache_clear()
    monkeypatch.delitem(sys.modules, "num2words", raising=False)
    engine = LocalEngine(EngineConfig(device="cpu", measure=False), files=crafted_files)
    await engine.start()
    await engine.aclose()
    assert "num2words" in sys.modules  # it takes a quarter of a second to import
    assert amounts.cache_info().currsize  # a hundredth


@pytest.mark.parametrize(
    ("owner", "work"),
    [(UtteranceCutter, "take"), (Delivery, "push")],
    ids=["cutting", "delivering"],
)
async def test_the_loop_runs_between_two_pieces_of_work_for_a_turn(
    crafted_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, owner: type, work: str
) -> None:
    do = getattr(owner, work)
    passes = 0  # of the engine's loop
    during: list[int] = []

    def count() -> None:
        nonlocal passes
        passes += 1
        asyncio.get_running_loop().call_soon(count)

    def counted(self: object, *args: object) -> object:
        if not passes:
            count()
        if result := do(self, *args):
            during.append(passes)
        return result

    monkeypatch.setattr(owner, work, counted)
    await speak(crafted_engine, "Yes, it is so. " * 40)
    assert len(during) > 5
    assert len(set(during)) == len(during)


async def test_a_dead_generator_fails_its_turns_and_the_next_turn_speaks(
    wrapped: tuple[LocalEngine, Wrapped],
) -> None:
    engine, generator = wrapped
    turn = engine.open_turn()
    turn.push_text(TEXT)
    turn.end()
    with pytest.raises(EngineDied, match="killed by the test"):
        async for event in turn:
            if isinstance(event, AudioChunk):
                generator.dead = True
    events = await speak(engine, "Back again.")
    assert pcm(events)
    assert engine.health().restarts == 1
    assert engine.health().ready


async def test_a_generator_that_died_while_idle_costs_one_turn(
    wrapped: tuple[LocalEngine, Wrapped],
) -> None:
    engine, generator = wrapped
    await asyncio.wrap_future(
        asyncio.run_coroutine_threadsafe(generator.inner.aclose(), engine._supervisor._loop)  # type: ignore[arg-type]
    )
    async with asyncio.timeout(10):
        with pytest.raises(EngineDied):
            await speak(engine, "Is anyone there?")
        assert pcm(await speak(engine, "Here I am."))


async def test_a_restart_that_fails_is_tried_again_by_the_next_turn(
    crafted_files: ModelFiles,
) -> None:
    made: list[Wrapped] = []

    class Unlucky(Wrapped):
        async def start(self) -> None:
            if len(made) == 2:
                raise EngineDied("the memory was not free yet")
            await super().start()

    def make(files: ModelFiles, vocabulary: Vocabulary) -> Wrapped:
        made.append(Unlucky(files, vocabulary))
        return made[-1]

    engine = LocalEngine(EngineConfig(device="cpu"), files=crafted_files, generator=make)
    await engine.start()
    made[0].dead = True
    with pytest.raises(EngineDied, match="killed"):
        await speak(engine, "Hello.")
    await settle(lambda: engine.health().error is not None)
    assert not engine.health().ready
    with pytest.raises(EngineDied, match="not free yet"):
        engine.open_turn()
    await settle(lambda: engine.health().ready)
    assert engine.health().error is None
    assert pcm(await speak(engine, "Hello again."))
    await engine.aclose()


async def test_a_turn_generates_at_most_two_utterances_at_once(
    wrapped: tuple[LocalEngine, Wrapped],
) -> None:
    engine, generator = wrapped
    generator.most = 0
    events = await speak(engine, TEXT * 6)
    assert events[-1].stats.utterances > 5  # type: ignore[union-attr]
    assert generator.most <= 2


async def test_a_loop_before_the_first_audio_is_generated_again(
    wrapped: tuple[LocalEngine, Wrapped], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, generator = wrapped
    # With trimming on, nothing of this near-silent loop is heard: a second attempt is not noticed.
    monkeypatch.setattr("orpheus_plugin.engine.trim.ONSET_RMS", 10.0)
    generator.loops = [generator.requests]

    async def restore() -> None:
        await settle(lambda: generator.requests > generator.loops[0] + 1, 20)
        monkeypatch.undo()

    restoring = asyncio.create_task(restore())
    events = await speak(engine, "Hello there, my friend.")
    await restoring
    assert events[-1].stats.retries == 1  # type: ignore[union-attr]
    assert pcm(events)
    assert idle(engine)


async def test_a_loop_after_the_first_audio_is_cut_short_and_the_turn_continues(
    wrapped: tuple[LocalEngine, Wrapped],
) -> None:
    engine, generator = wrapped
    generator.loops = [generator.requests]
    events = await speak(engine, "One two three four five. " * 12, seed=1)
    stats = events[-1].stats  # type: ignore[union-attr]
    assert stats.cut_short == 1
    assert stats.utterances >= 2
    utterances = {event.utterance for event in events if isinstance(event, AudioChunk)}
    assert utterances == set(range(stats.utterances))


async def test_a_turn_without_audible_speech_reports_it(
    wrapped: tuple[LocalEngine, Wrapped], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = wrapped
    monkeypatch.setattr("orpheus_plugin.engine.trim.ONSET_RMS", 10.0)
    with pytest.raises(GenerationFailed, match="no usable speech"):
        await speak(engine, "Hello there.")
    assert idle(engine)


async def test_a_corrupt_checkpoint_or_codec_is_one_clear_error(
    crafted_files: ModelFiles, tmp_path: object
) -> None:
    from pathlib import Path
    from shutil import copytree

    assert isinstance(tmp_path, Path)
    for broken in ("lm", "codec"):
        folder = tmp_path / broken
        copytree(getattr(crafted_files, broken), folder)
        (folder / "model.safetensors").write_bytes(b"not a tensor in sight")
        files = ModelFiles(
            crafted_files.spec,
            folder if broken == "lm" else crafted_files.lm,
            folder if broken == "codec" else crafted_files.codec,
        )
        engine = LocalEngine(EngineConfig(device="cpu"), files=files)
        with pytest.raises(BadCheckpoint, match=broken):
            await engine.start()
        await engine.aclose()


async def test_turns_need_a_running_engine(crafted_files: ModelFiles) -> None:
    engine = LocalEngine(EngineConfig(device="cpu"), files=crafted_files)
    with pytest.raises(EngineDied, match="start"):
        engine.open_turn()
    await engine.start()
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(EngineDied):
        engine.open_turn()


async def test_closing_an_engine_while_it_starts_leaves_nothing_running(
    crafted_files: ModelFiles,
) -> None:
    before = set(threading.enumerate())
    for delay in (0.0, 0.05, 0.2, 0.4):
        engine = LocalEngine(EngineConfig(device="cpu"), files=crafted_files)
        starting = asyncio.create_task(engine.start())
        await asyncio.sleep(delay)
        async with asyncio.timeout(10):
            await engine.aclose()
            with contextlib.suppress(EngineDied):
                await starting
        with pytest.raises(EngineDied):
            engine.open_turn()
    names = {thread.name for thread in set(threading.enumerate()) - before}
    assert not names & {"orpheus-engine", "orpheus-codec", "orpheus-tokens"}
    await engine.start()
    assert pcm(await speak(engine, "Once more."))
    await engine.aclose()


async def test_made_up_voice_names_do_not_fill_memory(
    crafted_files: ModelFiles,
) -> None:
    files = replace(crafted_files, spec=replace(crafted_files.spec, voices=()))
    engine = LocalEngine(EngineConfig(device="cpu", max_turns=1), files=files)
    await engine.start()
    kept = engine._rate("somebody")
    for number in range(2 * RATES):
        await engine.open_turn(SpeechOptions(voice=f"voice {number}")).cancel()
        assert engine._rate("somebody") is kept
    assert len(engine._rates) == RATES
    await engine.aclose()


async def test_closing_the_engine_ends_its_turns(crafted_files: ModelFiles) -> None:
    engine = LocalEngine(EngineConfig(device="cpu"), files=crafted_files)
    await engine.start()
    turn = engine.open_turn()
    turn.push_text(TEXT)
    await engine.aclose()
    with pytest.raises(EngineDied):
        async with asyncio.timeout(5):
            async for _ in turn:
                pass


def test_configurations_are_checked() -> None:
    with pytest.raises(InvalidOptions, match="max_turns"):
        EngineConfig(max_turns=0)


def test_importing_the_package_loads_no_torch_and_no_framework() -> None:
    script = (
        "import sys, orpheus_plugin, orpheus_plugin.engine.local, orpheus_plugin.cli.main\n"
        "heavy = {'torch', 'vllm', 'transformers', 'pipecat', 'livekit', 'snac'} &"
        " set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_speaking_on_a_cpu_loads_neither_torch_nor_transformers() -> None:
    script = (
        "import asyncio, sys\n"
        "from orpheus_plugin.engine.config import EngineConfig\n"
        "from orpheus_plugin.engine.local import LocalEngine\n"
        "async def main():\n"
        "    engine = LocalEngine(EngineConfig(model='mini', device='auto'))\n"
        "    await engine.start()\n"
        "    turn = engine.open_turn()\n"
        "    turn.push_text('Hello there.')\n"
        "    turn.end()\n"
        "    kinds = [type(event).__name__ async for event in turn]\n"
        "    assert kinds.count('AudioChunk') > 3 and kinds[-1] == 'TurnEnd', kinds\n"
        "    await engine.aclose()\n"
        "asyncio.run(main())\n"
        "heavy = {'torch', 'transformers', 'vllm', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.usefixtures("crafted_files")
async def test_equal_configurations_share_one_engine(crafted_files: ModelFiles) -> None:
    config = EngineConfig(model=str(crafted_files.lm), codec=crafted_files.codec, device="cpu")
    same = EngineConfig(model=str(crafted_files.lm), codec=crafted_files.codec, device="cpu")
    assert shared_engine(config) is shared_engine(same)
    engine = shared_engine(config)
    await asyncio.gather(*(engine.start() for _ in range(3)))
    await engine.aclose()
    assert shared_engine(config) is not engine
