"""How many listeners one machine serves, and their time to first audio:
`python benchmarks/capacity.py`.

N turns begin together on one LocalEngine. Each listener plays from the first sample on. For each N:
milliseconds to the first samples, the share of listeners with underruns and the longest silence,
and seconds of speech per second. The capacity is the largest N at which at most one listener in
twenty has an underrun.

With `--seconds S`, N callers who begin at random say a text, listen to it, and say the next, for S
seconds: turns are at all stages at once, as in calls. An underrun is then one of more than 100 ms,
and the capacity the largest N at which at most one turn in a hundred has one (C100 >= 0.99).

    python benchmarks/capacity.py --model DIR --codec DIR     default: what the engine chooses
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import add_save_option, save  # noqa: E402
from orpheus_plugin.engine.config import EngineConfig  # noqa: E402
from orpheus_plugin.engine.local import LocalEngine  # noqa: E402
from orpheus_plugin.engine.playout import PlayoutClock  # noqa: E402
from orpheus_plugin.events import SAMPLE_RATE, AudioChunk  # noqa: E402
from orpheus_plugin.options import SpeechOptions  # noqa: E402

TEXT = (
    "Your order is on its way, and it should be with you by tomorrow evening."
    " Is there anything else?"
)


@dataclass(frozen=True)
class Listener:
    """What one listener heard of a turn, in seconds: all gaps together, the longest one; `ends` is
    when the last sample is played."""

    first: float
    silence: float
    worst: float
    spoken: float
    ends: float


async def listen(engine: LocalEngine) -> Listener:
    began = time.perf_counter()
    clock = PlayoutClock(time.perf_counter)
    first = silence = worst = spoken = 0.0
    async with engine.open_turn(SpeechOptions()) as turn:
        turn.push_text(TEXT)
        turn.end()
        async for event in turn:
            if not isinstance(event, AudioChunk):
                continue
            first = first or time.perf_counter() - began
            gap = clock.play(event.samples / SAMPLE_RATE)
            silence += gap
            worst = max(worst, gap)
            spoken += event.samples / SAMPLE_RATE
    return Listener(first, silence, worst, spoken, clock.ends_at)


async def together(engine: LocalEngine, streams: int) -> dict[str, Any]:
    began = time.perf_counter()
    listeners = await asyncio.gather(*(listen(engine) for _ in range(streams)))
    underruns = sum(listener.silence > 0.005 for listener in listeners)
    return row(listeners, underruns, time.perf_counter() - began)


async def in_calls(engine: LocalEngine, callers: int, seconds: float) -> dict[str, Any]:
    began = time.perf_counter()
    turns: list[Listener] = []

    async def caller(number: int) -> None:
        chance = random.Random(number)
        await asyncio.sleep(3 * chance.random())
        while time.perf_counter() < began + seconds:
            turns.append(await listen(engine))
            pause = 0.5 * chance.random()
            await asyncio.sleep(max(0.0, turns[-1].ends - time.perf_counter()) + pause)

    await asyncio.gather(*map(caller, range(callers)))
    underruns = sum(turn.worst > 0.1 for turn in turns)
    return row(turns, underruns, time.perf_counter() - began)


def row(listeners: Sequence[Listener], underruns: int, wall: float) -> dict[str, Any]:
    count = len(listeners)
    first = sorted(1e3 * listener.first for listener in listeners)
    return {
        "first_ms_p50": statistics.median(first),
        "first_ms_p95": first[min(count - 1, int(0.95 * count))],
        "with_underruns": underruns / count,
        "longest_silence_ms": 1e3 * max(listener.silence for listener in listeners),
        "speech_s_per_s": sum(listener.spoken for listener in listeners) / wall,
    }


HEADING = """| listeners | first sound p50, p95 ms | underruns | longest silence, ms | RTFx |
|---|---|---|---|---|"""


def show(streams: int, row: dict[str, Any]) -> None:
    print(
        f"| {streams} | {row['first_ms_p50']:.0f}, {row['first_ms_p95']:.0f}"
        f" | {row['with_underruns']:.0%} | {row['longest_silence_ms']:.0f}"
        f" | {row['speech_s_per_s']:.1f} |",
        flush=True,
    )


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_save_option(parser)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--codec", type=Path)
    parser.add_argument("--generator", default="auto", choices=["auto", "cpu", "torch", "vllm"])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=0.0, help="of calls; 0: one turn each")
    parser.add_argument("--out", default="capacity")
    args = parser.parse_args()
    engine = LocalEngine(
        EngineConfig(
            model=args.model,
            codec=args.codec,
            generator=args.generator,
            max_turns=max(args.streams),
            measure=False,
        )
    )
    began = time.perf_counter()
    await engine.start()
    figures: dict[str, Any] = {
        "model": args.model,
        "engine": engine.health().generator,
        "start_s": time.perf_counter() - began,
        "streams": {},
    }
    print(HEADING)
    capacity = 0
    try:
        await together(engine, min(args.streams))
        for streams in args.streams:
            if args.seconds:
                found = await in_calls(engine, streams, args.seconds)
            else:
                found = await together(engine, streams)
            figures["streams"][streams] = found
            show(streams, found)
            if found["with_underruns"] <= (0.01 if args.seconds else 0.05):
                capacity = streams
            elif found["with_underruns"] > 0.5:
                break
    finally:
        await engine.aclose()
    figures["capacity"] = capacity
    print(f"capacity: {capacity} of the numbers tried")
    save(args.out, figures)


if __name__ == "__main__":
    asyncio.run(main())
