"""Visits to a speech server, on every protocol: callers who speak, interrupt, disconnect, change
formats, send hostile texts and invalid messages, and come back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import aiohttp
import msgspec

from orpheus_plugin import protocol
from orpheus_plugin.errors import OrpheusError
from orpheus_plugin.events import AudioChunk
from orpheus_plugin.options import SpeechOptions
from orpheus_plugin.remote.engine import RemoteEngine

VISIT_S = 40.0
"""A caller leaves then: some texts take minutes to speak."""

TEXTS = (
    "Hello there, how are you today?",
    "It costs $5,000+ and ships on 3/4 at 10:30. <laugh> Really!",
    "...",
    "😀 \u202e \x00 \ufffd",
    "a. " * 1_000,
    "U.S. " * 400,
    "Mr. Smith met Dr. Jones. " * 60,
    "x" * 3_000,
    "https://example.com/a.b.c?d=e " * 40,
    "<think>quietly</think> Yes.",
    "你好。Привет. नमस्ते!",
    "x" * 7_000,  # too long
)
FORMATS = (
    {"encoding": "s16le", "sample_rate": 24_000},
    {"encoding": "s16le", "sample_rate": 16_000},
    {"encoding": "mulaw", "sample_rate": 8_000},
    {"encoding": "alaw", "sample_rate": 8_000},
)
PCM = {"response_format": "pcm", "stream_audio": True}


class Callers:
    """Visits to a server, each by one client, and how they ended."""

    def __init__(self, url: str, seed: int) -> None:
        self.url = url
        self.ws = url.replace("http", "ws", 1)
        self.random = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.audio_s = 0.0
        self.session = aiohttp.ClientSession()
        self.engine = RemoteEngine(url)

    async def run(self, until: float) -> None:
        visits: tuple[Callable[[], Awaitable[str]], ...] = (
            *(self.adapter, self.native, self.openai, self.unmute, self.baseten, self.omni),
            *(self.nonsense, self.come_and_go, self.look),
        )
        while time.monotonic() < until:
            visit = self.random.choice(visits)
            try:
                async with asyncio.timeout(VISIT_S):
                    outcome = await visit()
            except OrpheusError as error:
                outcome = error.code
            except TimeoutError:
                outcome = "heard enough"
            except (aiohttp.ClientError, ConnectionError) as error:
                outcome = type(error).__name__
            self.outcomes[f"{visit.__name__}: {outcome}"] += 1
            await asyncio.sleep(self.random.uniform(0, 0.3))

    async def aclose(self) -> None:
        await self.engine.aclose()
        await self.session.close()

    @property
    def text(self) -> str:
        return self.random.choice(TEXTS)

    @property
    def leaves(self) -> bool:
        """Whether this client disconnects while it listens."""
        return self.random.random() < 0.35

    # ---- visits

    async def adapter(self) -> str:
        """The package's client: turns on one connection, pieces of text, interruptions."""
        options = SpeechOptions(voice=self.random.choice((None, "alloy", "tara")))
        async with self.engine.open_turn(options, max_wait_s=20) as turn:
            for word in self.text.split(" "):
                turn.push_text(f"{word} ")
            turn.end()
            leaves = self.leaves
            async for event in turn:
                if isinstance(event, AudioChunk):
                    self.audio_s += event.duration_s
                    if leaves:
                        return "interrupted"
        return "done"

    async def native(self) -> str:
        """A client of its own, in another format, which may reset its connection."""
        async with self.session.ws_connect(self.ws + protocol.PATH, max_msg_size=0) as ws:
            turns = self.random.randint(1, 3)
            for number in range(turns):
                opening = {
                    "type": "open",
                    "id": str(number),
                    "format": self.random.choice(FORMATS),
                    "max_wait_s": 5.0,
                    "window_s": None,
                }
                text = {"type": "text", "id": str(number), "text": self.text}
                for message in (opening, text, {"type": "end", "id": str(number)}):
                    await ws.send_bytes(msgspec.msgpack.encode(message))
            leaves, ended = self.leaves, 0
            async for received in ws:
                kind = msgspec.msgpack.decode(received.data)["type"]
                if kind == "audio" and leaves:
                    self._reset(ws)
                    return "reset"
                ended += kind in ("done", "error")
                if ended == turns:
                    return "done"
        return "closed"

    async def openai(self) -> str:
        body = {
            "input": self.text,
            "voice": self.random.choice(("alloy", "nova", "nobody")),
            "response_format": self.random.choice(("mp3", "opus", "aac", "flac", "wav", "pcm")),
            "speed": self.random.choice((None, 0.8, 1.5)),
            "stream": self.random.choice((None, True)),
        }
        async with self.session.post(f"{self.url}/v1/audio/speech", json=body) as answer:
            leaves = self.leaves
            async for _ in answer.content.iter_any():
                if leaves:
                    answer.close()
                    return "given up"
            return str(answer.status)

    async def unmute(self) -> str:
        kind = self.random.choice(("PcmMessagePack", "Pcm", "OggOpusMessagePack", "OggOpus"))
        url = f"{self.ws}/api/tts_streaming?format={kind}&voice=unmute-prod-website/developer-1.mp3"
        async with self.session.ws_connect(url, max_msg_size=0) as ws:
            for word in self.text.split():
                await ws.send_bytes(msgspec.msgpack.encode({"type": "Text", "text": word}))
            await ws.send_bytes(b"\0")
            leaves = self.leaves
            received = 0
            async for _ in ws:
                received += 1
                if leaves and received > 3:
                    return "left"
        return f"closed {ws.close_code}"

    async def baseten(self) -> str:
        async with self.session.ws_connect(f"{self.ws}/v1/websocket", max_msg_size=0) as ws:
            await ws.send_str("{}")
            await ws.send_str(self.text)
            await ws.send_str("__END__")
            leaves = self.leaves
            async for _ in ws:
                if leaves:
                    self._reset(ws)
                    return "reset"
        return f"closed {ws.close_code}"

    async def omni(self) -> str:
        async with self.session.ws_connect(
            f"{self.ws}/v1/audio/speech/stream", max_msg_size=0
        ) as ws:
            how = self.random.choice(
                (PCM, {"response_format": "wav"}, {**PCM, "word_timestamps": True})
            )
            await ws.send_json({"type": "session.config", **how})
            for _ in range(2):
                await ws.send_json({"type": "input.text", "text": self.text})
                await ws.send_json({"type": "input.done"})
            leaves, done = self.leaves, 0
            async for received in ws:
                if received.type is aiohttp.WSMsgType.TEXT:
                    done += json.loads(received.data)["type"] == "session.done"
                if leaves or done == 2:
                    return "left" if leaves else "done"
        return f"closed {ws.close_code}"

    async def nonsense(self) -> str:
        path = self.random.choice(
            (protocol.PATH, "/v1/websocket", "/v1/audio/speech/stream", "/api/tts_streaming")
        )
        async with self.session.ws_connect(self.ws + path, max_msg_size=0) as ws:
            for _ in range(self.random.randint(1, 50)):
                await ws.send_bytes(self.random.randbytes(self.random.randint(0, 200)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    async for _ in ws:
                        pass
        return f"closed {ws.close_code}"

    async def come_and_go(self) -> str:
        """Opening and leaving in one burst."""
        for _ in range(5):
            ws = await self.session.ws_connect(self.ws + protocol.PATH)
            await ws.send_bytes(msgspec.msgpack.encode({"type": "open", "id": "a"}))
            self._reset(ws)
        return "gone"

    async def look(self) -> str:
        path = self.random.choice(("/", "/healthz", "/metrics", "/v1/audio/voices", "/nothing"))
        async with self.session.get(self.url + path) as answer:
            await answer.read()
            return str(answer.status)

    def _reset(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        connection = ws._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
