"""kyutai's protocol, spoken as unmute's client speaks it."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgpack
import numpy as np
import pytest

from orpheus_plugin.errors import InvalidOptions
from orpheus_plugin.server.config import Limits
from orpheus_plugin.server.voice_map import VoiceMap
from orpheus_plugin.speech_engine import SpeechEngine
from tests.support.servers import RunningTestServer, serving

TEXT = "The quick brown fox jumps over the lazy dog. And so on it goes."
FIRST_WORDS = "The first sentence is whole. And the second"
HEADERS = {"kyutai-api-key": "public_token"}


class Unmute:
    """What unmute's TextToSpeech does on the wire."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def start_up(self) -> None:
        """Ready within half a second, or the service counts as missing."""
        async with asyncio.timeout(0.5):
            for _ in range(10):
                message = await self.receive()
                if message["type"] == "Ready":
                    return
                if message["type"] == "Error":
                    raise RuntimeError(message["message"])

    async def receive(self) -> dict[str, Any]:
        message = await self.ws.receive(timeout=20)
        assert message.type is aiohttp.WSMsgType.BINARY, message
        unpacked: dict[str, Any] = msgpack.unpackb(message.data)
        return unpacked

    async def send(self, **message: object) -> None:
        await self.ws.send_bytes(msgpack.packb(message))

    async def say(self, text: str) -> None:
        for word in text.split():
            await self.send(type="Text", text=word)
        await self.send(type="Eos")

    async def rest(self) -> list[dict[str, Any]]:
        """Everything up to the close, which must be a clean one."""
        messages = []
        async for message in self.ws:
            messages.append(msgpack.unpackb(message.data))
        assert self.ws.close_code == 1000
        return messages


@asynccontextmanager
async def connected(server: RunningTestServer, **query: str) -> AsyncIterator[Unmute]:
    query = {"format": "PcmMessagePack", "cfg_alpha": "1.5", **query}
    url = f"{server.ws_url}/api/tts_streaming?{urlencode(query)}"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, headers=HEADERS, max_msg_size=0) as ws,
    ):
        yield Unmute(ws)


async def settle(condition: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_words_and_audio_come_until_a_clean_close(server: RunningTestServer) -> None:
    async with connected(server, voice="unmute-prod-website/p329_022.wav") as client:
        await client.start_up()
        await client.say(TEXT)
        messages = await client.rest()
    words = [message for message in messages if message["type"] == "Text"]
    assert [word["text"] for word in words] == TEXT.split()
    starts = [word["start_s"] for word in words]
    assert starts == sorted(starts)
    assert all(word["stop_s"] >= word["start_s"] for word in words)
    audio = np.concatenate([m["pcm"] for m in messages if m["type"] == "Audio"])
    assert words[-1]["start_s"] <= audio.size / 24_000
    assert 0.01 < np.abs(audio).max() <= 1


async def test_audio_flows_before_the_text_has_ended(server: RunningTestServer) -> None:
    async with connected(server) as client:
        await client.start_up()
        for word in FIRST_WORDS.split():
            await client.send(type="Text", text=word)
        while (await client.receive())["type"] != "Audio":
            pass
        await client.send(type="Text", text="one.")
        await client.send(type="Eos")
        words = [m["text"] for m in await client.rest() if m["type"] == "Text"]
        assert words[-1] == "one."


async def test_text_frames_and_a_bare_eos_are_accepted(server: RunningTestServer) -> None:
    async with connected(server) as client:
        await client.start_up()
        await client.ws.send_str("Hello")
        await client.ws.send_str("there.")
        await client.ws.send_bytes(b"\0")
        words = [m["text"] for m in await client.rest() if m["type"] == "Text"]
    assert words == ["Hello", "there."]


async def test_at_capacity_there_is_an_error_in_place_of_ready(server: RunningTestServer) -> None:
    async with asyncio.timeout(20):
        turns = [server.service.engine.open_turn() for _ in range(8)]
        async with connected(server) as client:
            with pytest.raises(RuntimeError, match=r"^no free channels$"):
                await client.start_up()
            await client.rest()
        for turn in turns:
            await turn.cancel()
        async with connected(server) as client:
            await client.start_up()


async def test_closing_the_connection_stops_the_speech(server: RunningTestServer) -> None:
    async with connected(server) as client:
        await client.start_up()
        await client.say(TEXT * 10)
        while (await client.receive())["type"] != "Audio":
            pass
        assert server.service.active_turns == 1
        await client.ws.close()
        await settle(lambda: not server.service.active_turns, 1)
    await settle(lambda: not server.service.engine.health().active_turns, 1)


async def test_a_client_that_answers_no_ping_is_disconnected(engine: SpeechEngine) -> None:
    async with (
        serving(engine, limits=Limits(heartbeat_s=0.2)) as server,
        aiohttp.ClientSession() as session,
    ):
        # It answers no ping, as a machine that lost its network.
        url = f"{server.ws_url}/api/tts_streaming?format=PcmMessagePack"
        ws = await session.ws_connect(url, autoping=False)
        await ws.receive()
        await settle(lambda: not server.service.active_turns, 2)


async def test_without_text_the_close_is_clean(server: RunningTestServer) -> None:
    async with connected(server) as client:
        await client.start_up()
        await client.send(type="Text", text="")
        await client.send(type="Eos")
        assert await client.rest() == []


async def test_a_wrong_key_is_refused_before_the_upgrade(engine: SpeechEngine) -> None:
    async with serving(engine, api_key="secret") as server:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            async with connected(server):
                pass
        assert refusal.value.status == 401
        async with connected(server, auth_id="secret") as client:
            await client.start_up()


async def test_build_info_answers_without_a_key(engine: SpeechEngine) -> None:
    async with (
        serving(engine, api_key="secret") as server,
        aiohttp.ClientSession() as session,
        session.get(f"{server.url}/api/build_info") as response,
    ):
        assert response.status == 200
        assert (await response.json())["server"] == "orpheus_plugin"


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x93\x01\x02\x03", msgpack.packb({"type": 1})])
async def test_garbage_is_an_error_and_the_next_client_is_served(
    server: RunningTestServer, garbage: bytes
) -> None:
    async with connected(server) as client:
        await client.start_up()
        await client.ws.send_bytes(garbage)
        assert (await client.receive())["type"] == "Error"
        await client.ws.receive(timeout=5)
        assert client.ws.close_code == 1011
    await settle(lambda: not server.service.active_turns)
    async with connected(server) as client:
        await client.start_up()
        await client.say("Hello.")
        assert await client.rest()


async def test_a_custom_voice_is_spoken_with_the_default(server: RunningTestServer) -> None:
    async with connected(server) as client:
        await client.send(type="Voice", embeddings=[0.5] * 64_000, shape=[1, 512, 125])
        await client.start_up()
        await client.say("Hello.")
        assert any(message["type"] == "Audio" for message in await client.rest())


async def test_a_custom_voice_is_an_error_if_configured(engine: SpeechEngine) -> None:
    async with serving(engine, voices=VoiceMap(custom="error")) as server:
        async with connected(server) as client:
            await client.send(type="Voice", embeddings=[0.5] * 640, shape=[1, 5, 128])
            with pytest.raises(RuntimeError, match="custom voice"):
                await client.start_up()
        async with connected(server) as client:
            began = time.monotonic()
            await client.start_up()
            assert time.monotonic() - began < 0.3


async def test_speed_is_an_option_of_the_address(server: RunningTestServer) -> None:
    lengths = []
    for query in ({}, {"speed": "2"}):
        async with connected(server, format="Pcm", seed="5", **query) as client:
            await client.say("Hello there.")
            lengths.append(sum([len(message.data) async for message in client.ws]))
    assert lengths[1] * 2 == pytest.approx(lengths[0], rel=0.05)


async def test_bare_formats_carry_the_same_audio(server: RunningTestServer) -> None:
    av = pytest.importorskip("av")
    async with connected(server, format="Pcm", seed="5") as client:
        await client.say("Hello there.")
        raw = b"".join([message.data async for message in client.ws])
    async with connected(server, format="OggOpus", seed="5") as client:
        await client.say("Hello there.")
        opus = b"".join([message.data async for message in client.ws])
    async with connected(server, format="OggOpusMessagePack", seed="5") as client:
        await client.start_up()
        await client.say("Hello there.")
        messages = await client.rest()
    wrapped = b"".join(bytes(m["data"]) for m in messages if m["type"] == "OggOpus")
    for data in (opus, wrapped):
        with av.open(io.BytesIO(data)) as container:
            rate = container.streams.audio[0].rate
            seconds = sum(frame.samples for frame in container.decode(audio=0)) / rate
        assert seconds == pytest.approx(len(raw) / 4 / 24_000, abs=0.05)


async def test_an_unknown_voice_is_an_error_in_place_of_ready(
    server: RunningTestServer,
) -> None:
    async with connected(server, voice="nobody") as client:
        with pytest.raises(RuntimeError, match="tara, leo"):
            await client.start_up()


async def test_the_operators_voice_names_come_first(engine: SpeechEngine, tmp_path: Path) -> None:
    table = tmp_path / "voices.json"
    table.write_text(json.dumps({"voices": {"expresso/*": "leo", "alloy": "leo"}}))
    voices = VoiceMap.load(table)
    assert voices("expresso/ex01-ex02.wav") == "leo"
    assert voices("alloy") == "leo"
    assert voices("tara") == "tara"
    assert voices(None) is None
    async with (
        serving(engine, voices=voices) as server,
        connected(server, voice="expresso/a.wav") as client,
    ):
        await client.start_up()
    for bad in ("[]", "{", '{"voices": {"a": 1}}', '{"voices": {}, "custom": "shout"}'):
        table.write_text(bad)
        with pytest.raises(InvalidOptions):
            VoiceMap.load(table)
