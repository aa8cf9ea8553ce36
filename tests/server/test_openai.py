"""OpenAI's speech API, called by OpenAI's own client."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import pytest

from orpheus_plugin.server.encoders import WithTempo, make_encoder
from orpheus_plugin.speech_engine import SpeechEngine
from tests.support.servers import RunningTestServer, serving

if TYPE_CHECKING:
    import openai
else:
    openai = pytest.importorskip("openai")
av: Any = pytest.importorskip("av")

TEXT = "The quick brown fox jumps over the lazy dog."


@pytest.fixture
async def client(engine: SpeechEngine) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        serving(engine, api_key="secret") as server,
        openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="secret", max_retries=0
        ) as connected,
    ):
        yield connected


def seconds_of(data: bytes) -> float:
    with av.open(io.BytesIO(data)) as container:
        rate: int = container.streams.audio[0].rate
        total: int = sum(frame.samples for frame in container.decode(audio=0))
        return total / rate


async def test_openais_client_for_azure_works(engine: SpeechEngine) -> None:
    async with (
        serving(engine, api_key="secret") as server,
        openai.AsyncAzureOpenAI(
            azure_endpoint=server.url, api_key="secret", api_version="2025-03-01", max_retries=0
        ) as azure,
    ):
        answer = await azure.audio.speech.create(
            model="tts-1", voice="alloy", input=TEXT, response_format="wav", extra_body={"seed": 3}
        )
    assert seconds_of(answer.content) > 0.05


async def test_every_format_holds_the_whole_speech(client: openai.AsyncOpenAI) -> None:
    seconds = {}
    for name in ("mp3", "opus", "aac", "flac", "wav", "pcm"):
        answer = await client.audio.speech.create(
            model="tts-1", voice="tara", input=TEXT, response_format=name, extra_body={"seed": 3}
        )
        data = answer.content
        seconds[name] = len(data) / 48_000 if name == "pcm" else seconds_of(data)
    for name, length in seconds.items():
        # mp3 and aac begin with their encoders' delay.
        assert length == pytest.approx(seconds["pcm"], abs=0.15), name
    assert seconds["pcm"] > 0.05


async def test_mp3_is_the_default_format(client: openai.AsyncOpenAI) -> None:
    answer = await client.audio.speech.create(model="tts-1", voice="tara", input="Hello.")
    assert answer.response.headers["content-type"] == "audio/mpeg"
    assert answer.content[:2] in (b"\xff\xf3", b"\xff\xf2")


async def test_audio_streams_while_it_is_generated(client: openai.AsyncOpenAI) -> None:
    async with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="tara", input=TEXT * 3, response_format="pcm"
    ) as answer:
        chunks = [chunk async for chunk in answer.iter_bytes(1_024)]
    assert len(chunks) > 1


async def test_server_sent_events_carry_the_audio_and_the_usage(client: openai.AsyncOpenAI) -> None:
    async with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts",
        voice="alloy",
        input=TEXT,
        response_format="pcm",
        stream_format="sse",
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [
            json.loads(line.removeprefix("data: "))
            async for line in answer.iter_lines()
            if line.startswith("data: ")
        ]
    *deltas, done = events
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert sum(len(base64.b64decode(event["audio"])) for event in deltas) >= 2_048
    assert done["type"] == "speech.audio.done"
    assert done["usage"]["total_tokens"] == (
        done["usage"]["input_tokens"] + done["usage"]["output_tokens"]
    )


async def test_speed_changes_the_length(client: openai.AsyncOpenAI) -> None:
    lengths = {}
    for speed in (0.25, 0.7, 1.0, 2.0, 4.0):
        answer = await client.audio.speech.create(
            model="tts-1", voice="tara", input=TEXT, speed=speed, response_format="pcm",
            extra_body={"seed": 3},
        )  # fmt: skip
        lengths[speed] = len(answer.content)
    for speed, length in lengths.items():
        assert length * speed == pytest.approx(lengths[1.0], rel=0.08), speed


async def test_gain_changes_the_loudness(client: openai.AsyncOpenAI) -> None:
    means = []
    for gain in (0.0, -12.0):
        answer = await client.audio.speech.create(
            model="tts-1", voice="tara", input=TEXT, response_format="pcm",
            extra_body={"seed": 3, "gain_db": gain},
        )  # fmt: skip
        means.append(np.abs(np.frombuffer(answer.content, "<i2").astype(float)).mean())
    assert means[1] == pytest.approx(means[0] * 10 ** (-12 / 20), rel=0.02)


@pytest.mark.parametrize(
    "wrong",
    [
        {"voice": "nobody"},
        {"input": ""},
        {"input": "  "},
        {"input": "x" * 6_145},
        {"speed": 5.0},
        {"response_format": "midi"},
        {"stream_format": "smoke"},
        {"extra_body": {"temperature": "hot"}},
        {"extra_body": {"seed": -1}},
        {"extra_body": {"gain_db": 99}},
    ],
)
async def test_a_wrong_request_is_a_bad_request(
    client: openai.AsyncOpenAI, wrong: dict[str, Any]
) -> None:
    request: dict[str, Any] = {"model": "tts-1", "voice": "tara", "input": "Hello.", **wrong}
    with pytest.raises(openai.BadRequestError) as refusal:
        await client.audio.speech.create(**request)
    assert refusal.value.code in ("invalid_options", "unknown_voice", "text_too_long")


async def test_a_wrong_key_is_an_authentication_error(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong").audio.speech.create(
            model="tts-1", voice="tara", input="Hello."
        )


async def test_capacity_is_a_rate_limit_that_the_client_retries(server: RunningTestServer) -> None:
    turns = [server.service.engine.open_turn() for _ in range(8)]
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any") as patient:
        with pytest.raises(openai.RateLimitError):
            await patient.with_options(max_retries=0).audio.speech.create(
                model="tts-1", voice="tara", input="Hello."
            )
        retried = asyncio.create_task(
            patient.audio.speech.create(model="tts-1", voice="tara", input="Hello.")
        )
        await asyncio.sleep(0.2)
        for turn in turns:
            await turn.cancel()
        assert (await retried).content


async def test_models_are_listed_under_every_accepted_name(
    client: openai.AsyncOpenAI, server: RunningTestServer
) -> None:
    names = ["crafted", "tts-1", "tts-1-hd"]
    assert [model.id async for model in client.models.list()] == names
    for name in names:
        assert (await client.models.retrieve(name)).id == name
    with pytest.raises(openai.NotFoundError) as missing:
        await client.models.retrieve("owner/other")
    assert "crafted" in missing.value.message
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{server.url}/v1/audio/models") as response,
    ):
        assert [model["id"] for model in (await response.json())["models"]] == names


async def test_voices_are_objects_or_names(server: RunningTestServer) -> None:
    async with aiohttp.ClientSession() as session:
        for query, voices in (
            ("", [{"id": name, "name": name, "kind": "base"} for name in ("tara", "leo")]),
            ("?legacy=true", ["tara", "leo"]),
        ):
            async with session.get(f"{server.url}/v1/audio/voices{query}") as response:
                assert await response.json() == {"voices": voices}


@pytest.mark.parametrize(
    "name",
    [
        *("voice", "response_format", "speed", "stream_format", "stream"),
        *("temperature", "top_p", "repetition_penalty", "seed", "model", "instructions"),
    ],
)
async def test_null_is_the_same_as_absent(server: RunningTestServer, name: str) -> None:
    body = {"input": "Hello.", "response_format": "pcm", name: None}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{server.url}/v1/audio/speech", json=body) as response,
    ):
        assert response.status == 200
        kind = "audio/mpeg" if name == "response_format" else "audio/pcm"
        assert response.headers["Content-Type"] == kind
        assert response.headers.get("X-Sample-Rate") == (None if kind == "audio/mpeg" else "24000")
        assert len(await response.read()) > 100


@pytest.mark.parametrize("text", ["...", ".", "😀", "<think>Hm.</think>", "!?"])
@pytest.mark.parametrize("audio_format", ["pcm", "wav", "mp3"])
async def test_text_with_nothing_to_speak_gives_a_short_silence(
    server: RunningTestServer, text: str, audio_format: str
) -> None:
    async with aiohttp.ClientSession() as session:
        body = {"input": text, "response_format": audio_format}
        async with session.post(f"{server.url}/v1/audio/speech", json=body) as response:
            data = await response.read()
        if audio_format == "pcm":
            assert data == bytes(4_800)
        else:
            assert 0.1 <= seconds_of(data) < 0.25  # an mp3 has its encoder's delay before it
        async with session.post(f"{server.url}/predict", json={"prompt": text}) as response:
            assert await response.read() == bytes(4_800)


async def test_stream_means_events_unless_the_format_is_named(server: RunningTestServer) -> None:
    async with aiohttp.ClientSession() as session:
        for more, kind in (
            ({"stream": True}, "text/event-stream"),
            ({"stream": False}, "audio/pcm"),
            ({"stream": True, "stream_format": "audio"}, "audio/pcm"),
        ):
            body = {"input": "Hello.", "response_format": "pcm", **more}
            async with session.post(f"{server.url}/v1/audio/speech", json=body) as response:
                assert response.headers["Content-Type"] == kind
                await response.read()


@pytest.mark.parametrize("voice", ["alloy", "Echo", {"id": "onyx"}, "autumn", "pierre", ""])
async def test_voices_of_other_vendors_are_spoken(server: RunningTestServer, voice: Any) -> None:
    body = {"input": "Hello.", "response_format": "pcm", "voice": voice}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{server.url}/v1/audio/speech", json=body) as response,
    ):
        assert response.status == 200


async def test_a_client_that_disconnects_stops_the_speech(server: RunningTestServer) -> None:
    async with aiohttp.ClientSession() as session:
        response = await session.post(
            f"{server.url}/v1/audio/speech",
            json={"input": TEXT * 20, "voice": "tara", "response_format": "pcm"},
        )
        await response.content.readany()
        assert server.service.active_turns == 1
        response.close()
        async with asyncio.timeout(2):
            while server.service.active_turns:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("body", ["", "[]", "{", '{"input": 3}', "[" * 5_000, "\udcff"])
async def test_garbage_is_a_bad_request(server: RunningTestServer, body: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{server.url}/v1/audio/speech", data=body.encode("utf-8", "surrogateescape")
        ) as response,
    ):
        assert response.status == 400
        assert (await response.json())["error"]["message"]


async def test_a_body_beyond_the_limit_is_not_read(server: RunningTestServer) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{server.url}/v1/audio/speech", data=b"x" * 200_000) as response,
    ):
        assert response.status == 413


@pytest.mark.parametrize("name", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
def test_an_encoder_streams(name: str) -> None:
    encoder = make_encoder(name)
    tone = (np.sin(np.arange(24_000) / 24_000 * 2 * np.pi * 440) * 8_000).astype("<i2").tobytes()
    sizes = [len(encoder.push(tone[at : at + 4_096])) for at in range(0, len(tone), 4_096)]
    assert sum(sizes[:4]) > 0, "a third of a second in, and nothing out"
    assert all(sum(sizes[at : at + 3]) > 0 for at in range(1, len(sizes) - 3))
    encoder.finish()


def test_the_encoders_are_loaded_before_the_first_request() -> None:
    """On the event loop that would delay everyone's audio by a third of a second."""
    code = (
        "import asyncio, sys\n"
        "from aiohttp import web\n"
        "from orpheus_plugin.server.protocols.openai import add_routes\n"
        "async def main():\n"
        "    app = web.Application()\n"
        "    add_routes(app, None)\n"
        "    assert 'av' not in sys.modules\n"
        "    await web.AppRunner(app).setup()\n"
        "    assert 'av' in sys.modules\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tempo_keeps_the_pitch() -> None:
    tone = (np.sin(np.arange(48_000) / 24_000 * 2 * np.pi * 440) * 8_000).astype("<i2").tobytes()
    for speed in (0.3, 0.8, 1.5, 3.0):
        tempo = WithTempo(speed, make_encoder("pcm"))
        out = b"".join(tempo.push(tone[at : at + 4_096]) for at in range(0, len(tone), 4_096))
        heard = np.frombuffer(out + tempo.finish(), "<i2").astype(float)
        assert heard.size == pytest.approx(48_000 / speed, rel=0.05)
        peak = np.abs(np.fft.rfft(heard)).argmax() * 24_000 / heard.size
        assert peak == pytest.approx(440, abs=5)
