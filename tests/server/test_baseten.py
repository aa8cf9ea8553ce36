"""Baseten's Orpheus protocol: its own clients send words, LiveKit's plugin an LLM's deltas; both
are understood."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from orpheus_plugin.server.config import Limits
from orpheus_plugin.server.protocols.baseten import Joiner
from orpheus_plugin.speech_engine import SpeechEngine
from tests.support.servers import RunningTestServer, serving

TEXT = "The quick brown fox jumps over the lazy dog. And so on it goes."
FIRST_WORDS = "The first sentence is whole. And the second"


@asynccontextmanager
async def connected(
    server: RunningTestServer, **options: object
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.ws_url}/v1/websocket") as ws,
    ):
        await ws.send_json({"voice": "tara", "max_tokens": 2000, "buffer_size": 10, **options})
        yield ws


async def test_words_are_spoken_and_the_connection_ends(server: RunningTestServer) -> None:
    async with connected(server) as ws:
        for word in TEXT.split():
            await ws.send_str(word)
        await ws.send_str("__END__")
        audio = b"".join([message.data async for message in ws])
        assert ws.close_code == 1000
    assert len(audio) > 0
    assert len(audio) % 2 == 0


async def test_a_speed_makes_it_shorter(server: RunningTestServer) -> None:
    lengths = []
    for options in ({"seed": 3}, {"seed": 3, "speed": 2.0}):
        async with connected(server, **options) as ws:
            await ws.send_str(TEXT)
            await ws.send_str("__END__")
            lengths.append(sum([len(message.data) async for message in ws]))
    assert lengths[1] * 2 == pytest.approx(lengths[0], rel=0.02)


async def test_audio_flows_while_text_is_still_coming(server: RunningTestServer) -> None:
    async with connected(server) as ws:
        for word in FIRST_WORDS.split():
            await ws.send_str(word)
        assert (await ws.receive(timeout=20)).type is aiohttp.WSMsgType.BINARY
        await ws.send_str("__END__")
        async for _ in ws:
            pass
        assert ws.close_code == 1000


async def test_disconnecting_stops_the_speech(server: RunningTestServer) -> None:
    async with connected(server) as ws:
        await ws.send_str(TEXT * 10)
        await ws.receive(timeout=20)
    async with asyncio.timeout(2):
        while server.service.active_turns:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "options",
    [
        {"voice": "nobody"},
        {"voice": "\u00e9" * 99},
        {"voice": "x" + "\u00e9" * 99},
        {"voice": 3},
        {"temperature": "hot"},
        {"top_p": 9},
    ],
)
async def test_wrong_options_end_the_connection_with_a_reason(
    server: RunningTestServer, options: dict[str, object]
) -> None:
    async with connected(server, **options) as ws:
        closing = await ws.receive(timeout=5)
        assert closing.type is aiohttp.WSMsgType.CLOSE
        assert ws.close_code == 1008
        assert closing.extra


@pytest.mark.parametrize("first", ["not json", "[1]", "[" * 5_000])
async def test_a_first_message_that_is_not_an_object_is_refused(
    server: RunningTestServer, first: str
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.ws_url}/v1/websocket") as ws,
    ):
        await ws.send_str(first)
        await ws.receive(timeout=5)
        assert ws.close_code == 1008


async def test_a_client_that_sends_nothing_is_disconnected(
    engine: SpeechEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serving(engine, limits=Limits(turn_idle_s=0.2)) as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.ws_url}/v1/websocket") as ws,
    ):
        await ws.receive(timeout=5)
        assert ws.close_code == 1008
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_at_capacity_the_close_code_says_so(server: RunningTestServer) -> None:
    turns = [server.service.engine.open_turn() for _ in range(8)]
    async with connected(server) as ws:
        await ws.receive(timeout=5)
        assert ws.close_code == 1013  # try again later
    for turn in turns:
        await turn.cancel()


async def test_a_post_is_answered_with_the_audio(engine: SpeechEngine) -> None:
    async with (
        serving(engine, api_key="secret") as server,
        aiohttp.ClientSession(headers={"Authorization": "Api-Key secret"}) as session,
    ):
        body = {"prompt": "Hello there.", "voice": "leo", "temperature": 0.6, "language": "en"}
        async with session.post(f"{server.url}/production/predict", json=body) as response:
            assert response.status == 200
            assert len(await response.read()) >= 4_096  # a frame
        for wrong in (
            {"prompt": " "},
            {"prompt": 3},
            {"prompt": "x" * 6_145},
            {**body, "voice": "x"},
        ):
            async with session.post(f"{server.url}/predict", json=wrong) as response:
                assert response.status == 400


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["The", "quick", "brown", "fox", "jumps."], "The quick brown fox jumps."),
        (["Hel", "lo", " wor", "ld", "!", " Fine", "."], "Hello world! Fine."),
        (["Hello ", "world ", "again."], "Hello world again."),
        (["Hello there.", "How are you?"], "Hello there. How are you?"),
        (["Yes", "."], "Yes."),
        (["Yes"], "Yes"),
        (["", "Yes"], "Yes"),
        ([], ""),
    ],
)
def test_pieces_are_joined_as_their_sender_meant(pieces: list[str], text: str) -> None:
    joiner = Joiner()
    assert "".join([*(joiner.push(piece) for piece in pieces), joiner.finish()]) == text


async def test_livekits_published_plugin_works_with_this_server(server: RunningTestServer) -> None:
    code = textwrap.dedent(
        f"""
        import asyncio, aiohttp
        from livekit.plugins import baseten

        async def main():
            async with aiohttp.ClientSession() as session:
                async def seconds(endpoint, streamed):
                    tts = baseten.TTS(api_key="any", model_endpoint=endpoint, http_session=session)
                    if not streamed:
                        return (await tts.synthesize("Hello there.").collect()).duration
                    async with tts.stream() as stream:
                        for delta in ["Hel", "lo", " there", ".", " How", " are", " you", "?"]:
                            stream.push_text(delta)
                        stream.end_input()
                        return sum([audio.frame.duration async for audio in stream])
                print(await seconds("{server.ws_url}/v1/websocket", True))
                print(await seconds("{server.url}/predict", False))

        asyncio.run(main())
        """
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    assert all(float(line) > 0.04 for line in done.stdout.split())
    assert len(done.stdout.split()) == 2
