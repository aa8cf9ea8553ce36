"""vLLM-Omni's websocket, as its documentation has it, and as LiveKit's Baseten plugin speaks it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import subprocess
import sys
import textwrap
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import pytest

from orpheus_plugin.server.protocols import omni
from orpheus_plugin.server.voice_map import VoiceMap
from orpheus_plugin.speech_engine import SpeechEngine
from tests.support.servers import RunningTestServer, serving

TEXT = "The quick brown fox jumps over the lazy dog. And so on it goes."
STREAMED = {"response_format": "pcm", "stream_audio": True}


class Client:
    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.audio: list[bytes] = []

    async def send(self, kind: str, **fields: object) -> None:
        await self.ws.send_str(json.dumps({"type": kind, **fields}))

    async def receive(self) -> dict[str, Any]:
        """The next message; audio before it is kept apart."""
        while True:
            message = await self.ws.receive(timeout=20)
            if message.type is aiohttp.WSMsgType.BINARY:
                self.audio.append(message.data)
                continue
            assert message.type is aiohttp.WSMsgType.TEXT, message
            loaded: dict[str, Any] = json.loads(message.data)
            return loaded

    async def until(self, kind: str) -> list[dict[str, Any]]:
        seen = [await self.receive()]
        while seen[-1]["type"] != kind:
            seen.append(await self.receive())
        return seen

    async def speak(self, text: str = TEXT) -> list[dict[str, Any]]:
        for word in text.split(" "):
            await self.send("input.text", text=f"{word} ")
        await self.send("input.done")
        return await self.until("session.done")


@asynccontextmanager
async def connected(server: RunningTestServer) -> AsyncIterator[Client]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(server.ws_url + omni.PATH, max_msg_size=0) as ws,
    ):
        yield Client(ws)


async def test_an_utterance_is_streamed_by_sentence(server: RunningTestServer) -> None:
    async with connected(server) as client:
        await client.send("session.config", model="orpheus", voice="leo", seed=3, **STREAMED)
        messages = await client.speak()
    starts = [m for m in messages if m["type"] == "audio.start"]
    dones = [m for m in messages if m["type"] == "audio.done"]
    assert [m["sentence_index"] for m in starts] == list(range(len(starts)))
    assert " ".join(m["sentence_text"] for m in dones) == TEXT
    assert all((m["sample_rate"], m["channels"], m["format"]) == (24_000, 1, "pcm") for m in starts)
    assert sum(m["total_bytes"] for m in dones) == sum(map(len, client.audio)) > 4_000
    assert messages[-1] == {
        "type": "session.done",
        "utterance_index": 0,
        "total_sentences": len(starts),
    }


async def test_a_connection_accepts_several_utterances_and_new_options(
    server: RunningTestServer,
) -> None:
    async with connected(server) as client:
        await client.send("session.config", **STREAMED)
        await client.send("input.done")  # to keep the connection alive
        assert (await client.receive())["total_sentences"] == 0
        # Without waiting for one another.
        for text in ("One.", "Two."):
            await client.send("input.text", text=text)
            await client.send("input.done")
        await client.send("session.config", voice="leo", response_format="wav")
        await client.send("input.text", text="Three.")
        await client.send("input.done")
        done = [(await client.until("session.done"))[-1]["utterance_index"] for _ in range(3)]
        assert done == [1, 2, 3]
        assert client.audio[-1].startswith(b"RIFF")
        await client.send("session.close")
        assert (await client.ws.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
        assert client.ws.close_code == 1000


@pytest.mark.parametrize("name", [None, "wav", "flac", "mp3", "opus", "pcm"])
async def test_unstreamed_audio_is_one_file_a_sentence(
    server: RunningTestServer, name: str | None
) -> None:
    async with connected(server) as client:
        await client.send("session.config", response_format=name, speed=2.0)
        messages = await client.speak("Hello there.")
    assert len(client.audio) == messages[-1]["total_sentences"] == 1
    if name in (None, "wav"):
        with wave.open(io.BytesIO(client.audio[0])) as file:
            assert file.getnframes() * 2 == len(client.audio[0]) - 44


async def test_word_times_come_with_the_audio_in_json(server: RunningTestServer) -> None:
    async with connected(server) as client:
        await client.send("session.config", word_timestamps=True, **STREAMED)
        messages = await client.speak("Hello there.")
    *chunks, last = [m for m in messages if m["type"] == "audio.chunk"]
    assert not client.audio
    assert [m["chunk_id"] for m in chunks] == list(range(len(chunks)))
    audio = b"".join(base64.b64decode(m["audio_b64"]) for m in chunks)
    assert chunks[-1]["chunk_end_ms"] == pytest.approx(len(audio) / 48, abs=0.2)
    assert [m["timestamps"] for m in chunks] == [None] * len(chunks)
    assert last["audio_b64"] == ""
    assert [word["word"] for word in last["timestamps"]] == ["Hello", "there."]
    assert all(word["start_ms"] <= word["end_ms"] for word in last["timestamps"])


async def test_baseten_wants_word_times_of_each_sentence(server: RunningTestServer) -> None:
    async with connected(server) as client:
        await client.send(
            "session.config",
            timestamp_type="word",
            timestamp_transport_strategy="sync",
            task_type="Base",
            language="Auto",
            **STREAMED,
        )
        messages = await client.speak(TEXT * 2)
    words = []
    for message in messages:
        if message["type"] == "audio.done":
            alignment = message["timestamp_info"]["word_alignment"]
            words += alignment["words"]
            assert alignment["word_start_times_seconds"][0] < 0.5, "from the sentence's start"
            assert max(alignment["word_end_times_seconds"]) <= message["total_bytes"] / 48_000 + 0.5
    assert words == (TEXT * 2).split()


async def test_text_with_nothing_to_speak_gives_a_short_silence(server: RunningTestServer) -> None:
    async with connected(server) as client:
        await client.send("session.config", **STREAMED)
        messages = await client.speak("...")
    assert messages[-1]["total_sentences"] == 1
    assert sum(map(len, client.audio)) == 4_800
    assert not np.frombuffer(b"".join(client.audio), "<i2").any()


@pytest.mark.parametrize(
    "wrong",
    [
        "nothing",
        "[]",
        '{"type": "dance"}',
        '{"text": "x"}',
        '{"type": "input.text"}',
        '{"type": "session.config", "voice": "nobody"}',
        '{"type": "session.config", "speed": 9}',
        '{"type": "session.config", "response_format": "midi"}',
        '{"type": "session.config", "stream_audio": true}',
        '{"type": "session.config", "temperature": "hot"}',
        '{"type": "voice.add", "name": "me", "audio_data": ""}',
    ],
)
async def test_a_wrong_message_is_an_error_and_the_connection_continues(
    server: RunningTestServer, wrong: str
) -> None:
    async with connected(server) as client:
        await client.ws.send_str(wrong)
        error = await client.receive()
        assert error["type"] == "error"
        assert error["message"]
        await client.send("session.config", **STREAMED)
        assert (await client.speak("Hello."))[-1]["total_sentences"] == 1


async def test_text_before_the_configuration_is_an_error(server: RunningTestServer) -> None:
    async with connected(server) as client:
        await client.send("input.text", text="Hello.")
        assert "session.config" in (await client.receive())["message"]


async def test_a_text_too_long_fails_its_utterance_only(server: RunningTestServer) -> None:
    async with connected(server) as client:
        await client.send("session.config", **STREAMED)
        await client.send("input.text", text="x" * 5_000)
        await client.send("input.text", text="y" * 5_000)
        await client.send("input.done")
        seen = await client.until("error")
        assert seen[-1]["code"] == "text_too_long"
        assert (await client.until("session.done"))[-1]["utterance_index"] == 0
        assert (await client.speak("Hello."))[-1]["utterance_index"] == 1


async def test_voices_are_listed(server: RunningTestServer) -> None:
    async with connected(server) as client:
        await client.send("voice.list")
        listed = await client.receive()
    assert listed["voices"] == ["tara", "leo"]
    assert listed["uploaded_voices"] == []


async def test_a_recorded_voice_is_spoken_with_a_named_one_or_refused(engine: SpeechEngine) -> None:
    for custom in ("default", "error"):
        voices = VoiceMap(custom=custom)
        async with serving(engine, voices=voices) as server, connected(server) as client:
            await client.send("session.config", ref_audio="AAAA", ref_text="x", **STREAMED)
            if custom == "error":
                assert "recorded voice" in (await client.receive())["message"]
            else:
                assert (await client.speak("Hello."))[-1]["type"] == "session.done"


async def test_an_unconfigured_or_idle_connection_is_closed(
    server: RunningTestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(omni, "CONFIG_S", 0.1)
    monkeypatch.setattr(omni, "IDLE_S", 0.1)
    async with connected(server) as client:
        assert (await client.receive())["type"] == "error"
        await client.ws.receive(timeout=5)
        assert client.ws.close_code == 1008
    async with connected(server) as client:
        await client.send("session.config", **STREAMED)
        await client.ws.receive(timeout=5)
        assert client.ws.close_code == 1000


async def test_livekits_published_plugin_works_with_this_server(server: RunningTestServer) -> None:
    code = textwrap.dedent(
        f"""
        import asyncio, aiohttp
        from livekit.plugins import baseten

        async def main():
            async with aiohttp.ClientSession() as session:
                tts = baseten.TTS(model="qwen3-tts", api_key="any", voice="tara",
                    word_timestamps=True, model_endpoint="{server.ws_url}{omni.PATH}",
                    http_session=session)
                for _ in range(2):
                    async with tts.stream() as stream:
                        for delta in ["Hel", "lo", " there", ".", " How", " are", " you", "?"]:
                            stream.push_text(delta)
                        stream.flush()
                        stream.end_input()
                        heard = [audio async for audio in stream]
                        words = []
                        for audio in heard:
                            words += audio.frame.userdata.get("lk.timed_transcripts", [])
                        print(sum(audio.frame.duration for audio in heard), "".join(words).split())
                print((await tts.synthesize("...").collect()).duration, [])
                await tts.aclose()

        asyncio.run(main())
        """
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    first, second, silence = (line.partition(" ") for line in done.stdout.splitlines())
    for seconds, _, words in (first, second):
        assert float(seconds) > 0.05
        assert words == "['Hello', 'there.', 'How', 'are', 'you?']"
    assert float(silence[0]) >= 0.1
