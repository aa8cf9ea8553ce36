"""RemoteEngine against servers that come, go and misbehave. What it shares with LocalEngine is in
the contract suite."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
from aiohttp import web

from orpheus_plugin import protocol
from orpheus_plugin.errors import (
    ConnectionFailed,
    EngineDied,
    ModelNotFound,
    ShuttingDown,
    Unauthorized,
    UnknownVoice,
)
from orpheus_plugin.events import AudioChunk, TurnEnd, TurnEvent, Word
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.remote.connection import Address, websocket_url
from orpheus_plugin.remote.engine import RemoteEngine
from orpheus_plugin.server.protocols.native import _Stream
from orpheus_plugin.speech_engine import SpeechEngine
from orpheus_plugin.turn import Turn
from tests.support.servers import KeptOpen, RunningTestServer, break_connection, serving

TEXT = "The quick brown fox jumps over the lazy dog. And so on it goes."


@pytest.fixture
async def remote(server: RunningTestServer) -> AsyncIterator[RemoteEngine]:
    engine = RemoteEngine(server.url)
    await engine.start()
    yield engine
    await engine.aclose()


async def read(turn: Turn, seconds: float = 20) -> list[TurnEvent]:
    async with asyncio.timeout(seconds):
        return [event async for event in turn]


async def speak(engine: SpeechEngine, text: str = TEXT) -> list[TurnEvent]:
    async with engine.open_turn() as turn:
        turn.push_text(text)
        turn.end()
        return await read(turn)


async def settle(condition: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_many_turns_use_one_connection(
    server: RunningTestServer, remote: RemoteEngine
) -> None:
    await asyncio.gather(*(speak(remote, "Hello.") for _ in range(6)))
    assert server.service.connections == 1


async def test_a_turn_may_be_opened_before_the_first_connection(server: RunningTestServer) -> None:
    engine = RemoteEngine(server.url)
    try:
        assert engine.voices == ()
        assert engine.check_voice("anyone") == "anyone"
        events = await speak(engine)
        assert isinstance(events[-1], TurnEnd)
        with pytest.raises(UnknownVoice):
            engine.check_voice("anyone")
    finally:
        await engine.aclose()


async def test_a_voice_that_the_server_lacks_is_an_error_of_the_turn(
    server: RunningTestServer,
) -> None:
    engine = RemoteEngine(server.url)
    try:
        turn = engine.open_turn(SpeechOptions(voice="nobody"))
        with pytest.raises(UnknownVoice, match="tara, leo"):
            await read(turn)
    finally:
        await engine.aclose()


async def test_start_reports_why_there_is_no_connection() -> None:
    engine = RemoteEngine(f"127.0.0.1:{free_port()}", connect_timeout_s=0.3)
    try:
        with pytest.raises(ConnectionFailed, match="cannot reach"):
            await engine.start()
        assert not engine.health().ready
        assert "cannot reach" in (engine.health().error or "")
        turn = engine.open_turn()
        turn.push_text("Is anyone there?")
        with pytest.raises(ConnectionFailed, match="cannot reach"):
            await read(turn, 3)
    finally:
        await engine.aclose()


async def test_only_a_server_that_answered_before_is_waited_for(
    engine: SpeechEngine,
) -> None:
    port = free_port()
    remote = RemoteEngine(f"127.0.0.1:{port}", connect_timeout_s=20)
    for attempt in range(3):
        began = time.monotonic()
        with pytest.raises(ConnectionFailed) as told:
            if attempt == 1:
                turn = remote.open_turn()
                async for _ in turn:
                    pass
            else:
                await remote.start()
        assert told.value.never_reached
        assert time.monotonic() - began < 5
    async with serving(KeptOpen(engine), port=port):
        await remote.start()  # the next one who asks finds it
    waits = asyncio.create_task(remote.start())
    await asyncio.sleep(0.5)
    assert not waits.done()
    async with serving(KeptOpen(engine), port=port):
        await asyncio.wait_for(waits, 10)
        await remote.aclose()


async def test_a_wrong_key_is_reported_at_once_and_not_retried(engine: SpeechEngine) -> None:
    async with serving(engine, api_key="right") as server:
        for key in (None, "wrong", "right\u00e9"):
            wrong = RemoteEngine(server.url, api_key=key)
            with pytest.raises(Unauthorized):
                await asyncio.wait_for(wrong.start(), 2)
            await wrong.aclose()
        right = RemoteEngine(server.url, api_key="right")
        assert (await speak(right))[-1].reason == "done"  # type: ignore[union-attr]
        await right.aclose()


async def test_another_kind_of_server_is_reported(engine: SpeechEngine) -> None:
    app = web.Application()
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    remote = RemoteEngine(f"http://{host}:{port}", connect_timeout_s=0.3)
    with pytest.raises(ConnectionFailed, match="not an Orpheus server"):
        await remote.start()
    await remote.aclose()
    await runner.cleanup()


async def test_a_broken_connection_fails_turns_that_may_not_be_resumed(
    server: RunningTestServer,
) -> None:
    remote = RemoteEngine(server.url, resume_within_s=0)
    await remote.start()
    turn = remote.open_turn()
    turn.push_text(TEXT * 5)
    events = turn.__aiter__()
    while not isinstance(await anext(events), AudioChunk):
        pass
    break_connection(remote)
    with pytest.raises(ConnectionFailed, match="lost"):
        async with asyncio.timeout(5):
            async for _ in events:
                pass
    await settle(lambda: not server.service.active_turns)
    assert (await speak(remote))[-1].reason == "done"  # type: ignore[union-attr]
    await remote.aclose()


@pytest.mark.parametrize("after", range(1, 40, 2))
async def test_a_turn_that_loses_its_server_continues_with_its_next_word(
    server: RunningTestServer, remote: RemoteEngine, after: int
) -> None:
    """At twenty points of an answer, with text still coming."""
    words = (TEXT * 4).split(" ")
    turn = remote.open_turn(max_wait_s=5)
    said: list[str] = []
    at = seen = 0

    async def write() -> None:
        for word in words:
            turn.push_text(f"{word} ")
            await asyncio.sleep(0.005)
        turn.end()

    writing = asyncio.create_task(write())
    async with asyncio.timeout(30):
        async for event in turn:
            seen += 1
            if seen == after:
                break_connection(remote)
            if isinstance(event, Word):
                said.append(event.text)
            elif isinstance(event, AudioChunk):
                assert event.position == at
                at += event.samples
            else:
                assert event.stats.resumed == 1
                assert event.stats.audio_s == pytest.approx(at / 24_000)
    await writing
    assert said == [word for word in words if word]
    await settle(lambda: not server.service.active_turns)


async def test_a_turn_continues_on_a_new_server_at_the_same_address(engine: SpeechEngine) -> None:
    port = free_port()
    remote = RemoteEngine(f"127.0.0.1:{port}")
    async with serving(KeptOpen(engine), port=port, drain_s=0):
        await remote.start()
        turn = remote.open_turn(max_wait_s=5)
        turn.push_text((TEXT + " ") * 10)
        turn.end()
        events = turn.__aiter__()
        heard = [await anext(events)]
        while not isinstance(heard[-1], AudioChunk):
            heard.append(await anext(events))
    async with serving(KeptOpen(engine), port=port):
        async with asyncio.timeout(20):
            rest = [event async for event in events]
    end = rest[-1]
    assert isinstance(end, TurnEnd)
    assert end.stats.resumed == 1
    said = [event.text for event in [*heard, *rest] if isinstance(event, Word)]
    assert said == ((TEXT + " ") * 10).split()
    await remote.aclose()


async def test_a_turn_whose_server_does_not_come_back_fails_in_time(engine: SpeechEngine) -> None:
    port = free_port()
    remote = RemoteEngine(f"127.0.0.1:{port}", resume_within_s=0.5)
    async with serving(KeptOpen(engine), port=port, drain_s=0):
        await remote.start()
        turn = remote.open_turn(max_wait_s=5)
        turn.push_text(TEXT * 10)
        turn.end()
        events = turn.__aiter__()
        while not isinstance(await anext(events), AudioChunk):
            pass
    with pytest.raises((ConnectionFailed, ShuttingDown)):
        async with asyncio.timeout(10):
            async for _ in events:
                pass
    await remote.aclose()


async def test_a_turn_opened_while_the_server_restarts_is_spoken_afterwards(
    engine: SpeechEngine,
) -> None:
    port = free_port()
    async with serving(engine, port=port):
        remote = RemoteEngine(f"127.0.0.1:{port}")
        await remote.start()
    await settle(lambda: not remote.health().ready)
    speaking = asyncio.create_task(speak(remote))
    await asyncio.sleep(0.3)
    assert not speaking.done()
    async with serving(engine, port=port):
        assert (await speaking)[-1].reason == "done"  # type: ignore[union-attr]
        await remote.aclose()


async def test_a_server_that_ends_lets_the_turn_end_and_the_next_goes_to_its_successor(
    engine: SpeechEngine,
) -> None:
    port = free_port()
    async with serving(engine, port=port) as old:
        remote = RemoteEngine(f"127.0.0.1:{port}")
        turn = remote.open_turn()
        turn.push_text(TEXT * 4)
        turn.end()
        events = turn.__aiter__()
        while not isinstance(await anext(events), AudioChunk):
            pass
        old.server.stop()
        await settle(lambda: not remote.health().ready)
        async with serving(engine, port=port):
            next_turn = asyncio.create_task(speak(remote))
            last = None
            async with asyncio.timeout(20):
                async for event in events:
                    last = event
            assert isinstance(last, TurnEnd)
            assert last.reason == "done"
            assert (await next_turn)[-1].reason == "done"  # type: ignore[union-attr]
            await remote.aclose()


@pytest.mark.parametrize("resume_within_s", [0.0, 5.0])
async def test_a_turn_on_a_server_that_shuts_down_waits_for_its_successor(
    engine: SpeechEngine, resume_within_s: float
) -> None:
    port = free_port()
    remote = RemoteEngine(f"127.0.0.1:{port}", resume_within_s=resume_within_s)
    async with serving(engine, port=port) as old:
        await remote.start()
        reading = threading.Event()
        remote._loop.post(reading.wait)
        speaking = asyncio.create_task(speak(remote))
        await asyncio.sleep(0)
        old.server.stop()
        await settle(lambda: old.service.draining.is_set())
        reading.set()  # its opening goes out before the goodbye is read
        await old.task
    async with serving(engine, port=port):
        end = (await speaking)[-1]
    assert isinstance(end, TurnEnd)
    assert end.reason == "done"
    assert end.stats.resumed == 0
    await remote.aclose()


async def test_closing_ends_turns_that_are_being_read(
    server: RunningTestServer, remote: RemoteEngine
) -> None:
    turn = remote.open_turn()
    turn.push_text(TEXT * 5)
    reading = asyncio.create_task(read(turn))
    await asyncio.sleep(0.2)
    await remote.aclose()
    with pytest.raises(Exception, match="closed"):
        await reading
    await settle(lambda: not server.service.active_turns)
    await turn.cancel()


async def test_a_caller_whose_loop_ended_holds_nothing_on_the_server(
    server: RunningTestServer, remote: RemoteEngine
) -> None:
    def abandon() -> None:
        async def begin() -> None:
            turn = remote.open_turn()
            turn.push_text(TEXT * 20)
            await asyncio.sleep(0.02)  # audio still comes when this loop is gone

        asyncio.run(begin())

    thread = threading.Thread(target=abandon)
    thread.start()
    await asyncio.to_thread(thread.join)
    await settle(lambda: not server.service.active_turns)


@pytest.mark.parametrize("held", [True, False])
async def test_an_unreadable_turn_is_ended_although_its_window_is_full(
    server: RunningTestServer, remote: RemoteEngine, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server sends no more audio then, so no delivery finds the closed loop."""
    opening, window_s = protocol.opening, msgspec.Raw(protocol.pack(0.5))
    monkeypatch.setattr(
        protocol, "opening", lambda *a: msgspec.structs.replace(opening(*a), window_s=window_s)
    )
    kept: list[Turn] = []

    async def begin() -> None:
        turn = remote.open_turn()
        if held:
            kept.append(turn)
        turn.push_text(TEXT * 20)
        await settle(lambda: any(not stream._room.is_set() for stream in streams()))

    def streams() -> list[_Stream]:
        return [found for found in gc.get_objects() if type(found) is _Stream]

    await asyncio.to_thread(asyncio.run, begin())
    assert server.service.active_turns
    await settle(lambda: not server.service.active_turns)


async def test_the_address_is_located_again_for_each_attempt(engine: SpeechEngine) -> None:
    asked = 0
    url = f"http://127.0.0.1:{free_port()}"

    async def locate() -> Address:
        nonlocal asked
        asked += 1
        return Address(url)

    remote = RemoteEngine(None, locate=locate)
    starting = asyncio.create_task(remote.start())
    await settle(lambda: asked > 1)
    async with serving(engine) as server:
        url = server.url
        await starting
        assert remote.health().ready
        await remote.aclose()


async def test_an_error_while_locating_is_the_error_of_start() -> None:
    async def locate() -> Address:
        raise ModelNotFound("no such model")

    remote = RemoteEngine(None, locate=locate)
    with pytest.raises(ModelNotFound):
        await asyncio.wait_for(remote.start(), 2)
    await remote.aclose()


async def test_an_exception_of_the_locator_is_reported_and_it_is_called_again(
    server: RunningTestServer,
) -> None:
    asked = 0

    async def locate() -> Address:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise OSError("no space left on device")
        return Address(server.url)

    remote = RemoteEngine(None, locate=locate)
    speaking = asyncio.create_task(speak(remote, "Hello."))
    await settle(lambda: "no space left" in (remote.health().error or ""))
    assert (await speaking)[-1].reason == "done"  # type: ignore[union-attr]
    await remote.aclose()


async def test_closing_ends_callers_that_wait_for_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections, says nothing
        remote = RemoteEngine(f"127.0.0.1:{mute.getsockname()[1]}", connect_timeout_s=30)
        starting = asyncio.create_task(remote.start())
        turn = remote.open_turn()
        turn.push_text("Is anyone there?")
        reading = asyncio.create_task(read(turn))
        await settle(lambda: bool(remote._waiting))
        async with asyncio.timeout(5):
            await remote.aclose()
            for waiting in (starting, reading):
                with pytest.raises(EngineDied, match="closed"):
                    await waiting
            await turn.cancel()
        assert remote.closed


async def test_a_turn_cancelled_before_there_is_a_connection_is_never_opened(
    engine: SpeechEngine,
) -> None:
    port = free_port()
    remote = RemoteEngine(f"127.0.0.1:{port}")
    async with serving(KeptOpen(engine), port=port):
        await remote.start()  # one that was there a moment ago is waited for
    await settle(lambda: not remote.health().ready)
    async with remote.open_turn() as turn:
        turn.push_text("Never mind.")
    turn = remote.open_turn()
    turn.push_text(TEXT)
    turn.end()
    async with serving(engine, port=port) as server:
        assert isinstance((await read(turn))[-1], TurnEnd)
        assert server.service.metrics.render().count(b'outcome="cancelled"') == 0  # type: ignore[union-attr]
        await remote.aclose()


async def test_closing_leaves_no_task_thread_or_socket(server: RunningTestServer) -> None:
    before = threading.active_count()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for _ in range(3):
            engine = RemoteEngine(server.url)
            await speak(engine, "Hello.")
            await engine.aclose()
        gc.collect()
    await settle(lambda: not server.service.connections)
    assert threading.active_count() <= before + 1  # asyncio's own worker thread


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("localhost:8089", "ws://localhost:8089/v1/turns"),
        ("http://10.0.0.1:8089/", "ws://10.0.0.1:8089/v1/turns"),
        ("https://tts.example.org/orpheus", "wss://tts.example.org/orpheus/v1/turns"),
        ("ws://[::1]:8089/v1/turns", "ws://[::1]:8089/v1/turns"),
        ("unix:///run/orpheus.sock", "ws://localhost/v1/turns"),
    ],
)
def test_addresses(given: str, expected: str) -> None:
    url, connector = websocket_url(given)
    assert url == expected
    assert (connector is not None) == given.startswith("unix")


@pytest.mark.parametrize("given", ["ftp://x", "http://", "http://h:port", "unix://", ""])
def test_an_invalid_address_is_refused_by_the_constructor(given: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        RemoteEngine(given)


async def test_start_times_out_at_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections, says nothing
        remote = RemoteEngine(f"127.0.0.1:{mute.getsockname()[1]}", connect_timeout_s=1.0)
        loop = asyncio.get_running_loop()
        remote.prewarm()
        await asyncio.sleep(0.6)  # the attempt under way ends later than start may
        began = loop.time()
        with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:\d+ did not answer in time"):
            await remote.start()
        # The first attempt ends 0.4 s from here; the next would end 1.5 s from here.
        assert loop.time() - began < 1.4
        await remote.aclose()


async def test_the_time_a_server_takes_to_start_is_not_counted(server: RunningTestServer) -> None:
    async def locate() -> Address:
        await asyncio.sleep(0.8)
        return Address(server.url)

    remote = RemoteEngine(None, locate=locate, connect_timeout_s=0.5)
    await remote.start()
    assert remote.health().ready
    await remote.aclose()


async def test_a_login_in_the_address_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    said: list[str] = []
    for login in ("me:s3cret", "me:s3cr@s3cret"):
        for scheme in ("http://", "ws://", ""):
            url = f"{scheme}{login}@127.0.0.1:{free_port()}"
            remote = RemoteEngine(url, connect_timeout_s=0.2)
            with pytest.raises(ConnectionFailed, match="cannot reach") as failure:
                await remote.start()
            said += [str(failure.value), str(remote.health().error)]
            await remote.aclose()
        for mistake in (f"ftp://{login}@host", f"http://{login}@host:port", "http://me:s3cret/@h"):
            with pytest.raises(ValueError, match="not the address") as wrong:
                RemoteEngine(mistake)
            said.append(repr(wrong.value))
    said.append(caplog.text)
    assert "no connection to the speech server" in caplog.text
    assert not [text for text in said if "s3c" in text]


def test_importing_the_client_loads_no_model_code() -> None:
    code = (
        "import sys, orpheus_plugin.remote.engine as c; "
        "print([m for m in ('torch', 'vllm', 'transformers', 'tokenizers', 'av',"
        " 'prometheus_client') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
