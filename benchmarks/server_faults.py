"""What the server does when clients and the machine do wrong: ``python benchmarks/server_faults.py``.

Every fault is inflicted on a running `orpheus-tts serve` (by default on the bundled voice); after each, one turn must be
spoken from its first to its last sample, and no turn, connection or file may be left over. Memory is told as it was before
and after. `--turns`, `--kills` and `--fuzz` set how often.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import aiohttp  # noqa: E402
import msgpack  # noqa: E402

from benchmarks.report import save  # noqa: E402
from benchmarks.server_process import ServerProcess, server_process  # noqa: E402
from orpheus_plugin import wire  # noqa: E402
from orpheus_plugin.client import RemoteEngine  # noqa: E402
from orpheus_plugin.errors import OrpheusError  # noqa: E402
from orpheus_plugin.turn import AudioChunk, TurnEnd  # noqa: E402

TEXT = "The quick brown fox jumps over the lazy dog. "
SHORT = "Hello there."


class Harm:
    """The faults, each a coroutine that tells what its clients saw."""

    def __init__(self, server: ServerProcess, args: argparse.Namespace) -> None:
        self.server = server
        self.args = args
        self.ws = server.url.replace("http", "ws", 1)
        self.port = int(server.url.rsplit(":", 1)[1])
        self.random = random.Random(7)

    async def short_turns(self) -> str:
        """1,000 short turns in a row on one connection"""
        engine = RemoteEngine(self.server.url)
        await engine.start()
        memory: list[float] = []
        waits: list[float] = []
        for number in range(self.args.turns):
            async with engine.open_turn() as turn:
                turn.push_text(SHORT)
                turn.end()
                async for event in turn:
                    if isinstance(event, TurnEnd):
                        waits.append(event.stats.ttfa_s or 0.0)
            if number % max(1, self.args.turns // 10) == 0:
                memory.append(self.server.rss_mb)
        await engine.aclose()
        later = memory[1:] or memory
        return (
            f"{self.args.turns} spoken, TTFA p50 {1000 * statistics.median(waits):.0f} ms;"
            f" server {later[0]:.0f} -> {later[-1]:.0f} MB between the first and the last tenth"
        )

    async def killed_clients(self) -> str:
        """clients killed in mid-turn (SIGKILL)"""
        code = (
            "import asyncio, sys\n"
            "from orpheus_plugin.client import RemoteEngine\n"
            "async def main():\n"
            "    engine = RemoteEngine(sys.argv[1])\n"
            "    await engine.start()\n"
            "    while True:\n"
            "        try:\n"
            "            turn = engine.open_turn()\n"
            f"            turn.push_text({TEXT!r} * 20)\n"
            "            async for event in turn:\n"
            "                print('audio', flush=True)\n"
            "        except Exception:\n"
            "            await asyncio.sleep(0.1)\n"
            "asyncio.run(main())\n"
        )
        for _ in range(self.args.kills):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, self.server.url, stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            await process.stdout.readline()
            process.kill()
            await process.wait()
        return f"{self.args.kills} killed while hearing audio"

    async def half_open(self) -> str:
        """sockets that open, say half a word, and fall silent"""
        beginnings = (
            b"",
            b"GET ",
            b"GET /v1/turns HTTP/1.1\r\nHost: localhost\r\n",
            b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n{",
        )
        sockets = []
        for number in range(40):
            connection = socket.create_connection(("127.0.0.1", self.port))
            connection.sendall(beginnings[number % len(beginnings)])
            sockets.append(connection)
        await self.speak()
        for connection in sockets:
            connection.close()
        return "40 held open while a turn was spoken; closed without an answer"

    async def mute_websockets(self) -> str:
        """websockets that answer no ping, a turn open on each"""
        async with aiohttp.ClientSession() as session:
            sockets = []
            for _ in range(4):
                ws = await session.ws_connect(self.ws + wire.PATH, autoping=False)
                await ws.receive()
                await ws.send_bytes(wire.pack({"type": "open", "id": "a"}))
                sockets.append(ws)
            began = time.monotonic()
            await self.clean()
            return f"turns freed after {time.monotonic() - began:.1f} s"

    async def slow_reader(self) -> str:
        """a client that stops reading its socket, beside one that reads"""
        async with aiohttp.ClientSession() as session:
            before = self.server.rss_mb
            response = await session.post(
                f"{self.server.url}/v1/audio/speech",
                json={"input": TEXT * 60, "response_format": "pcm"},
            )
            heard = await self.speak()
            grown = self.server.rss_mb - before
            response.close()
        return f"the other heard {heard:.1f} s meanwhile; the server grew by {grown:.1f} MB"

    async def fuzz(self) -> str:
        """garbage, truncated and shuffled messages on every websocket"""
        seen: dict[str, int] = {}
        async with aiohttp.ClientSession() as session:
            for number in range(self.args.fuzz):
                outcome = await fuzz_once(session, self.ws, self.random, number)
                seen[outcome] = seen.get(outcome, 0) + 1
        return f"{self.args.fuzz} cases: " + ", ".join(f"{v} {k}" for k, v in sorted(seen.items()))

    async def fuzz_http(self) -> str:
        """garbage bodies and raw bytes on HTTP"""
        seen: dict[str, int] = {}
        async with aiohttp.ClientSession() as session:
            for _ in range(self.args.fuzz // 10):
                body = self.random.randbytes(self.random.randrange(200))
                path = self.random.choice(("/v1/audio/speech", "/predict"))
                async with session.post(self.server.url + path, data=body) as response:
                    seen[str(response.status)] = seen.get(str(response.status), 0) + 1
        for _ in range(self.args.fuzz // 10):
            with socket.create_connection(("127.0.0.1", self.port)) as connection:
                connection.sendall(self.random.randbytes(100) + b"\r\n\r\n")
        return ", ".join(f"{count} x {status}" for status, count in sorted(seen.items()))

    async def oversized(self) -> str:
        """texts and messages beyond the limits"""
        seen = []
        async with aiohttp.ClientSession() as session:
            body = {"input": "x" * 6_145}
            async with session.post(f"{self.server.url}/v1/audio/speech", json=body) as response:
                seen.append(f"{response.status} text_too_long")
            async with session.post(
                f"{self.server.url}/v1/audio/speech", data=b"x" * 10_000_000
            ) as response:
                seen.append(f"{response.status} for 10 MB")
            async with session.ws_connect(self.ws + wire.PATH) as ws:
                await ws.receive()
                await ws.send_bytes(b"\0" * 1_000_000)
                message = await ws.receive()
                while message.type is aiohttp.WSMsgType.BINARY:
                    message = await ws.receive()
                seen.append(f"close {ws.close_code} for a message of 1 MB")
        return ", ".join(seen)

    # ---- after each

    async def speak(self) -> float:
        """One whole turn over a new connection; seconds of audio."""
        engine = RemoteEngine(self.server.url)
        try:
            async with asyncio.timeout(120):
                while True:
                    try:
                        async with engine.open_turn() as turn:
                            turn.push_text(TEXT)
                            turn.end()
                            samples = 0
                            async for event in turn:
                                if isinstance(event, AudioChunk):
                                    assert event.position == samples
                                    samples += event.samples
                            assert samples >= 2_048
                            return samples / 24_000
                    except OrpheusError as error:
                        if error.code != "at_capacity":
                            raise
                        await asyncio.sleep(0.2)
        finally:
            await engine.aclose()

    async def clean(self) -> None:
        """Until no turn and no connection is left."""
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"{self.server.url}/healthz") as response:
                    state = await response.json()
                if state["active_turns"] == 0:
                    return
                await asyncio.sleep(0.05)


async def fuzz_once(
    session: aiohttp.ClientSession, url: str, chance: random.Random, number: int
) -> str:
    """One connection with some wrong messages; how the server ended it."""
    path = (wire.PATH, "/api/tts_streaming?format=PcmMessagePack", "/v1/websocket")[number % 3]
    try:
        async with session.ws_connect(url + path, max_msg_size=0) as ws:
            for _ in range(chance.randrange(1, 6)):
                data = _garbage(chance)
                if number % 3 == 2 and chance.random() < 0.7:
                    await ws.send_str(data.decode("latin-1"))
                else:
                    await ws.send_bytes(data)
            try:
                async with asyncio.timeout(0.05 if number % 5 else 0.3):
                    while not (await ws.receive()).type.value & 0x8:
                        pass
            except TimeoutError:
                return "left open"
            return f"closed {ws.close_code}"
    except aiohttp.WSServerHandshakeError as error:
        return f"refused {error.status}"
    except ConnectionError:
        return "cut"


def _garbage(chance: random.Random) -> bytes:
    """Messages of the protocols: with wrong values, cut short, with flipped bits, or no messages at all."""
    values: list[Any] = [
        *(None, True, -1, 0, 2**63, 1.5, float("nan"), "", "a", "\ud7ff" * 9, b"\x00\xff"),
        *([], {}, [[]] * 3, {"voice": "nobody"}, {"voice": [], "seed": -1}, "x" * 7_000),
    ]
    kinds = ("open", "text", "flush", "end", "cancel", "consumed", "Text", "Eos", "Voice", "x", 7)
    message: dict[Any, Any] = {"type": chance.choice(kinds)}
    names = ("id", "text", "samples", "options", "format", "window_s", "embeddings", "voice")
    for name in chance.sample(names, chance.randrange(5)):
        message[name] = chance.choice((*values, "a", "a", "a"))
    data = bytes(msgpack.packb(message))
    kind = chance.randrange(5)
    if kind == 0:
        data = data[: chance.randrange(len(data))]
    elif kind == 1:
        broken = bytearray(data)
        for _ in range(3):
            broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        data = bytes(broken)
    elif kind == 2:
        data = chance.randbytes(chance.randrange(64))
    elif kind == 3:
        data = json.dumps({"voice": chance.choice(values[:8])}).encode()
    return data


async def inflict(harm: Harm, fault: Callable[[], Awaitable[str]]) -> dict[str, Any]:
    before = harm.server.rss_mb, harm.server.open_files, harm.server.threads
    began = time.monotonic()
    seen = await fault()
    await harm.clean()
    audio_s = await harm.speak()
    await harm.clean()
    after = harm.server.rss_mb, harm.server.open_files, harm.server.threads
    row = {
        "fault": (fault.__doc__ or "").strip(),
        "seen": seen,
        "next_turn_s": audio_s,
        "mb": [before[0], after[0]],
        "files": [before[1], after[1]],
        "threads": [before[2], after[2]],
        "took_s": time.monotonic() - began,
    }
    print(
        f"{row['fault']}: {seen}; next turn {audio_s:.1f} s;"
        f" {before[0]:.0f} -> {after[0]:.0f} MB, files {before[1]} -> {after[1]},"
        f" threads {before[2]} -> {after[2]}",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=1_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--fuzz", type=int, default=10_000)
    parser.add_argument("--only", nargs="*", help="names of faults")
    parser.add_argument("server", nargs="*", help="options of `orpheus-tts serve`, after --")
    args = parser.parse_args()
    options = args.server or ["--model", "mini", "--device", "cpu", "--max-turns", "8"]
    with server_process(*options) as server:
        harm = Harm(server, args)
        faults = (
            *(harm.oversized, harm.half_open, harm.mute_websockets, harm.slow_reader),
            *(harm.fuzz_http, harm.fuzz, harm.killed_clients, harm.short_turns),
        )
        rows = [
            asyncio.run(inflict(harm, fault))
            for fault in faults
            if not args.only or fault.__name__ in args.only
        ]
        log = server.log.read_text("utf-8")
    traces = log.count("Traceback")
    print(f"tracebacks in the server's log: {traces}")
    if traces:
        print(log[log.index("Traceback") :][:3_000])
    save("server_faults", {"faults": rows, "tracebacks": traces})


if __name__ == "__main__":
    main()
