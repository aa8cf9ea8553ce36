"""Ten minutes of turns joining, finishing and being cancelled: memory, tasks and slots must not
grow.

    python benchmarks/soak.py [--minutes 10] [--model DIR --codec DIR]

Prints resident memory every 10 s, and a verdict: flat if the mean of the last third is at most 1 %
above that of the second third, and nothing is left when all callers are gone. Exit code 1 if not.
The first minute, in which every kind of work comes for the first time, is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import add_save_option, save  # noqa: E402
from orpheus_plugin.engine.config import EngineConfig  # noqa: E402
from orpheus_plugin.engine.local import LocalEngine  # noqa: E402
from orpheus_plugin.errors import AtCapacity  # noqa: E402
from orpheus_plugin.events import AudioChunk  # noqa: E402
from orpheus_plugin.options import SpeechOptions  # noqa: E402

EVERY_S = 10.0
WARM_UP_S = 60.0
FLAT_PERCENT = 1.0

SENTENCES = (
    "Hello, how can I help you today?",
    "Your order is on its way, and it should be with you by tomorrow evening.",
    "Let me see. I have found three flights for you; would you like to hear about them?",
    "Yes.",
    "I am sorry, I did not catch that. Could you say it again, please?",
)


def resident_mib() -> float:
    """Resident memory of this process in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def caller(
    engine: LocalEngine, rng: random.Random, until: float, counts: dict[str, int]
) -> None:
    """One agent: turns, half of which the user interrupts."""
    while time.monotonic() < until:
        try:
            turn = engine.open_turn(SpeechOptions())
        except AtCapacity:
            counts["refused"] += 1
            await asyncio.sleep(0.2)
            continue
        async with turn:
            for _ in range(rng.randint(1, 3)):
                turn.push_text(rng.choice(SENTENCES) + " ")
            turn.end()
            patience = rng.uniform(0.0, 3.0) if rng.random() < 0.5 else 1e9
            began = time.monotonic()
            async for event in turn:
                if isinstance(event, AudioChunk):
                    counts["chunks"] += 1
                if time.monotonic() - began > patience:
                    counts["cancelled"] += 1
                    break
            else:
                counts["finished"] += 1
        await asyncio.sleep(rng.uniform(0.0, 0.3))


async def soak(engine: LocalEngine, minutes: float, callers: int) -> dict[str, Any]:
    """Run the callers; report memory over time."""
    await engine.start()
    at_rest = resident_mib()
    print(f"{at_rest:8.1f} MiB  at rest", flush=True)
    counts = dict.fromkeys(("finished", "cancelled", "refused", "chunks"), 0)
    warm = time.monotonic() + WARM_UP_S
    until = warm + 60 * minutes
    rng = random.Random(0)
    running = [
        asyncio.create_task(caller(engine, random.Random(rng.random()), until, counts))
        for _ in range(callers)
    ]
    memory: list[float] = []
    while time.monotonic() < until:
        await asyncio.sleep(min(EVERY_S, max(0.1, until - time.monotonic())))
        gc.collect()
        now = resident_mib()
        if time.monotonic() > warm:
            memory.append(now)
        print(f"{now:8.1f} MiB  {counts}  threads {threading.active_count()}", flush=True)
    await asyncio.gather(*running)
    await asyncio.sleep(1.0)
    health, load = engine.health(), engine.load()
    left = {
        "active_turns": health.active_turns,
        "generating": load.generating,
        "decoding": load.decoding,
        "tasks": len(asyncio.all_tasks()) - 1,
        "restarts": health.restarts,
    }
    after = resident_mib()
    await engine.aclose()
    third = len(memory) // 3
    before, last = statistics.mean(memory[third : 2 * third]), statistics.mean(memory[-third:])
    growth = 100 * (last / before - 1)
    return {
        "minutes": minutes,
        "callers": callers,
        "counts": counts,
        "left": left,
        "at_rest_mib": at_rest,
        "after_mib": after,
        "mean_second_third_mib": before,
        "mean_last_third_mib": last,
        "growth_percent": growth,
        "flat": growth <= FLAT_PERCENT and not any(left.values()),
        "memory_mib": memory,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_save_option(parser)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--callers", type=int, default=3)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--codec", type=Path)
    args = parser.parse_args()
    engine = LocalEngine(EngineConfig(model=args.model, codec=args.codec, device="cpu"))
    result = asyncio.run(soak(engine, args.minutes, args.callers))
    verdict = "flat" if result["flat"] else "NOT FLAT"
    print(
        f"{verdict}: {result['mean_second_third_mib']:.1f} -> {result['mean_last_third_mib']:.1f}"
        f" MiB ({result['growth_percent']:+.2f} %), left behind: {result['left']}"
    )
    save("soak", {"model": args.model} | result)
    return 0 if result["flat"] else 1


if __name__ == "__main__":
    sys.exit(main())
