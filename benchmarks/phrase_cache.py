"""A day of calls with and without the phrase cache: `python -m benchmarks.phrase_cache --save`.

The calls of a hotel's reception are simulated twice: without the cache and with it. Each
call greets, says some of the phrases that every call has, and sentences with names, times and
amounts that are new each time. The voice is the bundled one; the text comes as a language model
streams it. Turns are read as fast as they come, one after the other, so that first sound is the
engine's alone. Printed: the share of seconds of audio that came from the cache, and the first sound
of turns whose first utterance came from it and of all turns.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import add_save_option, save  # noqa: E402
from orpheus_plugin import AudioChunk, EngineConfig, LocalEngine  # noqa: E402
from orpheus_plugin.tokens.phrases import CacheOptions  # noqa: E402

GREETING = "Hello, this is the front desk. How can I help you today?"
PHRASES = [
    "One moment, please. I am looking that up for you.",
    "Is there anything else that I can do for you?",
    "I am sorry, I did not catch that. Could you say it again?",
    "Thank you for your patience.",
    "Breakfast is served from seven until half past ten.",
    "You can check in from three in the afternoon.",
]
GOODBYE = "Thank you for calling. Have a nice day."
NAMES = [
    "Ada",
    "Grace",
    "Alan",
    "Edsger",
    "Barbara",
    "Donald",
    "Frances",
    "Kathleen",
    "Claude",
    "Emmy",
    "Leslie",
    "Tony",
]
TEMPLATES = [
    "I have found your booking, {name}. It is for {n} nights from the {day}th.",
    "The room costs {price} dollars a night, and it is free from {hour} o'clock on.",
    "{name}, your table for {n} is booked for {hour} o'clock.",
    "A taxi to the station takes about {minutes} minutes and costs {price} dollars.",
    "I have written down room {room} for {name}.",
]


def call(random_: random.Random) -> list[str]:
    """The turns of one call."""
    said = [GREETING]
    for _ in range(random_.randint(2, 5)):
        new = random_.choice(TEMPLATES).format(
            name=random_.choice(NAMES),
            n=random_.randint(2, 9),
            day=random_.randint(4, 19),
            price=random_.randint(20, 300),
            hour=random_.randint(1, 12),
            minutes=random_.randint(5, 50),
            room=random_.randint(101, 640),
        )
        if random_.random() < 0.5:
            said.append(f"{random_.choice(PHRASES)} {new}")
        else:
            said.append(random_.choice([new, random_.choice(PHRASES)]))
    return [*said, GOODBYE]


async def speak(engine: LocalEngine, text: str) -> tuple[float, float]:
    """Seconds of audio, and to the first of it from the first text."""
    seconds, first = 0.0, 0.0
    began = time.perf_counter()
    async with engine.open_turn() as turn:
        for word in text.split(" "):
            turn.push_text(word + " ")
        turn.end()
        async for event in turn:
            if isinstance(event, AudioChunk):
                first = first or time.perf_counter() - began
                seconds += event.duration_s
    return seconds, first


async def day(calls: int, cache: CacheOptions | None) -> dict[str, Any]:
    config = EngineConfig(model="mini", device="cpu", ahead_s=None, cache=cache)
    engine = LocalEngine(config)
    await engine.start()
    random_ = random.Random(1)
    firsts: list[float] = []
    hits: list[float] = []
    total = 0.0
    began = time.perf_counter()
    cpu = time.process_time()
    for _ in range(calls):
        for text in call(random_):
            misses = engine.load().cache_misses
            seconds, first = await speak(engine, text)
            total += seconds
            firsts.append(first)
            if cache is not None and engine.load().cache_misses == misses:
                hits.append(first)
    load = engine.load()
    found: dict[str, Any] = {
        "turns": len(firsts),
        "seconds_of_audio": total,
        "seconds_of_work": time.perf_counter() - began,
        "seconds_of_cpu": time.process_time() - cpu,
        "first_sound_p50_ms": 1e3 * statistics.median(firsts),
        "first_sound_p95_ms": 1e3 * statistics.quantiles(firsts, n=20)[-1],
    }
    if hits:
        found |= {
            "share_of_seconds_from_the_cache": load.cached_s / total,
            "turns_all_from_the_cache": len(hits),
            "first_sound_of_those_p50_ms": 1e3 * statistics.median(hits),
            "first_sound_of_those_p95_ms": 1e3 * statistics.quantiles(hits, n=20)[-1],
            "cache_kib": load.cache_bytes / 1024,
        }
    await engine.aclose()
    return found


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_save_option(parser)
    parser.add_argument("--calls", type=int, default=60)
    options = parser.parse_args()
    primed = CacheOptions(takes=2, prime=(GREETING, *PHRASES, GOODBYE))
    days = {
        "without": await day(options.calls, None),
        "with": await day(options.calls, primed),
    }
    for name, found in days.items():
        print(f"{name} the cache:")
        for key, value in found.items():
            print(f"  {key.replace('_', ' ')}: {value:.3g}")
    save("phrase_cache", {"calls": options.calls, **days})


if __name__ == "__main__":
    asyncio.run(main())
