"""The cost of LiveKit: how soon an interruption frees the engine, and the memory of job processes.

    python -m benchmarks.livekit_interrupt [--times 50]

A headless AgentSession speaks with the bundled voice through a server on loopback and is
interrupted at random moments. Then a LiveKit worker takes two jobs, which are processes of their
own, through `orpheus-tts serve`. Prints tables.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from benchmarks.report import add_save_option, save
from orpheus_plugin.engine.config import EngineConfig
from orpheus_plugin.engine.local import LocalEngine
from orpheus_plugin.livekit import OrpheusTTS
from orpheus_plugin.speech_engine import SpeechEngine
from tests.livekit.fakes import on_stage
from tests.livekit.jobs import private_mb, resident_mb
from tests.support.servers import serving

REPLY = (
    "Let me tell you what I have found. There are three trains tomorrow morning, and the first one"
    " leaves at seven. "
    "The second one is faster, but you would have to change once. The last one leaves at noon. "
) * 8  # still being made a second after its first sound, however fast the machine is


def share(values: list[float], of: float) -> float:
    """The smallest value that so large a part of them does not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -int(-of * len(ranked) // 1) - 1))]


async def interruptions(speech: OrpheusTTS, engine: SpeechEngine, times: int) -> dict[str, Any]:
    """Milliseconds from `session.interrupt()` to no turn in the engine, to the cleared output, and
    the stragglers."""
    idle_ms: list[float] = []
    clear_ms: list[float] = []
    late_frames = 0
    chance = random.Random(1)
    async with on_stage(speech, use_tts_aligned_transcript=True) as stage:
        for _ in range(times):
            stage.audio.first_at = None
            stage.audio.cleared_at = None
            handle = stage.session.say(REPLY)
            await stage.speaking()
            await asyncio.sleep(chance.uniform(0.0, 1.0))
            assert engine.health().active_turns == 1, "it had spoken to its end before"
            began = time.perf_counter()
            interrupting = asyncio.ensure_future(stage.session.interrupt())
            while engine.health().active_turns:  # noqa: ASYNC110 - it has no event for this
                await asyncio.sleep(0.0005)
            idle_ms.append(1000 * (time.perf_counter() - began))
            await interrupting
            frames = len(stage.audio.frames)
            await handle
            await asyncio.sleep(0.05)
            late_frames += len(stage.audio.frames) - frames
            if stage.audio.cleared_at is not None:
                clear_ms.append(1000 * (stage.audio.cleared_at - began))
    return {
        "times": times,
        "engine_idle_ms": {
            "p50": share(idle_ms, 0.5),
            "p99": share(idle_ms, 0.99),
            "max": max(idle_ms),
        },
        "output_cleared_ms": {"p50": share(clear_ms, 0.5), "p99": share(clear_ms, 0.99)},
        "frames_after_interrupt": late_frames,
    }


@contextlib.asynccontextmanager
async def serve_command(folder: Path) -> AsyncIterator[tuple[str, int]]:
    """`orpheus-tts serve` on a free port: its address and process id."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orpheus_plugin", "serve"),
        *("--port", "0", "--model", "mini", "--device", "cpu", "--max-turns", "2"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "ORPHEUS_STATE_DIR": str(folder)},
    )
    assert server.stdout is not None
    try:
        line = (await server.stdout.readline()).decode()
        yield line.rsplit(" ", 1)[1].strip(), server.pid
    finally:
        server.terminate()
        await server.wait()


async def processes(folder: Path) -> dict[str, Any]:
    """Two jobs at once through one server: their memory and the server's, and the time to their
    first sound."""
    async with serve_command(folder) as (url, pid):
        speech = OrpheusTTS(url=url)
        for _ in range(60):
            with contextlib.suppress(Exception):
                await speech.connect()
                break
            await asyncio.sleep(1)
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.livekit.jobs", "process", str(folder)),
            env={**os.environ, "ORPHEUS_URL": url},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await worker.wait()
        await speech.aclose()
        return {
            "jobs": [json.loads(_text(folder / f"job-{number}.json")) for number in range(2)],
            "server": {"rss_mb": resident_mb(pid), "private_mb": private_mb(pid)},
        }


def _text(path: Path) -> str:
    return path.read_text("utf-8")


async def run(times: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    local = LocalEngine(EngineConfig(model="mini", device="cpu", max_turns=2))
    await local.start()
    async with OrpheusTTS(engine=local, seed=1) as speech:
        found["in this process"] = await interruptions(speech, local, times)
    async with serving(local) as server, OrpheusTTS(url=server.url, seed=1) as speech:
        await speech.connect()
        found["through a server"] = await interruptions(speech, local, times)
    with tempfile.TemporaryDirectory() as folder:
        found["processes"] = await processes(Path(folder))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_save_option(parser)
    parser.add_argument("--times", type=int, default=50)
    found = asyncio.run(run(parser.parse_args().times))
    print(
        f"{'interrupting a session':24}{'engine idle p50':>16}{'p99':>10}{'max':>10}"
        f"{'late frames':>13}"
    )
    for name in ("in this process", "through a server"):
        row = found[name]
        idle = row["engine_idle_ms"]
        print(
            f"{name:24}{idle['p50']:13.1f} ms{idle['p99']:7.1f} ms{idle['max']:7.1f} ms"
            f"{row['frames_after_interrupt']:13}"
        )
    print(f"\n{'memory':24}{'resident':>12}{'of its own':>12}{'first sound':>13}")
    for number, job in enumerate(found["processes"]["jobs"]):
        print(
            f"{f'job process {number}':24}{job['rss_mb']:9.0f} MB{job['private_mb']:9.0f} MB"
            f"{1000 * job['first_s']:10.0f} ms   torch loaded: {job['torch']}"
        )
    server = found["processes"]["server"]
    print(f"{'server':24}{server['rss_mb']:9.0f} MB{server['private_mb']:9.0f} MB")
    save("livekit", found)


if __name__ == "__main__":
    main()
