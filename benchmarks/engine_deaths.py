"""Injected deaths of an engine's threads at random moments:
``python benchmarks/engine_deaths.py --deaths 1000``.

An exception of a random kind is raised at a random bytecode of the token generator's or the codec's
thread, while up to three turns speak. Every turn that used the dead engine must get an error, and
the next turn must be spoken. Printed: how many did, and the time from the moment the death can be
detected to the last turn's error.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import add_save_option, save  # noqa: E402
from orpheus_plugin.engine.config import EngineConfig  # noqa: E402
from orpheus_plugin.engine.local import LocalEngine  # noqa: E402
from tests.engine.test_deaths import kill, listen, speak  # noqa: E402

THREADS = ("orpheus-tokens", "orpheus-codec")
KINDS = (RuntimeError, MemoryError, ValueError, SystemExit, KeyboardInterrupt, GeneratorExit)
HUNG_S = 60.0


async def one(engine: LocalEngine, chance: random.Random) -> tuple[str, float]:
    """The outcome of one death, and seconds until the last turn's error."""
    restarts = engine.health().restarts
    told_at: list[float] = []

    async def follow() -> str:
        how = await listen(engine)
        told_at.append(time.monotonic())
        return how

    turns = [asyncio.create_task(follow()) for _ in range(chance.randint(1, 3))]
    await asyncio.sleep(chance.uniform(0.0, 0.3))
    thread, kind = chance.choice(THREADS), chance.choice(KINDS)
    parts = engine._supervisor.parts
    assert parts is not None
    kill(engine, thread, kind)
    try:
        async with asyncio.timeout(HUNG_S):
            seen: float | None = None
            while engine.health().restarts == restarts:
                if seen is None and parts.failure is not None:
                    seen = time.monotonic()
                if all(turn.done() for turn in turns) and parts.failure is None:
                    # It slept, or the exception was swallowed where Python ignores them.
                    turns.append(asyncio.create_task(follow()))
                    kill(engine, thread, kind)
                await asyncio.sleep(0.005)
            ended = await asyncio.gather(*turns)
            samples = await speak(engine)
    except TimeoutError:
        return f"hung: {thread} {kind.__name__}", HUNG_S
    if samples < 2048:
        return f"the next turn did not speak: {thread} {kind.__name__}", 0.0
    died = [at for at, how in zip(told_at, ended, strict=True) if how == "died"]
    late = max((at - (seen or at) for at in died), default=0.0)
    return "told, and the next turn spoke", late


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    add_save_option(parser)
    parser.add_argument("--deaths", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="mini")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    engine = LocalEngine(EngineConfig(model=args.model, device="cpu", max_turns=4))
    await engine.start()
    outcomes: Counter[str] = Counter()
    times: list[float] = []
    for number in range(args.deaths):
        outcome, late = await one(engine, chance)
        outcomes[outcome] += 1
        times.append(late)
        if number % 20 == 19:
            print(number + 1, dict(outcomes), f"latest {max(times):.2f} s", flush=True)
    health = engine.health()
    await engine.aclose()
    times.sort()
    figures = {
        "generator": health.generator,
        "deaths": args.deaths,
        "outcomes": dict(outcomes),
        "told_after_s": {"p50": times[len(times) // 2], "most": times[-1]},
        "places_left": health.active_turns,
    }
    print(figures)
    save("engine_deaths", figures)


if __name__ == "__main__":
    asyncio.run(main())
