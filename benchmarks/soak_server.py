"""An hour of mixed clients on a server: ``python benchmarks/soak_server.py [--minutes 60]``.

Callers on every protocol speak, interrupt, disconnect, change formats, send hostile texts and
invalid messages, and come back. Memory, file descriptors, threads and tasks are read every few
seconds. It passes if in the end no place, task or connection is left, memory is flat and there is
no traceback.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import aiohttp  # noqa: E402

from benchmarks.report import add_save_option, save  # noqa: E402
from benchmarks.server_process import ServerProcess, server_process  # noqa: E402
from benchmarks.visits import TEXTS, Callers  # noqa: E402
from orpheus_plugin.events import AudioChunk  # noqa: E402
from orpheus_plugin.remote.engine import RemoteEngine  # noqa: E402

FLAT_PERCENT = 5.0
SAMPLE_S = 5.0


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
