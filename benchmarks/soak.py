"""Ten minutes of turns joining, finishing and being cancelled: memory, tasks and slots must not grow.

    python benchmarks/soak.py [--minutes 10] [--model DIR --codec DIR]

Prints resident memory every 30 s and writes benchmarks/results/soak.json.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import threading
import time
from pathlib import Path

from orpheus_plugin.engine import EngineConfig, LocalEngine
from orpheus_plugin.errors import AtCapacity
from orpheus_plugin.turn import AudioChunk, SpeechOptions

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


async def soak(engine: LocalEngine, minutes: float, callers: int) -> dict[str, object]:
    """Run the callers; report memory over time."""
    await engine.start()
    counts = dict.fromkeys(("finished", "cancelled", "refused", "chunks"), 0)
    until = time.monotonic() + 60 * minutes
    rng = random.Random(0)
    running = [
        asyncio.create_task(caller(engine, random.Random(rng.random()), until, counts))
        for _ in range(callers)
    ]
    memory: list[float] = []
    while time.monotonic() < until:
        await asyncio.sleep(min(30.0, max(0.1, until - time.monotonic())))
        gc.collect()
        memory.append(round(resident_mib(), 1))
        print(f"{memory[-1]:8.1f} MiB  {counts}  threads {threading.active_count()}", flush=True)
    await asyncio.gather(*running)
    await asyncio.sleep(1.0)
    health = engine.health()
    left = {
        "active_turns": health.active_turns,
        "tasks": len(asyncio.all_tasks()) - 1,
        "restarts": health.restarts,
    }
    await engine.aclose()
    third = max(1, len(memory) // 3)
    return {
        "minutes": minutes,
        "callers": callers,
        "counts": counts,
        "left": left,
        "memory_mib": memory,
        "mean_second_third_mib": sum(memory[third : 2 * third])
        / max(1, len(memory[third : 2 * third])),
        "mean_last_third_mib": sum(memory[-third:]) / third,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--callers", type=int, default=3)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--codec", type=Path)
    args = parser.parse_args()
    engine = LocalEngine(EngineConfig(model=args.model, codec=args.codec, device="cpu"))
    result = asyncio.run(soak(engine, args.minutes, args.callers))
    print(json.dumps({k: v for k, v in result.items() if k != "memory_mib"}, indent=1))
    path = Path(__file__).parent / "results" / "soak.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
