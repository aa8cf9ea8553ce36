"""The native protocol on the wire, spoken by a bare websocket client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import msgpack
import pytest

from orpheus_plugin import protocol
from orpheus_plugin.server.config import Limits
from orpheus_plugin.speech_engine import SpeechEngine
from orpheus_plugin.version import __version__
from tests.support.servers import RunningTestServer, serving

Message = dict[str, Any]
TEXT = "The quick brown fox jumps over the lazy dog. And so on it goes."


class Client:
    """Sends maps, receives maps."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def send(self, *messages: Message) -> None:
        for message in messages:
            await self.ws.send_bytes(msgpack.packb(message))

    async def receive(self, seconds: float = 20) -> Message:
        message = await self.ws.receive(timeout=seconds)
        assert message.type is aiohttp.WSMsgType.BINARY, message
        unpacked: Any = msgpack.unpackb(message.data)
        return dict(unpacked)

    async def until(self, kind: str, seconds: float = 20) -> list[Message]:
        """All messages up to and with the next of this type; health is left out."""
        seen: list[Message] = []
        while not seen or seen[-1]["type"] != kind:
            message = await self.receive(seconds)
            if message["type"] != "health":
                seen.append(message)
        return seen

    async def speak(self, turn_id: str, text: str = TEXT, **more: object) -> list[Message]:
        await self.send(*turn(turn_id, text, **more))
        return await self.until("done")


def turn(turn_id: str, text: str = TEXT, **more: object) -> list[Message]:
    return [
        {"type": "open", "id": turn_id, **more},
        {"type": "text", "id": turn_id, "text": text},
        {"type": "end", "id": turn_id},
    ]


@pytest.fixture
async def client(server: RunningTestServer) -> AsyncIterator[Client]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(server.ws_url + protocol.PATH, max_msg_size=0) as ws,
    ):
        client = Client(ws)
        assert (await client.receive())["type"] == "hello"
        yield client


async def settle(condition: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def samples(messages: list[Message], width: int = 2) -> int:
    position = 0
    for message in messages:
        if message["type"] == "audio":
            assert message["position"] == position
            position += len(message["data"]) // width
    return position


async def test_hello_has_voices_limits_and_health(server: RunningTestServer) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(server.ws_url + protocol.PATH) as ws,
    ):
        hello = await Client(ws).receive()
    assert hello["protocol"] == protocol.PROTOCOL
    assert hello["version"] == __version__
    assert hello["voices"] == ["tara", "leo"]
    assert hello["max_text_chars"] == 6_144
    assert hello["health"]["max_turns"] == 8
    assert hello["health"]["ready"] is True


async def test_a_turn_is_opened_spoken_and_done(client: Client) -> None:
    messages = await client.speak("a", options={"voice": "leo", "seed": 4})
    assert messages[0] == {"type": "opened", "id": "a"}
    assert {message["id"] for message in messages} == {"a"}
    words = [message["text"] for message in messages if message["type"] == "word"]
    assert words == TEXT.split()
    done = messages[-1]
    assert done["reason"] == "done"
    assert done["stats"]["audio_s"] == pytest.approx(samples(messages) / 24_000)


async def test_turns_share_a_connection(client: Client) -> None:
    for turn_id in "abc":
        await client.send(*turn(turn_id))
    ended: set[str] = set()
    audio = dict.fromkeys("abc", 0)
    while len(ended) < 3:
        message = await client.receive()
        if message["type"] == "audio":
            assert message["position"] == audio[message["id"]]
            audio[message["id"]] += len(message["data"]) // 2
        elif message["type"] == "done":
            ended.add(message["id"])
    assert all(audio.values())


@pytest.mark.parametrize("rate", [24_000, 16_000, 8_000])
@pytest.mark.parametrize("encoding", ["s16le", "mulaw", "alaw"])
async def test_telephony_formats_last_as_long_as_the_audio(
    client: Client, rate: int, encoding: str
) -> None:
    messages = await client.speak(
        "a", "Hello there.", options={"seed": 1}, format={"encoding": encoding, "sample_rate": rate}
    )
    seconds = messages[-1]["stats"]["audio_s"]
    width = 2 if encoding == "s16le" else 1
    assert samples(messages, width) == pytest.approx(seconds * rate, abs=2)


@pytest.mark.parametrize(
    ("opening", "code"),
    [
        ({"options": {"voice": "nobody"}}, "unknown_voice"),
        ({"options": {"voice": 7}}, "invalid_options"),
        ({"options": {"temperature": "hot"}}, "invalid_options"),
        ({"options": {"trim_leading_silence": "yes"}}, "invalid_options"),
        ({"options": {"nonsense": 1}}, "invalid_options"),
        ({"options": [1]}, "invalid_options"),
        ({"format": {"encoding": "mp3"}}, "invalid_options"),
        ({"format": {"sample_rate": 11_025}}, "invalid_options"),
        ({"format": {"sample_rate": [8_000]}}, "invalid_options"),
        ({"window_s": -1}, "invalid_options"),
        ({"window_s": float("nan")}, "invalid_options"),
        ({"window_s": "long"}, "invalid_options"),
        ({"max_wait_s": "long"}, "invalid_options"),
        ({"max_wait_s": 1e9}, "invalid_options"),
    ],
)
async def test_a_wrong_opening_fails_its_turn_only(
    client: Client, opening: Message, code: str
) -> None:
    await client.send(*turn("wrong", **opening))
    (error,) = await client.until("error")
    assert (error["id"], error["code"]) == ("wrong", code)
    assert error["message"]
    assert (await client.speak("right"))[-1]["reason"] == "done"


async def test_a_text_that_is_too_long_fails_its_turn_only(
    client: Client, server: RunningTestServer
) -> None:
    await client.send(*turn("long", "x" * 6_145))
    error = (await client.until("error"))[-1]
    assert (error["id"], error["code"]) == ("long", "text_too_long")
    await settle(lambda: not server.service.active_turns)
    assert (await client.speak("right"))[-1]["reason"] == "done"


async def test_at_capacity_a_turn_is_refused_at_once(client: Client) -> None:
    for number in range(8):
        await client.send({"type": "open", "id": str(number)})
    for _ in range(8):
        assert (await client.until("opened"))[-1]["type"] == "opened"
    await client.send(*turn("extra"))
    error = (await client.until("error", seconds=1))[-1]
    assert (error["id"], error["code"], error["retryable"]) == ("extra", "at_capacity", True)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xc1",
        b"\x81\xa4type",
        b"not msgpack at all",
        msgpack.packb([1, 2, 3]),
        msgpack.packb({"type": 3}),
        msgpack.packb({"type": "text", "id": 3, "text": "x"}),
        msgpack.packb({"type": "text", "id": "x" * 65, "text": "x"}),
        msgpack.packb({"type": "open"}),
        b"\x91" * 5_000 + b"\xc0",
        msgpack.packb(msgpack.ExtType(1, b"x" * 10)),
    ],
)
async def test_an_invalid_message_ends_its_connection_only(
    client: Client, server: RunningTestServer, garbage: bytes
) -> None:
    await client.send({"type": "open", "id": "a"})
    await client.until("opened")
    await client.ws.send_bytes(garbage)
    error = (await client.until("error"))[-1]
    assert (error["id"], error["code"]) == (None, "bad_message")
    closing = await client.ws.receive(timeout=5)
    assert closing.type is aiohttp.WSMsgType.CLOSE
    assert client.ws.close_code == 1008
    await settle(lambda: not server.service.active_turns)
    async with aiohttp.ClientSession() as s, s.ws_connect(server.ws_url + protocol.PATH) as ws:
        other = Client(ws)
        assert (await other.receive())["type"] == "hello"
        assert (await other.speak("b"))[-1]["reason"] == "done"


async def test_an_oversized_message_ends_its_connection(client: Client) -> None:
    await client.ws.send_bytes(b"\x00" * 100_000)
    message = await client.ws.receive(timeout=5)
    while message.type is aiohttp.WSMsgType.BINARY:
        message = await client.ws.receive(timeout=5)
    assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


async def test_unknown_messages_and_fields_are_ignored(client: Client) -> None:
    await client.send({"type": "dance", "id": "a"}, {"type": "text", "id": "gone", "text": "x"})
    assert (await client.speak("a", future_field=True))[-1]["reason"] == "done"


async def test_a_cancel_right_after_the_open_leaves_nothing(
    client: Client, server: RunningTestServer
) -> None:
    for number in range(8):
        # In one segment, so that the server reads them without a pause between.
        await client.send(
            {"type": "open", "id": str(number)}, {"type": "cancel", "id": str(number)}
        )
    for _ in range(8):
        last = (await client.until("done"))[-1]
        assert last["reason"] == "cancelled"
    await settle(lambda: not server.service.active_turns)
    await settle(lambda: not server.service.engine.health().active_turns, 1)


async def test_a_lost_connection_frees_its_turns(client: Client, server: RunningTestServer) -> None:
    for turn_id in "abc":
        await client.send(
            {"type": "open", "id": turn_id}, {"type": "text", "id": turn_id, "text": TEXT}
        )
    await client.until("audio")
    assert client.ws._response.connection is not None
    client.ws._response.connection.transport.abort()  # type: ignore[union-attr]
    await settle(lambda: not server.service.active_turns, seconds=1)
    await settle(lambda: not server.service.engine.health().active_turns, 1)


async def test_a_client_that_consumes_nothing_gets_only_its_window(client: Client) -> None:
    await client.send(*turn("slow", TEXT * 3, window_s=1.0))
    await asyncio.sleep(0.5)
    await client.send(*turn("quick", "Hello."))
    seen = {"slow": 0, "quick": 0}
    quick_done = False
    try:
        while True:
            message = await client.receive(1.5)
            if message["type"] == "audio":
                seen[message["id"]] += len(message["data"]) // 2
            assert (message["type"], message.get("id")) != ("done", "slow")
            quick_done |= message["type"] == "done"
    except TimeoutError:
        pass
    assert quick_done
    assert 24_000 <= seen["slow"] < 24_000 + 12 * 2_048
    await client.send({"type": "consumed", "id": "slow", "samples": seen["slow"]})
    more = 0
    while True:
        message = await client.receive(5)
        if message["type"] == "audio":
            more += len(message["data"]) // 2
            await client.send(
                {"type": "consumed", "id": "slow", "samples": len(message["data"]) // 2}
            )
        elif message["type"] == "done":
            break
    assert message["stats"]["audio_s"] == pytest.approx((seen["slow"] + more) / 24_000)


async def test_an_idle_turn_is_ended(engine: SpeechEngine) -> None:
    async with (
        serving(engine, limits=Limits(turn_idle_s=0.3)) as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(server.ws_url + protocol.PATH) as ws,
    ):
        client = Client(ws)
        await client.receive()
        await client.send({"type": "open", "id": "a"})
        error = (await client.until("error"))[-1]
        assert (error["id"], error["code"]) == ("a", "timed_out")
        await settle(lambda: not server.service.active_turns)
        # A turn that is not read is as idle as one without text.
        await client.send(*turn("b", TEXT * 3, window_s=0.5))
        assert (await client.until("error"))[-1]["code"] == "timed_out"


async def test_a_connection_without_turns_is_closed_after_its_limit(
    engine: SpeechEngine,
) -> None:
    async with (
        serving(engine, limits=Limits(connection_idle_s=0.2)) as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(server.ws_url + protocol.PATH) as ws,
    ):
        await Client(ws).receive()
        assert (await ws.receive(timeout=4)).type is aiohttp.WSMsgType.CLOSE
        assert ws.close_code == 1000


async def test_shutting_down_lets_turns_end_and_says_goodbye(
    client: Client, server: RunningTestServer
) -> None:
    await client.send(*turn("a", TEXT * 2))
    await client.until("audio")
    server.server.stop()
    messages = await client.until("done")
    assert any(message["type"] == "goodbye" for message in messages)
    assert messages[-1]["reason"] == "done"
    assert (await client.ws.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
    assert client.ws.close_code == 1001
    assert await asyncio.wait_for(server.task, 10) == 0
