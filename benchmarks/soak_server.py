"""An hour of mixed clients on a server: ``python benchmarks/soak_server.py [--minutes 60]``.

Callers on every protocol speak, interrupt, vanish, change formats, send hostile texts and nonsense,
and come back. Memory, file descriptors, threads and tasks are read every few seconds. It passes if
in the end no place, task or connection is left, memory is flat and there is no traceback.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import aiohttp  # noqa: E402
import msgspec  # noqa: E402

from benchmarks.report import add_save_option, save  # noqa: E402
from benchmarks.server_process import ServerProcess, server_process  # noqa: E402
from orpheus_plugin import protocol  # noqa: E402
from orpheus_plugin.errors import OrpheusError  # noqa: E402
from orpheus_plugin.events import AudioChunk  # noqa: E402
from orpheus_plugin.options import SpeechOptions  # noqa: E402
from orpheus_plugin.remote.engine import RemoteEngine  # noqa: E402

FLAT_PERCENT = 5.0
SAMPLE_S = 5.0
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
        """Whether this client goes in mid-speech."""
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


async def metrics(url: str) -> dict[str, float]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        lines = [line.split() for line in (await answer.text()).splitlines() if line[:1] != "#"]
    return {name.partition("{")[0]: float(value) for name, value in lines}


async def whole_turn(url: str) -> float:
    """Seconds of audio of one more turn, from its first sample to its last."""
    engine = RemoteEngine(url)
    try:
        async with asyncio.timeout(120), engine.open_turn(max_wait_s=60) as turn:
            turn.push_text(TEXTS[0])
            turn.end()
            return sum([e.duration_s async for e in turn if isinstance(e, AudioChunk)])
    finally:
        await engine.aclose()


async def soak(server: ServerProcess, minutes: float, callers: int) -> dict[str, Any]:
    at_rest = await metrics(server.url)
    clients = [Callers(server.url, seed) for seed in range(callers)]
    until = time.monotonic() + 60 * minutes
    running = [asyncio.create_task(client.run(until)) for client in clients]
    memory, files, threads = [], [], []
    while time.monotonic() < until:
        await asyncio.sleep(SAMPLE_S)
        memory.append(server.rss_mb)
        files.append(server.open_files)
        threads.append(server.threads)
    await asyncio.gather(*running)
    for client in clients:
        await client.aclose()
    left = {}
    for _ in range(120):
        now = await metrics(server.url)
        left = {
            "turns": now.get("orpheus_active_turns", 0) + now["orpheus_engine_turns"],
            "waiting": now["orpheus_waiting_turns"],
            "connections": now["orpheus_connections"],
            "tasks": max(0.0, now["orpheus_tasks"] - at_rest["orpheus_tasks"]),
            "utterances": now["orpheus_generating"] + now["orpheus_decoding"],
        }
        if not any(left.values()):
            break
        await asyncio.sleep(0.5)
    last_turn_s = await whole_turn(server.url)
    outcomes = sum((client.outcomes for client in clients), Counter[str]())
    third = len(memory) // 3
    before, last = statistics.mean(memory[third : 2 * third]), statistics.mean(memory[-third:])
    log = server.log.read_text("utf-8")
    growth = 100 * (last / before - 1)
    flat = growth <= FLAT_PERCENT
    return {
        "minutes": minutes,
        "callers": callers,
        "visits": outcomes.total(),
        "outcomes": dict(sorted(outcomes.items())),
        "left": left,
        "abandoned": now.get("orpheus_abandoned_turns_total", 0.0),
        "restarts": now["orpheus_engine_restarts_total"],
        "tracebacks": log.count("Traceback"),
        "last_turn_s": last_turn_s,
        "growth_percent": growth,
        "passed": flat and not any(left.values()) and "Traceback" not in log,
        "memory_mb": memory[:: max(1, len(memory) // 60)],
        "files": [min(files), max(files), server.open_files],
        "threads": [min(threads), max(threads), server.threads],
        "first_traceback": log[log.index("Traceback") :][:3_000] if "Traceback" in log else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_save_option(parser)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--callers", type=int, default=6)
    parser.add_argument("--out", default="soak_server", help="name of the results' file")
    parser.add_argument("server", nargs="*", help="options of `orpheus-tts serve`, after --")
    args = parser.parse_args()
    options = args.server or ["--model", "mini", "--device", "cpu", "--max-turns", "4"]
    with server_process(*options) as server:
        result = asyncio.run(soak(server, args.minutes, args.callers))
    for name in (
        "visits",
        "outcomes",
        "left",
        "abandoned",
        "tracebacks",
        "last_turn_s",
        "first_traceback",
        "files",
        "threads",
    ):
        print(f"{name}: {result[name]}")
    print(f"memory: {result['growth_percent']:+.2f} %")
    print("passed" if result["passed"] else "FAILED")
    save(args.out, result)
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
