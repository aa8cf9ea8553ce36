"""Clients that disconnect at any moment: their places are free at once, and the next client is
served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging

import aiohttp
import msgpack
import pytest
from aiohttp import web

from orpheus_plugin import protocol
from orpheus_plugin.events import AudioChunk
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.remote.engine import RemoteEngine
from orpheus_plugin.server import websocket
from orpheus_plugin.server.config import Limits
from orpheus_plugin.server.http import Runner
from orpheus_plugin.server.json_api import errors_as_responses
from orpheus_plugin.server.protocols import omni
from orpheus_plugin.server.service import SpeechService
from orpheus_plugin.speech_engine import SpeechEngine
from tests.support.raw_websocket import CLOSE, PING, PONG, connected, frame
from tests.support.servers import RunningTestServer, serving

TEXT = "The quick brown fox jumps over the lazy dog. And so on it goes."


def packed(**message: object) -> bytes:
    return frame(msgpack.packb(message))


WEBSOCKETS = {
    "native": (
        protocol.PATH,
        [packed(type="open", id="a"), packed(type="text", id="a", text=TEXT)],
    ),
    "unmute": ("/api/tts_streaming?format=PcmMessagePack", [packed(type="Text", text=TEXT)]),
    "omni": (
        "/v1/audio/speech/stream",
        [
            frame('{"type": "session.config", "response_format": "pcm", "stream_audio": true}'),
            frame(json.dumps({"type": "input.text", "text": TEXT})),
            frame('{"type": "input.done"}'),
        ],
    ),
    "baseten": ("/v1/websocket", [frame("{}"), frame(TEXT), frame("__END__")]),
}


async def settle(server: RunningTestServer, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while (
            server.service.active_turns
            or server.service.connections
            or server.service.engine.health().active_turns
        ):
            await asyncio.sleep(0.005)


async def speak(server: RunningTestServer) -> None:
    engine = RemoteEngine(server.url)
    try:
        async with asyncio.timeout(30), engine.open_turn() as turn:
            turn.push_text("Hello.")
            turn.end()
            assert [event async for event in turn if isinstance(event, AudioChunk)]
    finally:
        await engine.aclose()


@pytest.mark.parametrize("name", WEBSOCKETS)
@pytest.mark.parametrize("how", ["close frame", "end of stream", "reset"])
async def test_opening_and_disconnecting_at_once_holds_no_place(
    server: RunningTestServer, name: str, how: str
) -> None:
    path, messages = WEBSOCKETS[name]
    for _ in range(12):  # more often than there are places
        async with connected(server.port, path) as client:
            client.writer.write(b"".join(messages))
            if how == "close frame":
                client.writer.write(frame(b"\x03\xe8", CLOSE))
            elif how == "end of stream":
                client.writer.write_eof()
            else:
                await client.writer.drain()
                client.reset()
    await settle(server)
    await speak(server)


@pytest.mark.parametrize("name", WEBSOCKETS)
async def test_disconnecting_after_every_message_holds_no_place(
    server: RunningTestServer, name: str
) -> None:
    path, messages = WEBSOCKETS[name]
    for count in range(len(messages) + 1):
        for pause_s in (0.0, 0.001, 0.01, 0.05):
            async with connected(server.port, path) as client:
                client.writer.write(b"".join(messages[:count]))
                await asyncio.sleep(pause_s)
                client.reset()
    await settle(server)
    await speak(server)


@pytest.mark.parametrize("more", [{}, {"response_format": "flac"}, {"stream": True}])
@pytest.mark.parametrize("path", ["/v1/audio/speech", "/predict"])
async def test_requests_aborted_at_any_moment_hold_no_place(
    server: RunningTestServer,
    path: str,
    more: dict[str, object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    body = {"input": TEXT, "prompt": TEXT, "response_format": "pcm", **more}
    async with aiohttp.ClientSession() as session:
        for pause_s in (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2):
            asking = asyncio.create_task(session.post(server.url + path, json=body))
            await asyncio.sleep(pause_s)
            asking.cancel()
            (answer,) = await asyncio.gather(asking, return_exceptions=True)
            if isinstance(answer, aiohttp.ClientResponse):
                answer.close()
    await settle(server)
    await speak(server)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_an_answer_to_a_disconnected_client_is_not_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The write that finds the connection gone may come before the handler is cancelled."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        assert request.transport is not None
        request.transport.close()
        await response.write(b"x")
        return response

    app = web.Application(middlewares=[errors_as_responses])
    app.router.add_get("/", handle)
    runner = Runner(app, connections=8)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/") as response:
                await response.read()
    await runner.cleanup()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_our_client_disconnecting_right_after_open_holds_no_place(
    server: RunningTestServer,
) -> None:
    for _ in range(30):
        engine = RemoteEngine(server.url)
        engine.open_turn().push_text(TEXT)
        await engine.aclose()
    await settle(server)
    await speak(server)


async def test_a_task_that_is_cancelled_repeatedly_frees_its_turn(
    server: RunningTestServer,
) -> None:
    async def hold() -> None:
        async with server.service.open("test", SpeechOptions()) as turn:
            turn.push_text(TEXT)
            async for _ in turn:
                pass

    for pauses in range(8):
        task = asyncio.create_task(hold())
        for _ in range(pauses):
            await asyncio.sleep(0)
        for _ in range(4):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(task, return_exceptions=True)
    await settle(server)


async def test_a_turn_that_its_task_left_open_is_freed_counted_and_logged(
    engine: SpeechEngine, caplog: pytest.LogCaptureFixture
) -> None:
    service = SpeechService(engine, max_text_chars=1_000)

    async def forget() -> None:
        service.open("test", SpeechOptions())

    with caplog.at_level(logging.ERROR):
        await asyncio.create_task(forget())
        await asyncio.sleep(0)
    assert service.active_turns == 0
    assert service.abandoned == 1
    assert "left by its task" in caplog.text
    assert b'orpheus_abandoned_turns_total{protocol="test"} 1.0' in (
        service.metrics.render() or b""
    )


@pytest.mark.parametrize("name", WEBSOCKETS)
async def test_a_place_freed_by_a_disconnect_is_available_to_the_next_client(
    engine: SpeechEngine, name: str
) -> None:
    """A server at its capacity: a client that interrupts its own turn gets the place again at
    once."""
    path, messages = WEBSOCKETS[name]
    async with serving(engine) as server, aiohttp.ClientSession() as session:
        held = [engine.open_turn() for _ in range(7)]
        for turn in held:
            await turn.admitted()
        for _ in range(15):
            async with connected(server.port, path) as client:
                client.writer.write(b"".join(messages))
                await client.reader.read(1)  # served
            async with session.ws_connect(
                f"{server.ws_url}/api/tts_streaming?format=PcmMessagePack"
            ) as ws:
                answer = msgpack.unpackb((await ws.receive(timeout=5)).data)
            assert answer["type"] == "Ready"
        for turn in held:
            await turn.cancel()
        await settle(server)


async def test_only_pongs_keep_a_websocket_alive(engine: SpeechEngine) -> None:
    async with (
        serving(engine, limits=Limits(heartbeat_s=0.3)) as server,
        connected(server.port, protocol.PATH) as client,
    ):
        client.writer.write(packed(type="open", id="a"))
        # A message of 60,000 bytes that never ends: a byte now and then.
        client.writer.write(b"\x82\xfe\xea\x60\x00\x00\x00\x00")
        async with asyncio.timeout(3):
            while await client.reader.read(65_536):
                client.writer.write(b"x")
                await asyncio.sleep(0.01)
        await settle(server)


OPENED = packed(type="open", id="a")
CONFIG = frame('{"type": "session.config"}')
SAID = frame(json.dumps({"type": "input.text", "text": TEXT}))
WITHOUT_EFFECT = {
    "unknown type": ("native", b"", packed(type="dance")),
    "no such turn": ("native", b"", packed(type="text", id="gone", text="x")),
    "refused": ("native", b"", packed(type="open", id="b", options={"voice": "nobody"})),
    "ping": ("native", b"", frame(b"", PING)),
    "pong": ("native", b"", frame(b"", PONG)),
    "no text": ("native", OPENED, packed(type="text", id="a", text="")),
    "nothing to flush": ("native", OPENED, packed(type="flush", id="a")),
    "nothing consumed": ("native", OPENED, packed(type="consumed", id="a", samples=0)),
    "blank word": ("unmute", b"", packed(type="Text", text=" ")),
    "ended again": ("unmute", packed(type="Text", text=TEXT), packed(type="Eos")),
    "no piece": ("baseten", frame("{}"), frame("")),
    "configured again": ("omni", CONFIG, CONFIG),
    "configured while it speaks": ("omni", CONFIG + SAID, CONFIG),
    "nothing to speak": ("omni", CONFIG, frame('{"type": "input.done"}')),
    "voices again": ("omni", CONFIG, frame('{"type": "voice.list"}')),
}


@pytest.mark.parametrize("what", WITHOUT_EFFECT)
async def test_too_many_messages_without_effect_close_the_connection(
    server: RunningTestServer, what: str
) -> None:
    name, begin, message = WITHOUT_EFFECT[what]
    async with connected(server.port, WEBSOCKETS[name][0]) as client:
        client.writer.write(begin + message * 1_100)
        seen = b""
        async with asyncio.timeout(10):
            while data := await client.reader.read(65_536):
                seen = (seen + data)[-4_000:]
        assert b"without effect" in seen
    await settle(server)
    await speak(server)


async def test_what_waits_for_an_utterance_to_end_is_limited(
    server: RunningTestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(omni, "MAX_WAITING", 50)
    word = frame('{"type": "input.text", "text": "so "}')
    async with connected(server.port, omni.PATH) as client:
        client.writer.write(CONFIG + SAID + frame('{"type": "input.done"}') + word * 60)
        seen = b""
        async with asyncio.timeout(10):
            while data := await client.reader.read(65_536):
                seen = (seen + data)[-4_000:]
        assert b"50 messages wait" in seen
    await settle(server)


async def test_a_server_that_ends_waits_until_its_clients_have_read_everything(
    server: RunningTestServer,
) -> None:
    """A TCP connection that is closed with unread data in it is reset, and what its client has not
    received is lost."""
    async with connected(server.port, protocol.PATH) as client, asyncio.timeout(30):
        client.writer.write(packed(type="open", id="a") + packed(type="text", id="a", text=TEXT))
        client.writer.write(packed(type="end", id="a"))
        while not server.service.active_turns:
            await asyncio.sleep(0.005)
        server.server.stop()
        goodbye = b"\x88\x0f\x03\xe9shutting down"
        read = b""
        while not read.endswith(goodbye):
            read += await client.reader.read(1 << 16)
        assert b"done" in read
        client.writer.write(packed(type="consumed", id="a", samples=99))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.reader.read(1)
        client.writer.write(frame(b"\x03\xe9", CLOSE))
        assert await server.task == 0


@pytest.mark.parametrize("name", ["omni", "baseten"])
async def test_a_server_that_ends_closes_the_websockets_without_a_turn(
    server: RunningTestServer, name: str
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(server.ws_url + WEBSOCKETS[name][0]) as ws,
    ):
        server.server.stop()
        message = await ws.receive(timeout=5)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
        assert await asyncio.wait_for(server.task, 5) == 0


async def test_a_client_that_does_not_answer_a_close_is_cut_off(
    server: RunningTestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "CLOSE_S", 0.1)
    async with connected(server.port, protocol.PATH) as client, asyncio.timeout(10):
        server.server.stop()
        with contextlib.suppress(ConnectionResetError):
            while await client.reader.read(1 << 16):
                pass
        assert await server.task == 0
