"""One client of several servers: which one speaks a turn, and which one continues it if that is
full or gone."""
# ruff: noqa: ASYNC220 - a test may wait for a process

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable
from pathlib import Path

import pytest

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.errors import (
    AtCapacity,
    ConnectionFailed,
    EngineDied,
    InvalidOptions,
    Unauthorized,
)
from orpheus_plugin.events import AudioChunk, TurnEnd, TurnEvent, Word
from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.remote.engine import RemoteEngine
from orpheus_plugin.remote.resolve import resolve
from orpheus_plugin.speech_engine import EngineLoad, SpeechEngine
from orpheus_plugin.turn import Turn
from tests.support.deaths import fail_at_next_step
from tests.support.servers import RunningTestServer, serving

TEXT = "The quick brown fox jumps over the lazy dog. And so on it goes."
NOBODY = "http://127.0.0.1:9"


@contextlib.asynccontextmanager
async def one_server(files: ModelFiles, places: int) -> AsyncIterator[RunningTestServer]:
    engine = LocalEngine(EngineConfig(device="cpu", max_turns=places), files=files)
    async with serving(engine) as server:
        yield server


@pytest.fixture
async def two(
    crafted_files: ModelFiles,
) -> AsyncIterator[tuple[RunningTestServer, RunningTestServer]]:
    """Of two places and of one."""
    async with one_server(crafted_files, 2) as larger, one_server(crafted_files, 1) as smaller:
        yield larger, smaller


@contextlib.asynccontextmanager
async def client(*urls: str, **options: float) -> AsyncIterator[RemoteEngine]:
    """Connected to each of them that there is."""
    engine = RemoteEngine(", ".join(urls), **options)  # type: ignore[arg-type]
    try:
        await engine.start()
        there = [url for url in urls if url != NOBODY]
        await until(lambda: len(engine._live()) == len(there))
        yield engine
    finally:
        await engine.aclose()


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def rest_of(turn: AsyncIterable[TurnEvent]) -> tuple[list[str], float]:
    """The words and the seconds of audio that are still to come."""
    words, samples = [], 0
    async with asyncio.timeout(30):
        async for event in turn:
            if isinstance(event, Word):
                words.append(event.text)
            elif isinstance(event, AudioChunk):
                samples += event.samples
            elif isinstance(event, TurnEnd):
                assert event.reason == "done"
    return words, samples / 24_000


def begin(engine: SpeechEngine, text: str = TEXT, *, max_wait_s: float = 0.0) -> Turn:
    turn = engine.open_turn(max_wait_s=max_wait_s)
    turn.push_text(text)
    turn.end()
    return turn


async def hold(engine: SpeechEngine, places: int) -> list[Turn]:
    """Turns that say nothing yet."""
    turns = [engine.open_turn() for _ in range(places)]
    for turn in turns:
        turn.push_text("And")
    return turns


def test_the_load_of_several_servers_is_added_up() -> None:
    one = EngineLoad(generating=1, margin_s=2.0, prebuffer_s=0.1, codec_steps=5, cached_s=0.5)
    two = EngineLoad(generating=2, prebuffer_s=0.3, codec_steps=6, cache_bytes=7)
    assert EngineLoad.of_all([one, two]) == EngineLoad(
        generating=3,
        margin_s=2.0,
        prebuffer_s=0.3,
        codec_steps=11,
        cached_s=0.5,
        cache_bytes=7,
    )
    assert EngineLoad.of_all([]) == EngineLoad()


async def test_turns_go_to_the_server_with_the_most_free_places(
    two: tuple[RunningTestServer, RunningTestServer],
) -> None:
    larger, smaller = two
    async with client(larger.url, smaller.url) as engine:
        health = engine.health()
        assert (health.ready, health.max_turns) == (True, 3)
        turns = await hold(engine, 1)
        await until(lambda: larger.service.active_turns == 1)
        turns += await hold(engine, 2)
        await until(lambda: (larger.service.active_turns, smaller.service.active_turns) == (2, 1))
        await until(lambda: engine.health().active_turns == 3)
        for turn in turns:
            turn.end()
            assert (await rest_of(turn))[0] == ["And"]


async def test_a_turn_goes_to_the_next_server_if_one_is_full(
    two: tuple[RunningTestServer, RunningTestServer],
) -> None:
    larger, smaller = two
    async with client(larger.url, smaller.url) as engine, client(larger.url) as other:
        taken = await hold(other, 2)
        await until(lambda: larger.service.active_turns == 2)
        # Its client does not know of them yet, so it begins with the larger one.
        words, seconds = await rest_of(begin(engine))
        assert words == TEXT.split()
        assert seconds > 0.5
        for turn in taken:
            await turn.cancel()


async def test_if_all_are_full_a_turn_waits_up_to_its_limit(
    two: tuple[RunningTestServer, RunningTestServer],
) -> None:
    larger, smaller = two
    async with client(larger.url, smaller.url) as engine, client(larger.url) as other:
        taken = await hold(other, 2)
        await until(lambda: larger.service.active_turns == 2)
        taken += await hold(engine, 1)
        await until(lambda: smaller.service.active_turns == 1 and engine.health().active_turns == 3)
        with pytest.raises(AtCapacity):
            await rest_of(begin(engine))
        waiting = asyncio.create_task(rest_of(begin(engine, max_wait_s=20)))
        await until(lambda: engine.health().waiting == 1)
        for turn in taken:
            await turn.cancel()
        assert (await waiting)[0] == TEXT.split()


async def test_one_reachable_address_is_enough(
    two: tuple[RunningTestServer, RunningTestServer],
) -> None:
    async with client(NOBODY, two[0].url) as engine:
        assert (await rest_of(begin(engine)))[0] == TEXT.split()


async def test_all_unreachable_servers_are_named() -> None:
    engine = RemoteEngine(f"{NOBODY} 127.0.0.1:19", connect_timeout_s=2)
    with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:9.*127\.0\.0\.1:19") as told:
        await engine.start()
    assert told.value.never_reached
    with pytest.raises(ConnectionFailed, match="127"):
        await rest_of(begin(engine))
    await engine.aclose()


async def test_a_server_that_refuses_the_key_does_not_affect_the_other_one(
    two: tuple[RunningTestServer, RunningTestServer], crafted_files: ModelFiles
) -> None:
    engine = LocalEngine(EngineConfig(device="cpu", max_turns=1), files=crafted_files)
    async with serving(engine, api_key="right") as locked:
        both = RemoteEngine(f"{locked.url},{two[0].url}", api_key="wrong")
        await both.start()
        assert (await rest_of(begin(both)))[0] == TEXT.split()
        await both.aclose()
        only = RemoteEngine(f"{locked.url},{locked.url}", api_key="wrong")
        with pytest.raises(Unauthorized):
            await only.start()
        await only.aclose()


def test_the_environment_can_list_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPHEUS_URL", "http://one:8089, http://two:8089")
    engine = resolve()
    assert isinstance(engine, RemoteEngine)
    assert len(engine._keepers) == 2
    with pytest.raises(InvalidOptions, match="part of a list"):
        resolve(url="http://one:8089,local")
    with pytest.raises(ValueError, match="not the address"):
        resolve(url="http://one:8089,ftp://two")


# ---- an engine dies


@pytest.mark.parametrize("heard", [False, True])
async def test_a_turn_whose_engine_died_continues_on_the_next_server(
    heard: bool, two: tuple[RunningTestServer, RunningTestServer]
) -> None:
    larger, smaller = two
    async with client(larger.url, smaller.url) as engine:
        text = f"{TEXT} " * 6
        words: list[str] = []
        if not heard:
            fail_at_next_step(local_engine(larger))
        turn = begin(engine, text)
        events = turn.__aiter__()
        while heard and not isinstance(event := await anext(events), AudioChunk):
            assert isinstance(event, Word)
            words.append(event.text)
        if heard:
            fail_at_next_step(local_engine(larger))
        assert words + (await rest_of(events))[0] == text.split()
        assert turn.stats.resumed == heard
        await until(lambda: local_engine(larger).health().restarts == 1)


async def test_a_turn_that_fails_on_every_server_gets_the_error(
    two: tuple[RunningTestServer, RunningTestServer],
) -> None:
    async with client(two[0].url, two[1].url) as engine:
        for server in two:
            fail_at_next_step(local_engine(server))
        with pytest.raises(EngineDied):
            await rest_of(begin(engine))


async def test_with_one_server_a_turn_whose_engine_died_fails_at_once(
    two: tuple[RunningTestServer, RunningTestServer],
) -> None:
    async with client(two[0].url) as engine:
        fail_at_next_step(local_engine(two[0]))
        with pytest.raises(EngineDied):
            await rest_of(begin(engine))
        assert (await rest_of(begin(engine)))[0] == TEXT.split()


def local_engine(server: RunningTestServer) -> LocalEngine:
    engine = server.service.engine
    assert isinstance(engine, LocalEngine)
    return engine


# ---- a server is killed


@contextlib.asynccontextmanager
async def two_processes(
    files: ModelFiles, folder: Path
) -> AsyncIterator[list[tuple[subprocess.Popen[str], str]]]:
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "orpheus_plugin", "serve", "--device", "cpu"),
                *("--model", str(files.lm), "--codec", str(files.codec)),
                *("--max-turns", "2", "--port", "0", "--log-level", "error"),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "ORPHEUS_STATE_DIR": str(folder)},
        )
        for _ in range(2)
    ]
    try:
        found = []
        for process in processes:
            assert process.stdout is not None
            line = await asyncio.to_thread(process.stdout.readline)
            found.append((process, line.split()[-1]))
        yield found
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("resume_within_s", [0.0, 5.0])
@pytest.mark.parametrize("heard", [False, True])
async def test_a_turn_whose_server_is_killed_continues_on_the_next_server(
    heard: bool, resume_within_s: float, crafted_files: ModelFiles, tmp_path: Path
) -> None:
    """While it speaks only if `resume_within_s` allows it, before the first sound always."""
    async with (
        two_processes(crafted_files, tmp_path) as servers,
        client(
            *(url for _, url in servers), resume_within_s=resume_within_s, connect_timeout_s=60
        ) as engine,
    ):
        text = f"{TEXT} " * 10
        turn = engine.open_turn()
        turn.push_text(text if heard else "The")
        words: list[str] = []
        events = turn.__aiter__()
        while heard and not isinstance(event := await anext(events), AudioChunk):
            assert isinstance(event, Word)
            words.append(event.text)
        await until(lambda: engine.health().active_turns == 1)
        busy = [
            keeper.connection is not None and keeper.connection.turns for keeper in engine._keepers
        ]
        servers[busy.index(1)][0].kill()
        if not heard:
            await until(lambda: len(engine._live()) == 1)
            turn.push_text(text.removeprefix("The"))
        turn.end()
        if heard and not resume_within_s:
            with pytest.raises(ConnectionFailed):
                await rest_of(events)
        else:
            assert words + (await rest_of(events))[0] == text.split()
        # The next one speaks in any case.
        assert (await rest_of(begin(engine)))[0] == TEXT.split()
