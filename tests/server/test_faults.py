"""Much wrong input, and clients and engines that die; the full-size runs are in
benchmarks/server_faults.py."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from typing import cast

import aiohttp
import msgpack
import pytest

from benchmarks.wrong_messages import fuzz, truncated
from orpheus_plugin import protocol
from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.errors import EngineDied
from orpheus_plugin.events import AudioChunk, TurnEnd
from orpheus_plugin.models.files import ModelFiles
from orpheus_plugin.remote.engine import RemoteEngine
from orpheus_plugin.tokens.base import TokenChunk
from orpheus_plugin.tokens.torch.generator import TorchLlama
from orpheus_plugin.tokens.vocabulary import Vocabulary
from tests.support.generators import Wrapper
from tests.support.servers import RunningTestServer, serving
from tests.support.turns import spoken


async def speak(engine: RemoteEngine, text: str = "Hello there.") -> int:
    async with asyncio.timeout(30), engine.open_turn() as turn:
        return await spoken(turn, text)


async def settle(server: RunningTestServer, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while server.service.active_turns or server.service.connections:
            await asyncio.sleep(0.01)


async def test_wrong_messages_in_quantity_leave_nothing_and_the_next_turn_is_spoken(
    server: RunningTestServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with aiohttp.ClientSession() as session:
        outcomes = await fuzz(session, server.ws_url, 300, 0)
    assert sum(count for end, count in outcomes.items() if end.endswith("closed 1008")) > 50
    await settle(server)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    engine = RemoteEngine(server.url)
    assert await speak(engine)
    await engine.aclose()


async def test_messages_cut_short_at_every_byte_leave_nothing(
    server: RunningTestServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with aiohttp.ClientSession() as session:
        outcomes = await truncated(session, server.ws_url)
    assert sum(outcomes.values()) > 300
    assert set(outcomes) <= {"left open", "closed 1000", "closed 1008", "closed 1011"}
    await settle(server)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_many_turns_leave_no_task_and_no_connection(server: RunningTestServer) -> None:
    engine = RemoteEngine(server.url)
    await speak(engine)
    tasks, threads = len(asyncio.all_tasks()), threading.active_count()
    for _ in range(40):
        async with engine.open_turn() as turn:
            turn.push_text("Hi.")
            turn.end()
            async for event in turn:
                if isinstance(event, AudioChunk):
                    break
    await asyncio.sleep(0.1)
    gc.collect()
    assert len(asyncio.all_tasks()) <= tasks
    assert threading.active_count() <= threads
    assert server.service.connections == 1
    await engine.aclose()
    await settle(server)


class Mortal(Wrapper[TorchLlama]):
    """Dies once, in the middle of a request, when told to."""

    doomed = False

    async def passed(
        self, request_id: str, chunks: AsyncIterator[TokenChunk]
    ) -> AsyncIterator[TokenChunk]:
        sent = 0
        async with contextlib.aclosing(cast("AsyncGenerator[TokenChunk, None]", chunks)):
            async for chunk in chunks:
                if Mortal.doomed and sent:  # the first frame: by then no utterance has ended
                    Mortal.doomed = False
                    raise EngineDied("killed by the test")
                sent += len(chunk.ids)
                yield chunk


async def test_an_engine_that_dies_fails_its_turn_restarts_and_is_counted(
    crafted_files: ModelFiles,
) -> None:
    def make(files: ModelFiles, vocabulary: Vocabulary) -> Mortal:
        return Mortal(TorchLlama(files.lm, vocabulary, max_streams=8, device="cpu"))

    local = LocalEngine(
        EngineConfig(device="cpu", max_turns=4), files=crafted_files, generator=make
    )
    async with serving(local) as server:
        engine = RemoteEngine(server.url)
        await engine.start()
        Mortal.doomed = True
        with pytest.raises(EngineDied, match="killed by the test"):
            await speak(engine, "The quick brown fox jumps over the lazy dog, and so on it goes.")
        # At once: it waits for the engine to be back instead of failing.
        assert await speak(engine)
        async with asyncio.timeout(5):
            while engine.health().restarts != 1:
                await asyncio.sleep(0.05)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{server.url}/readyz") as response,
        ):
            assert response.status == 200
        await engine.aclose()


async def test_clients_that_lose_their_connection_do_not_affect_others(
    server: RunningTestServer,
) -> None:
    listener = RemoteEngine(server.url)
    async with aiohttp.ClientSession() as session, listener.open_turn() as turn:
        turn.push_text("The quick brown fox jumps over the lazy dog. " * 6)
        turn.end()
        hearing = asyncio.create_task(_collect(turn.__aiter__()))
        for _ in range(20):
            ws = await session.ws_connect(server.ws_url + protocol.PATH)
            for message in (
                {"type": "open", "id": "a"},
                {"type": "text", "id": "a", "text": "Hi. " * 50},
            ):
                await ws.send_bytes(protocol.pack(message))
            kind = ""
            while kind not in (
                "opened",
                "error",
            ):  # an error where those before are not yet noticed
                kind = msgpack.unpackb((await ws.receive(timeout=20)).data)["type"]
            assert ws._response.connection is not None
            ws._response.connection.transport.abort()  # type: ignore[union-attr]
        assert (await hearing).reason == "done"
    await listener.aclose()
    await settle(server)


async def _collect(events: AsyncIterator[object]) -> TurnEnd:
    position = 0
    async with asyncio.timeout(60):
        async for event in events:
            if isinstance(event, AudioChunk):
                assert event.position == position
                position += event.samples
            elif isinstance(event, TurnEnd):
                return event
    raise AssertionError("no end")
