"""What clients see when the server, its engine or its machine fails:
``python benchmarks/server_deaths.py``.

Each case starts servers of its own (`orpheus-tts serve`, by default on the bundled voice), has four
clients listen to a turn each while it happens, and ends with one more turn from its first to its
last sample. server_faults.py has wrong clients of a server that keeps running.
"""
# ruff: noqa: ASYNC110, ASYNC220, ASYNC240 - this waits for processes

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import aiohttp  # noqa: E402

from benchmarks.report import add_save_option, save  # noqa: E402
from benchmarks.server_process import SERVE, ServerProcess, server_process  # noqa: E402
from orpheus_plugin import protocol  # noqa: E402
from orpheus_plugin.errors import OrpheusError, Unauthorized  # noqa: E402
from orpheus_plugin.events import AudioChunk  # noqa: E402
from orpheus_plugin.remote.engine import RemoteEngine  # noqa: E402
from tests.support.turns import spoken  # noqa: E402

TEXT = "The quick brown fox jumps over the lazy dog, and so it goes on and on. " * 2
CLIENTS = 4

MORTAL = """
import ctypes, signal, sys, threading

def kill(name):
    for thread in threading.enumerate():
        if thread.name == name:
            raises = ctypes.c_ulong(thread.ident), ctypes.py_object(RuntimeError)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(*raises)

signal.signal(signal.SIGUSR1, lambda *_: kill("orpheus-tokens"))
signal.signal(signal.SIGUSR2, lambda *_: kill("orpheus-codec"))
from orpheus_plugin.cli.main import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""
"""A server whose token engine dies of SIGUSR1, whose codec of SIGUSR2."""

FIND_OR_START = """
import asyncio, sys
from orpheus_plugin.remote.autostart import Wanted, find_or_start
print(asyncio.run(find_or_start(Wanted(model=sys.argv[1], device="cpu"))).url)
"""


async def speak(engine: RemoteEngine, text: str = "Hello there, how are you?") -> float:
    """Seconds of audio of one whole turn."""
    async with asyncio.timeout(120), engine.open_turn() as turn:
        samples = await spoken(turn, text)
    assert samples >= 2_048
    return samples / 24_000


class Listeners:
    """Clients that listen to a long turn each, on a connection each."""

    def __init__(self, url: str) -> None:
        self.engines = [RemoteEngine(url, connect_timeout_s=120) for _ in range(CLIENTS)]
        self._hearing = [asyncio.Event() for _ in self.engines]
        self._tasks: list[asyncio.Task[str]] = []
        self._ended_at: list[float] = []

    async def begin(self) -> None:
        """Returns when all of them hear something."""
        pairs = zip(self.engines, self._hearing, strict=True)
        self._tasks = [asyncio.create_task(self._listen(*pair)) for pair in pairs]
        async with asyncio.timeout(60):
            await asyncio.gather(*(event.wait() for event in self._hearing))

    async def _listen(self, engine: RemoteEngine, hearing: asyncio.Event) -> str:
        samples, outcome = 0, "no end"
        try:
            async with engine.open_turn() as turn:
                turn.push_text(TEXT)
                turn.end()
                async for event in turn:
                    if isinstance(event, AudioChunk):
                        hearing.set()
                        assert event.position == samples
                        samples += event.samples
                outcome = "whole"
        except OrpheusError as error:
            outcome = error.code
        self._ended_at.append(time.monotonic())
        return outcome

    async def end(self) -> tuple[str, float]:
        """How the turns ended, and when the last one did."""
        async with asyncio.timeout(120):
            outcomes = Counter(await asyncio.gather(*self._tasks))
        told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
        return told, max(self._ended_at)

    async def aclose(self) -> None:
        for engine in self.engines:
            await engine.aclose()


@contextlib.asynccontextmanager
async def listening(url: str) -> AsyncIterator[Listeners]:
    listeners = Listeners(url)
    try:
        await listeners.begin()
        yield listeners
    finally:
        await listeners.aclose()


@contextlib.asynccontextmanager
async def served(*options: str, program: Sequence[str] = SERVE) -> AsyncIterator[ServerProcess]:
    """`server_process`, without blocking the event loop."""
    manager = server_process(*options, program=program)
    server = await asyncio.to_thread(manager.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


# ---- the cases: each returns what its clients saw, and the seconds of the next turn


async def wrong_key(options: list[str]) -> tuple[str, float]:
    """no key, a wrong one, the beginning of the right one, on every endpoint"""
    endpoints = {
        "native": ("GET", protocol.PATH),
        "unmute": ("GET", "/api/tts_streaming"),
        "Baseten": ("GET", "/v1/websocket"),
        "OpenAI": ("POST", "/v1/audio/speech"),
        "POST": ("POST", "/predict"),
        "metrics": ("GET", "/metrics"),
    }
    names = ("Authorization", "kyutai-api-key", "x-api-key")
    seen: Counter[str] = Counter()
    async with served(*options, "--api-key", "right") as server:
        async with aiohttp.ClientSession() as session:
            for method, path in endpoints.values():
                for key in ("", "wrong", "righ", "right\u00e9", "rightright"):
                    for name in names:
                        value = f"Bearer {key}" if name == "Authorization" else key
                        async with session.request(
                            method, server.url + path, headers={name: value}
                        ) as response:
                            seen[str(response.status)] += 1
        wrong = RemoteEngine(server.url, api_key="wrong")
        began = time.monotonic()
        with contextlib.suppress(Unauthorized):
            await wrong.start()
            raise AssertionError("a wrong key was accepted")
        told_s = time.monotonic() - began
        await wrong.aclose()
        right = RemoteEngine(server.url, api_key="right")
        audio_s = await speak(right)
        await right.aclose()
    answers = ", ".join(f"{count} x {status}" for status, count in seen.items())
    return f"{answers}; our client told so after {1000 * told_s:.0f} ms", audio_s


async def engine_killed(options: list[str]) -> tuple[str, float]:
    """the token engine killed in mid-turn"""
    return await _part_killed(options, signal.SIGUSR1)


async def codec_killed(options: list[str]) -> tuple[str, float]:
    """the codec killed in mid-turn"""
    return await _part_killed(options, signal.SIGUSR2)


async def _part_killed(options: list[str], part: signal.Signals) -> tuple[str, float]:
    async with (
        served(*options, program=("-c", MORTAL)) as server,
        listening(server.url) as listeners,
    ):
        killed_at = time.monotonic()
        server.process.send_signal(part)
        told, ended_at = await listeners.end()
        engine = listeners.engines[0]
        audio_s = await speak(engine)
        await asyncio.sleep(1.5)  # health is told once a second
        restarts = engine.health().restarts
    return f"{told}, after {1000 * (ended_at - killed_at):.0f} ms; restarts: {restarts}", audio_s


async def server_killed(options: list[str]) -> tuple[str, float]:
    """the server killed (SIGKILL) in mid-turn, another started on its port"""
    fixed = [*options, "--port", free_port()]
    async with served(*fixed) as server, listening(server.url) as listeners:
        killed_at = time.monotonic()
        server.process.kill()
        told, ended_at = await listeners.end()
        async with served(*fixed):
            audio_s = await speak(listeners.engines[0])
    return f"{told}, after {1000 * (ended_at - killed_at):.0f} ms", audio_s


async def sigterm(options: list[str]) -> tuple[str, float]:
    """SIGTERM in mid-turn, a successor started on its port"""
    fixed = [*options, "--port", free_port()]
    async with served(*fixed) as server:
        async with listening(server.url) as listeners:
            asked_at = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            next_turn = asyncio.create_task(speak(listeners.engines[0]))
            async with served(*fixed):
                told, _ = await listeners.end()
                code = await asyncio.to_thread(server.process.wait, 60)
                took = time.monotonic() - asked_at
                audio_s = await next_turn
        tracebacks = server.log.read_text("utf-8").count("Traceback")
    return (
        f"{told}; exit code {code} after {took:.1f} s, {tracebacks} tracebacks; a turn asked for"
        " meanwhile was spoken by the successor",
        audio_s,
    )


async def racing(options: list[str]) -> tuple[str, float]:
    """two servers started at once: by hand on one port, and by two processes that need one"""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="orpheus-bench-") as folder:
        environment = {**os.environ, "ORPHEUS_STATE_DIR": folder, "ORPHEUS_API_KEY": ""}
        both = [
            subprocess.Popen(
                [sys.executable, *SERVE, *options, "--port", port],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for _ in range(2)
        ]
        while all(process.poll() is None for process in both):
            await asyncio.sleep(0.1)
        (loser,) = [process for process in both if process.poll() is not None]
        (winner,) = [process for process in both if process is not loser]
        assert loser.stderr is not None
        reason = loser.stderr.read().strip().splitlines()
        assert len(reason) == 1, reason
        engine = RemoteEngine(f"127.0.0.1:{port}", connect_timeout_s=120)
        await engine.start()
        await speak(engine)
        await engine.aclose()
        winner.terminate()
        await asyncio.to_thread(winner.communicate)
        environment.pop("ORPHEUS_API_KEY")
        finders = [
            subprocess.Popen(
                [sys.executable, "-c", FIND_OR_START, "mini"],
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for _ in range(2)
        ]
        found = {(await asyncio.to_thread(finder.communicate))[0].strip() for finder in finders}
        (record,) = Path(folder).glob("server-*.json")
        server = json.loads(record.read_text("utf-8"))
        assert found == {server["url"]}
        engine = RemoteEngine(server["url"], api_key=server["api_key"])
        audio_s = await speak(engine)
        await engine.aclose()
        os.kill(server["pid"], signal.SIGTERM)
        while record.exists():
            await asyncio.sleep(0.1)
    return (
        f"by hand: one served, the other ended with {loser.returncode}: {reason[0]!r};"
        " needed by two: both got the same server",
        audio_s,
    )


async def disk_full(options: list[str]) -> tuple[str, float]:
    """no space for a single line of the log"""
    async with served(*options, "--log-file", "/dev/full", "--log-level", "debug") as server:
        async with listening(server.url) as listeners:
            told, _ = await listeners.end()
            audio_s = await speak(listeners.engines[0])
        said = server.log.read_text("utf-8")
    return f"{told}; {len(said)} characters on standard error", audio_s


CASES: tuple[Callable[[list[str]], Awaitable[tuple[str, float]]], ...] = (
    *(wrong_key, engine_killed, codec_killed, server_killed, sigterm, racing, disk_full),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    add_save_option(parser)
    parser.add_argument("--only", nargs="*", help="names of cases")
    parser.add_argument("server", nargs="*", help="options of `orpheus-tts serve`, after --")
    args = parser.parse_args()
    options = args.server or ["--model", "mini", "--device", "cpu", "--max-turns", "8"]
    rows: list[dict[str, Any]] = []
    for case in CASES:
        if args.only and case.__name__ not in args.only:
            continue
        began = time.monotonic()
        seen, audio_s = asyncio.run(_told(case(options)))
        name = " ".join((case.__doc__ or "").split())
        took_s = time.monotonic() - began
        rows.append({"fault": name, "seen": seen, "next_turn_s": audio_s, "took_s": took_s})
        print(f"{name}: {seen}; next turn {audio_s:.1f} s ({took_s:.0f} s)", flush=True)
        save("server_deaths", {"faults": rows})


async def _told(case: Awaitable[tuple[str, float]]) -> tuple[str, float]:
    return await case


if __name__ == "__main__":
    main()
