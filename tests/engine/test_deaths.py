"""Parts of an engine die at any moment: every turn that uses them gets an error within a second,
and the next turn speaks."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import threading
import weakref
from collections.abc import AsyncIterator

import pytest

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.errors import ConnectionFailed, EngineDied
from orpheus_plugin.events import AudioChunk, TurnEnd, TurnEvent
from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.tokens.base import TokenChunk
from orpheus_plugin.tokens.cpu.generator import CpuLlama
from orpheus_plugin.tokens.vocabulary import Vocabulary
from orpheus_plugin.turn import Turn
from orpheus_plugin.worker_thread import WorkerThread
from tests.support.deaths import TEXT, interrupt, kill, listen, speak
from tests.support.generators import Wrapper, started
from tests.support.ids import audio_id
from tests.support.token_servers import openai_server


@pytest.fixture
async def engine(crafted_files: ModelFiles) -> LocalEngine:
    # Without a limit on how far it is ahead, a turn has something in the engine until its end.
    return LocalEngine(EngineConfig(device="cpu", max_turns=4, ahead_s=None), files=crafted_files)


@pytest.mark.parametrize("thread", ["orpheus-tokens", "orpheus-codec"])
@pytest.mark.parametrize("error", [RuntimeError, MemoryError, SystemExit, GeneratorExit])
async def test_any_death_of_a_thread_is_reported_and_the_engine_recovers(
    engine: LocalEngine, thread: str, error: type[BaseException]
) -> None:
    chance = random.Random(f"{thread} {error.__name__}")
    await engine.start()
    try:
        turns = [asyncio.create_task(listen(engine)) for _ in range(3)]
        await asyncio.sleep(chance.uniform(0.0, 0.15))
        kill(engine, thread, error)
        async with asyncio.timeout(20):
            # A sleeping thread gets the error when it has work again.
            while not engine.health().restarts:
                if all(turn.done() for turn in turns):
                    turns.append(asyncio.create_task(listen(engine)))
                await asyncio.sleep(0.01)
            ended = await asyncio.gather(*turns)
            assert await speak(engine) >= 2048
        # Those that had nothing in the engine yet were spoken by the next one.
        assert "died" in ended
        assert set(ended) <= {"died", "done"}
        assert engine.health().ready
        assert engine.health().active_turns == 0
    finally:
        await engine.aclose()


async def test_an_engine_that_loaded_slowly_is_ready_at_once(
    crafted_files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus_plugin.engine.supervisor.WATCH_S", 60.0)
    engine = LocalEngine(
        EngineConfig(device="cpu", max_turns=2, measure=False), files=crafted_files
    )
    engine._supervisor._beat -= 60.0  # as if it had been made so long ago
    await engine.start()
    try:
        assert engine.health().ready
    finally:
        await engine.aclose()


@pytest.mark.parametrize("thread", ["orpheus-tokens", "orpheus-codec"])
async def test_parts_that_died_are_freed(engine: LocalEngine, thread: str) -> None:
    """Otherwise each death would leave a model in memory."""
    # pytest keeps log records, and with them tracebacks and their frames.
    logging.disable(logging.CRITICAL)
    await engine.start()
    try:
        parts = engine._supervisor.parts
        assert parts is not None
        old = weakref.ref(parts.generator), weakref.ref(parts.codec)
        del parts
        turns = [asyncio.create_task(listen(engine)) for _ in range(2)]
        await asyncio.sleep(0.1)
        kill(engine, thread, RuntimeError)
        async with asyncio.timeout(20):
            while not engine.health().restarts:
                await asyncio.sleep(0.01)
            await asyncio.gather(*turns)
            assert await speak(engine) >= 2048
        gc.collect()
        assert [part() for part in old] == [None, None]
    finally:
        logging.disable(logging.NOTSET)
        await engine.aclose()


async def test_a_thread_that_returns_by_itself_is_a_death(engine: LocalEngine) -> None:
    await engine.start()
    try:
        parts = engine._supervisor.parts
        assert parts is not None
        turn = asyncio.create_task(listen(engine))
        await asyncio.sleep(0.05)
        with parts.codec.changed:
            parts.codec._stop = True  # as if it had been asked to: it reports no error
            parts.codec.changed.notify_all()
        how = await asyncio.wait_for(turn, 10)
        assert how == "died"
        assert await speak(engine) >= 2048
    finally:
        await engine.aclose()


async def test_a_step_that_never_ends_is_a_death(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.start()
    try:
        parts = engine._supervisor.parts
        assert parts is not None
        monkeypatch.setattr("orpheus_plugin.worker_thread.STEP_LIMIT_S", 0.5)
        monkeypatch.setattr("orpheus_plugin.worker_thread.JOIN_S", 0.1)
        go_on = threading.Event()
        deliver = parts.codec._deliver
        monkeypatch.setattr(
            parts.codec, "_deliver", lambda *begun: (go_on.wait(30), deliver(*begun))
        )
        turn = asyncio.create_task(listen(engine))
        async with asyncio.timeout(10):
            while parts.codec.failure is None:
                await asyncio.sleep(0.01)
            assert not engine.health().ready
            how = await turn
            assert how == "died"
            monkeypatch.setattr("orpheus_plugin.worker_thread.STEP_LIMIT_S", 10.0)
            assert await speak(engine) >= 2048
        go_on.set()
    finally:
        await engine.aclose()


async def test_the_engines_loop_continues_after_an_interruption(engine: LocalEngine) -> None:
    await engine.start()
    try:
        turn = asyncio.create_task(listen(engine))
        await asyncio.sleep(0.05)

        interrupt(engine, SystemExit)
        how = await asyncio.wait_for(turn, 10)
        assert how == "died"
        assert await speak(engine) >= 2048
    finally:
        await engine.aclose()


async def test_a_turn_that_uses_no_parts_continues_after_a_death(engine: LocalEngine) -> None:
    await engine.start()
    try:
        async with engine.open_turn() as waiting:
            turn = asyncio.create_task(listen(engine))
            await asyncio.sleep(0.05)
            kill(engine, "orpheus-codec", RuntimeError)
            assert await turn == "died"
            waiting.push_text("I had nothing in it.")
            waiting.end()
            events = [event async for event in waiting]
        assert isinstance(events[-1], TurnEnd)
    finally:
        await engine.aclose()


class Pausing(Wrapper[CpuLlama]):
    """While `go_on` is not set, answers begin with four frames of their own and wait."""

    def __init__(self, inner: CpuLlama, vocabulary: Vocabulary) -> None:
        super().__init__(inner)
        self.go_on = asyncio.Event()
        self._frames = [audio_id(vocabulary, s, 100 * n) for n in range(4) for s in range(7)]

    async def passed(
        self, request_id: str, chunks: AsyncIterator[TokenChunk]
    ) -> AsyncIterator[TokenChunk]:
        if not self.go_on.is_set():
            yield TokenChunk(self._frames)
            await self.go_on.wait()
        async for chunk in chunks:
            yield chunk


async def test_a_turn_that_loses_its_token_server_is_told_while_others_speak_on(
    crafted_files: ModelFiles,
) -> None:
    vocabulary = Vocabulary.load(crafted_files.lm)
    model = CpuLlama(crafted_files.lm, vocabulary, max_streams=4)
    tokens = Pausing(model, vocabulary)
    connections: set[asyncio.BaseTransport] = set()

    async def heard(turn: Turn) -> AsyncIterator[TurnEvent]:
        """The events after the first sound."""
        turn.push_text("The quick brown fox jumps over the lazy dog, come rain or shine.")
        turn.end()
        events = aiter(turn)
        while not isinstance(await anext(events), AudioChunk):
            pass
        return events

    async with started(model), openai_server(tokens, vocabulary.end_of_speech, connections) as url:
        config = EngineConfig(device="cpu", generator="completions", urls=(url,), max_turns=2)
        engine = LocalEngine(config, files=crafted_files)
        tokens.go_on.set()
        await engine.start()
        tokens.go_on.clear()
        try:
            async with asyncio.timeout(20), engine.open_turn() as lost, engine.open_turn() as kept:
                rest_of_lost = await heard(lost)
                (connection,) = connections
                rest_of_kept = await heard(kept)
                assert isinstance(connection, asyncio.Transport)
                connection.abort()
                with pytest.raises(ConnectionFailed):
                    async for _ in rest_of_lost:
                        pass
                assert engine.health().active_turns == 1  # the other one, in mid-answer
                tokens.go_on.set()
                events = [event async for event in rest_of_kept]
                assert isinstance(events[-1], TurnEnd)
                assert events[-1].reason == "done"
                assert engine.health().restarts == 0
        finally:
            await engine.aclose()


async def test_a_turn_without_references_is_ended_and_counted(crafted_engine: LocalEngine) -> None:
    crafted_engine.open_turn().push_text(TEXT)
    gc.collect()
    async with asyncio.timeout(5):
        while crafted_engine.health().active_turns or not crafted_engine.load().orphaned:
            await asyncio.sleep(0.01)
    assert crafted_engine.load().orphaned == 1


async def test_a_turn_that_was_cancelled_and_dropped_at_once_counts_as_cancelled(
    crafted_engine: LocalEngine, caplog: pytest.LogCaptureFixture
) -> None:
    turn = crafted_engine.open_turn()
    turn.push_text(TEXT)
    busy = threading.Event()
    with crafted_engine._supervisor.running() as loop:
        loop.call_soon_threadsafe(busy.wait)
    turn.abandon()  # the engine gets both at once
    del turn
    gc.collect()
    busy.set()
    async with asyncio.timeout(5):
        while crafted_engine.health().active_turns:
            await asyncio.sleep(0.01)
    assert crafted_engine.load().orphaned == 0
    assert "its caller has dropped it" not in caplog.text


async def test_a_turn_whose_loop_is_closed_is_ended_despite_references_to_it(
    crafted_engine: LocalEngine,
) -> None:
    async def open_one() -> object:
        return crafted_engine.open_turn()

    kept = await asyncio.to_thread(asyncio.run, open_one())
    async with asyncio.timeout(5):
        while crafted_engine.health().active_turns:
            await asyncio.sleep(0.01)
    assert crafted_engine.load().orphaned == 1
    assert kept is not None


def test_a_worker_reports_whether_it_runs_or_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[EngineDied] = []
    stop, stuck, in_step = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        with worker:
            in_step.set()
            stuck.wait(10)
        stop.wait(10)
        raise KeyboardInterrupt

    worker = WorkerThread("orpheus-test", "the test", work, stop=stop.set, died=told.append)
    assert worker.failure is None
    worker.start()
    in_step.wait(5)
    assert worker.failure is None
    monkeypatch.setattr("orpheus_plugin.worker_thread.STEP_LIMIT_S", -1.0)
    assert "hangs" in str(worker.failure)
    stuck.set()
    stop.set()
    worker.join()
    assert "KeyboardInterrupt" in str(worker.failure)
    assert told == [worker.failure]
