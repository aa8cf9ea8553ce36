"""OrpheusTTS against a real server over a real socket, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from livekit.agents import (
    APIConnectionError,
    APIConnectOptions,
    APIStatusError,
    APITimeoutError,
)
from livekit.agents.tts import FallbackAdapter

from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.errors import UnknownVoice
from orpheus_plugin.livekit import OrpheusTTS, load_fnc
from orpheus_plugin.livekit import load as load_module
from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.remote.resolve import release
from orpheus_plugin.speech_engine import EngineHealth
from tests.livekit.fakes import Events, on_stage, pcm, read, words
from tests.livekit.tones import ToneEngine
from tests.support.servers import RunningTestServer, serving

TEXT = "The quick brown fox jumps over the lazy dog."
ONCE = APIConnectOptions(max_retry=0, retry_interval=0.0, timeout=5.0)


@pytest.fixture
async def server(crafted_files: ModelFiles) -> AsyncIterator[RunningTestServer]:
    async with serving(
        LocalEngine(EngineConfig(device="cpu", max_turns=3), files=crafted_files)
    ) as server:
        yield server


class Proxy:
    """A proxy in front of a server that can stop passing data on."""

    def __init__(self, port: int) -> None:
        self.blocked = False
        self._target = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._door = await asyncio.start_server(self._let_in, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._door.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._door.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def break_connections(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        finally:
            self._tasks.discard(task)
            writer.close()
            back.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            while self.blocked:
                await asyncio.sleep(0.02)
            sink.write(data)
        sink.close()


async def idle(server: RunningTestServer) -> None:
    async with asyncio.timeout(2):
        while server.service.engine.health().active_turns:
            await asyncio.sleep(0.005)


async def test_all_turns_use_one_connection_to_the_server(server: RunningTestServer) -> None:
    async with OrpheusTTS(url=server.url) as speech, OrpheusTTS(url=server.url) as other:
        await speech.connect()
        assert speech.voices == ("tara", "leo")
        assert speech.model == "crafted"
        events = Events(speech)
        one, two = await asyncio.gather(read(speech.synthesize(TEXT)), read(other.synthesize(TEXT)))
        assert "".join(words(one)).strip() == "".join(words(two)).strip() == TEXT
        assert pcm(one)
        assert pcm(two)
        assert events.metrics[0].connection_reused
        assert events.metrics[0].output_tokens > 0
        assert server.service.connections == 1


async def test_the_environment_names_the_server_and_its_key(
    crafted_files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine(EngineConfig(device="cpu", max_turns=3), files=crafted_files)
    async with serving(engine, api_key="open sesame") as server:
        monkeypatch.setenv("ORPHEUS_URL", server.url)
        monkeypatch.setenv("ORPHEUS_API_KEY", "open sesame")
        async with OrpheusTTS() as speech:
            assert pcm(await read(speech.synthesize(TEXT, conn_options=ONCE)))
        async with OrpheusTTS(api_key="wrong") as speech:
            with pytest.raises(APIStatusError) as caught:
                await read(speech.synthesize(TEXT, conn_options=ONCE))
            assert caught.value.status_code == 401
            assert not caught.value.retryable


async def test_a_wrong_voice_is_an_error_of_connect(
    server: RunningTestServer,
) -> None:
    async with OrpheusTTS(url=server.url, voice="nobody") as speech:
        with pytest.raises(UnknownVoice):
            await speech.connect()
        with pytest.raises(APIStatusError) as caught:
            await read(speech.synthesize(TEXT))
        assert caught.value.status_code == 400
        with pytest.raises(UnknownVoice):
            speech.update_options(voice="noone")
        speech.update_options(voice="LEO")
        assert pcm(await read(speech.synthesize(TEXT)))


async def test_a_full_server_refuses_and_is_retried(server: RunningTestServer) -> None:
    async with OrpheusTTS(url=server.url) as speech:
        await speech.connect()
        waiting = [speech.stream() for _ in range(3)]
        for stream in waiting:
            stream.push_text("And")
        async with asyncio.timeout(5):
            while server.service.engine.health().active_turns < 3:
                await asyncio.sleep(0.01)
        with pytest.raises(APIStatusError) as caught:
            await read(speech.synthesize(TEXT, conn_options=ONCE))
        assert caught.value.status_code == 429
        patient = asyncio.create_task(read(speech.synthesize(TEXT)))
        await asyncio.sleep(0.05)
        for stream in waiting:
            await stream.aclose()
        assert pcm(await patient)


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_server_that_never_answers_times_out_once_per_try(
    server: RunningTestServer, streamed: bool
) -> None:
    """As LiveKit's own test: once within the time, then four errors for three retries, and no
    metrics."""
    async with Proxy(server.port) as proxy, OrpheusTTS(url=proxy.url) as speech:
        proxy.blocked = True
        events = Events(speech)

        async def attempt(**options: Any) -> float:
            began = time.perf_counter()
            with pytest.raises(APITimeoutError):
                if streamed:
                    stream = speech.stream(conn_options=APIConnectOptions(**options))
                    stream.push_text(TEXT)
                    stream.end_input()
                    await read(stream)
                else:
                    await read(speech.synthesize(TEXT, conn_options=APIConnectOptions(**options)))
            return time.perf_counter() - began

        assert 0.9 <= await attempt(max_retry=0, timeout=1.0) <= 2.0
        events.errors.clear()
        assert 1.0 <= await attempt(max_retry=3, timeout=0.5, retry_interval=0.0) <= 3.0
        assert [error.recoverable for error in events.errors] == [True, True, True, False]
        assert events.metrics == []
        proxy.blocked = False
        assert pcm(await read(speech.synthesize(TEXT, conn_options=ONCE)))


async def test_an_address_without_a_server_is_a_connection_error() -> None:
    async with OrpheusTTS(url="http://127.0.0.1:9") as speech:
        speech.prewarm()
        with pytest.raises(APIConnectionError):
            await read(speech.synthesize(TEXT, conn_options=ONCE))


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_backup_speaks_at_once_if_there_is_no_server_at_the_first_address(
    streamed: bool,
) -> None:
    tones = ToneEngine()
    async with OrpheusTTS(url="http://127.0.0.1:9") as first, OrpheusTTS(engine=tones) as second:
        speech = FallbackAdapter([first, second])
        began = time.perf_counter()
        if streamed:
            stream: Any = speech.stream()
            stream.push_text(TEXT)
            stream.end_input()
        else:
            stream = speech.synthesize(TEXT)
        async with stream:
            await anext(stream)
            assert time.perf_counter() - began < 2
            heard = [event async for event in stream]
        assert heard
        assert tones.spoken
        await speech.aclose()


@pytest.mark.parametrize("resume_within_s", [0.0, 5.0])
async def test_a_reply_that_loses_its_server_continues_or_fails_and_the_next_one_is_spoken(
    server: RunningTestServer, resume_within_s: float
) -> None:
    text = " ".join([TEXT] * 12)  # more than is made ahead of a listener
    async with (
        Proxy(server.port) as proxy,
        OrpheusTTS(url=proxy.url, resume_within_s=resume_within_s) as speech,
    ):
        stream = speech.stream()
        stream.push_text(text)
        stream.end_input()
        heard = [await anext(stream)]
        proxy.break_connections()
        if resume_within_s:
            heard += [event async for event in stream]
            assert "".join(words(heard)).strip() == text
        else:
            with pytest.raises(APIConnectionError):
                async for _ in stream:
                    pass
        await stream.aclose()
        await idle(server)
        assert pcm(await read(speech.synthesize(TEXT, conn_options=ONCE)))


async def test_an_interruption_frees_the_server(server: RunningTestServer) -> None:
    async with OrpheusTTS(url=server.url) as speech, on_stage(speech) as stage:
        for _ in range(3):
            handle = stage.session.say(" ".join([TEXT] * 20))
            stage.audio.first_at = None
            await stage.speaking()
            await stage.session.interrupt()
            await idle(server)
            await handle


# ---- load


class QuarterBusy:
    """A processor."""

    def cpu_percent(self, interval: float) -> float:
        time.sleep(0.01)
        return 0.25

    def cpu_count(self) -> float:
        return 1.0


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr(load_module, "get_cpu_monitor", QuarterBusy)
    monkeypatch.setattr(load_module, "SAMPLES", 1)
    monkeypatch.setenv("ORPHEUS_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("ORPHEUS_URL", raising=False)
    return object()


FULL = 0.7
"""LiveKit's own threshold in production."""


@pytest.mark.parametrize("places", [1, 2, 8, 96])
async def test_a_worker_is_full_only_if_turns_wait(worker: Any, places: int) -> None:
    tones = ToneEngine(running=True)
    load = load_fnc(engine=tones)

    async def with_turns(speaking: int, waiting: int) -> float:
        tones.state = EngineHealth(True, "tones", "tones", speaking, places, 0, waiting=waiting)
        return await asyncio.to_thread(load, worker)

    assert await with_turns(0, 0) == 0.25  # the processor's
    assert await with_turns(places, 0) < FULL
    loads = [await with_turns(places, waiting) for waiting in range(places + 2)]
    assert loads == sorted(loads)
    assert loads[-1] == 1.0
    assert loads[1 + places // 4] >= FULL


async def test_a_worker_is_full_until_its_speech_engine_is_ready(worker: Any) -> None:
    """Its first call starts the engine, so that no caller waits for that."""
    tones = ToneEngine(start_s=0.3)
    load = load_fnc(engine=tones)
    assert await asyncio.to_thread(load, worker) == 1.0
    async with asyncio.timeout(5):
        while not tones.running:
            await asyncio.sleep(0.02)
    assert await asyncio.to_thread(load, worker) == 0.25


async def test_a_worker_can_wait_for_its_speech_server_before_it_joins(
    worker: Any, server: RunningTestServer
) -> None:
    load = load_fnc(server.url)
    await asyncio.to_thread(load.warm)
    assert load.engine.health().ready
    assert await asyncio.to_thread(load, worker) == 0.25
    await release(load.engine)


async def test_a_server_that_does_not_answer_counts_as_full(worker: Any) -> None:
    load = load_fnc("http://127.0.0.1:9")
    await asyncio.to_thread(load.warm)  # says so in the log, and goes on
    assert await asyncio.to_thread(load, worker) == 1.0
    await release(load.engine)


async def test_the_processor_time_of_the_speech_server_does_not_count_twice(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = load_fnc(engine=ToneEngine(running=True))
    spent = iter([10.0, 10.5])
    monkeypatch.setattr(load_module, "_servers_time", lambda: next(spent))
    assert await asyncio.to_thread(load, worker) == 0.0
