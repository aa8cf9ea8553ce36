"""The server with faulty clients and faults of the machine: ``python benchmarks/server_faults.py``.

Every fault happens to a running `orpheus-tts serve` (by default on the bundled voice); after each,
one turn must be spoken from its first to its last sample, and no turn, connection or file may be
left over. Memory is printed before and after. `--turns`, `--kills` and `--fuzz` set how often.
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
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import aiohttp  # noqa: E402
import msgpack  # noqa: E402

from benchmarks.report import add_save_option, save  # noqa: E402
from benchmarks.server_checks import TEXT, Checks  # noqa: E402
from benchmarks.server_process import ServerProcess, server_process  # noqa: E402
from benchmarks.wrong_messages import fuzz, truncated  # noqa: E402
from orpheus_plugin import protocol  # noqa: E402
from orpheus_plugin.events import TurnEnd  # noqa: E402
from orpheus_plugin.remote.engine import RemoteEngine  # noqa: E402

LONG = TEXT * 60
SHORT = "Yes."


class Harm(Checks):
    """The faults, each a coroutine that returns what its clients saw."""

    def __init__(self, server: ServerProcess, args: argparse.Namespace) -> None:
        super().__init__(server)
        self.args = args
        self.ws = server.url.replace("http", "ws", 1)
        self.port = int(server.url.rsplit(":", 1)[1])
        self.random = random.Random(args.seed)

    async def short_turns(self) -> str:
        """1,000 short turns in a row on one connection"""
        engine = RemoteEngine(self.server.url)
        await engine.start()
        memory: list[float] = []
        tasks: list[float] = []
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
                tasks.append(await self.metric("orpheus_tasks"))
        await engine.aclose()
        later = memory[1:] or memory
        return (
            f"{self.args.turns} spoken, TTFA p50 {1000 * statistics.median(waits):.0f} ms; server"
            f" {later[0]:.0f} -> {later[-1]:.0f} MB and {tasks[0]:.0f} -> {tasks[-1]:.0f} tasks"
            " between the first and the last tenth"
        )

    async def killed_clients(self) -> str:
        """clients killed in mid-turn (SIGKILL)"""
        code = (
            "import asyncio, sys\n"
            "from orpheus_plugin.remote.engine import RemoteEngine\n"
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
        """half-open sockets: they connect, send a part of a message or nothing, and stop"""
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
        began = time.monotonic()
        await self.speak()
        answers: Counter[str] = Counter()
        for connection in sockets:
            connection.settimeout(60)
            try:
                answer = await asyncio.to_thread(connection.recv, 4_096)
            except ConnectionResetError:
                answer = b""
            answers[answer.split(b"\r\n")[0].decode() or "closed"] += 1
            connection.close()
        told = ", ".join(f"{count} x {answer}" for answer, count in answers.items())
        return (
            f"a turn spoken beside 40 of them; then {told}, after {time.monotonic() - began:.0f} s"
        )

    async def mute_websockets(self) -> str:
        """websockets that answer no ping, a turn open on each"""
        async with aiohttp.ClientSession() as session:
            sockets = []
            for _ in range(4):
                ws = await session.ws_connect(self.ws + protocol.PATH, autoping=False)
                await ws.receive()
                await ws.send_bytes(protocol.pack({"type": "open", "id": "a"}))
                sockets.append(ws)
            began = time.monotonic()
            await self.clean()
            return f"turns freed after {time.monotonic() - began:.1f} s"

    async def slow_readers(self) -> str:
        """clients of three endpoints that stop reading their sockets, beside one that reads"""
        alone_s, _ = await self.hear()
        before = self.server.rss_mb
        async with aiohttp.ClientSession(read_bufsize=1_024) as session:
            response = await session.post(
                f"{self.server.url}/v1/audio/speech",
                json={"input": LONG, "response_format": "pcm"},
            )
            native = await session.ws_connect(self.ws + protocol.PATH, autoping=False)
            for message in (
                {"type": "open", "id": "a", "window_s": None},
                {"type": "text", "id": "a", "text": LONG},
                {"type": "end", "id": "a"},
            ):
                await native.send_bytes(protocol.pack(message))
            unmute = await session.ws_connect(
                f"{self.ws}/api/tts_streaming?format=PcmMessagePack", autoping=False
            )
            await unmute.send_bytes(msgpack.packb({"type": "Text", "text": LONG}))
            await unmute.send_bytes(msgpack.packb({"type": "Eos"}))
            transports = [ws._conn.transport for ws in (native, unmute) if ws._conn is not None]
            for transport in transports:
                assert isinstance(transport, asyncio.ReadTransport)
                transport.pause_reading()
            await asyncio.sleep(5)
            beside = [await self.hear() for _ in range(4)]
            grown = self.server.rss_mb - before
            response.close()
            for transport in transports:
                assert transport is not None
                transport.close()
        waits = ", ".join(f"{1000 * wait:.0f}" for wait, _ in beside)
        underruns = sum(count for _, count in beside)
        return (
            f"four turns beside them began after {waits} ms (alone {1000 * alone_s:.0f}) and had"
            f" {underruns} underruns; the server grew by {grown:.1f} MB"
        )

    async def truncated(self) -> str:
        """every message cut short at every byte, on the websockets"""
        async with aiohttp.ClientSession() as session:
            seen = await truncated(session, self.ws)
        return ", ".join(f"{count} {outcome}" for outcome, count in sorted(seen.items()))

    async def fuzz(self) -> str:
        """fuzzed protocol input on every websocket (hypothesis)"""
        async with aiohttp.ClientSession() as session:
            seen = await fuzz(session, self.ws, self.args.fuzz, self.args.seed)
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(seen.items()))
        return f"{sum(seen.values())} cases: {told}"

    async def fuzz_http(self) -> str:
        """garbage bodies and raw bytes on HTTP"""
        seen: Counter[str] = Counter()
        async with aiohttp.ClientSession() as session:
            for _ in range(self.args.fuzz // 10):
                body: bytes = self.random.choice((self._garbage, self._fields))()
                path = self.random.choice(("/v1/audio/speech", "/predict"))
                async with session.post(self.server.url + path, data=body) as response:
                    seen[str(response.status)] += 1
                    assert response.status in (200, 400), await response.text()
                    await response.read()
        for _ in range(self.args.fuzz // 10):
            with socket.create_connection(("127.0.0.1", self.port)) as connection:
                connection.sendall(self.random.randbytes(100) + b"\r\n\r\n")
        return ", ".join(f"{count} x {status}" for status, count in sorted(seen.items()))

    def _garbage(self) -> bytes:
        return self.random.randbytes(self.random.randrange(200))

    def _fields(self) -> bytes:
        """A body whose fields are of any kind."""
        names = ("input", "prompt", "voice", "speed", "response_format", "stream", "seed", "top_p")
        values: tuple[Any, ...] = (
            None,
            True,
            3,
            -1,
            1e300,
            "",
            "x",
            "pcm",
            "Hi.",
            [],
            {},
            {"id": "x"},
            [[1]],
        )
        asked = {name: self.random.choice(values) for name in self.random.sample(names, 4)}
        return json.dumps(asked).encode()

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
            async with session.ws_connect(self.ws + protocol.PATH) as ws:
                await ws.receive()
                await ws.send_bytes(b"\0" * 1_000_000)
                message = await ws.receive()
                while message.type is aiohttp.WSMsgType.BINARY:
                    message = await ws.receive()
                seen.append(f"close {ws.close_code} for a message of 1 MB")
        return ", ".join(seen)


# ---- the run


async def inflict(harm: Harm, fault: Callable[[], Awaitable[str]]) -> dict[str, Any]:
    before = harm.server.rss_mb, harm.server.open_files, harm.server.threads
    began = time.monotonic()
    seen = await fault()
    await harm.clean()
    audio_s = await harm.speak()
    await harm.clean()
    after = harm.server.rss_mb, harm.server.open_files, harm.server.threads
    row = {
        "fault": " ".join((fault.__doc__ or "").split()),
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
    add_save_option(parser)
    parser.add_argument("--turns", type=int, default=1_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--fuzz", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="where the fuzzer begins")
    parser.add_argument("--only", nargs="*", help="names of faults")
    parser.add_argument("--out", default="server_faults", help="name of the results' file")
    parser.add_argument("server", nargs="*", help="options of `orpheus-tts serve`, after --")
    args = parser.parse_args()
    options = args.server or ["--model", "mini", "--device", "cpu", "--max-turns", "8"]
    with server_process(*options) as server:
        harm = Harm(server, args)
        faults = (
            *(harm.oversized, harm.half_open, harm.mute_websockets, harm.slow_readers),
            *(harm.truncated, harm.fuzz_http, harm.fuzz, harm.killed_clients, harm.short_turns),
        )
        rows: list[dict[str, Any]] = []
        for fault in faults:
            if not args.only or fault.__name__ in args.only:
                rows.append(asyncio.run(inflict(harm, fault)))
                traces = server.log.read_text("utf-8").count("Traceback")
                save(args.out, {"faults": rows, "tracebacks": traces})
        log = server.log.read_text("utf-8")
    traces = log.count("Traceback")
    print(f"tracebacks in the server's log: {traces}")
    if traces:
        print(log[log.index("Traceback") :][:3_000])


if __name__ == "__main__":
    main()
