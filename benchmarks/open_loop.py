"""Turns that come whether or not the last ones are over: `python benchmarks/open_loop.py`.

Turns arrive at random moments (Poisson) at a given rate, as calls do, and each listener plays from the first sample on.
For each rate, of all turns that arrived:

* first playable: from the arrival to the first samples; first audible: to the first 10 ms louder than 0.01 (RMS);
* C50, C100, C200: the share of turns whose worst underrun is at most so many milliseconds; a refused turn is in none;
* seconds of speech a second, and how many turns were open at once.

The largest rate with C100 of at least 99 % is the capacity. Several rounds of a rate give its spread.

    python benchmarks/open_loop.py --model DIR --codec DIR --rates 2 4 8 --seconds 30
    python benchmarks/open_loop.py --url http://127.0.0.1:8089 --rates 2 4 8
    python benchmarks/open_loop.py --rates 2 4 8 --serve --replicas 2 --mps ...    a server with these options
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import save  # noqa: E402
from benchmarks.server_process import server_process  # noqa: E402
from orpheus_plugin.engine.config import EngineConfig  # noqa: E402
from orpheus_plugin.engine.local import LocalEngine  # noqa: E402
from orpheus_plugin.errors import OrpheusError  # noqa: E402
from orpheus_plugin.remote.engine import RemoteEngine  # noqa: E402
from orpheus_plugin.turn import SAMPLE_RATE, AudioChunk, SpeechEngine  # noqa: E402

TEXTS = (
    "Your order is on its way, and it should be with you by tomorrow evening.",
    "I have found two flights that may suit you. The first one leaves in the morning.",
    "Yes, of course.",
    "Could you please tell me your name, and the number of your booking, so that I can look it up for you?",
)
LOUD = 0.01
WINDOW = SAMPLE_RATE // 100


@dataclass(frozen=True)
class Heard:
    """One turn, in seconds; None for what never came."""

    first: float | None
    audible: float | None
    worst_underrun: float
    spoken: float
    refused: bool


async def hear(engine: SpeechEngine, text: str) -> Heard:
    """Speak a text and play it as it comes."""
    began = time.perf_counter()
    first: float | None = None
    audible: float | None = None
    played_until = worst = spoken = 0.0
    try:
        async with engine.open_turn() as turn:
            turn.push_text(text)
            turn.end()
            async for event in turn:
                if not isinstance(event, AudioChunk):
                    continue
                now = time.perf_counter()
                if first is None:
                    first, played_until = now - began, now
                worst = max(worst, now - played_until)
                if audible is None and (offset := loud_after(event.pcm)) is not None:
                    audible = max(now, played_until) + offset - began
                played_until = max(now, played_until) + event.duration_s
                spoken += event.duration_s
    except OrpheusError:
        return Heard(first, audible, worst, spoken, refused=True)
    return Heard(first, audible, worst, spoken, refused=False)


def loud_after(pcm: bytes) -> float | None:
    """Seconds into a chunk (s16le) at which its first loud window begins."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
    for start in range(0, len(samples), WINDOW):
        window = samples[start : start + WINDOW]
        if np.sqrt(np.mean(window**2)) > LOUD:
            return start / SAMPLE_RATE
    return None


async def offer(engine: SpeechEngine, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """`rate` turns a second for so long, then what remains of them."""
    draw = random.Random(seed)
    began = time.perf_counter()
    tasks: list[asyncio.Task[Heard]] = []
    most = 0
    due = draw.expovariate(rate)
    while due < seconds:
        await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
        tasks.append(asyncio.create_task(hear(engine, draw.choice(TEXTS))))
        most = max(most, sum(not task.done() for task in tasks))
        due += draw.expovariate(rate)
    heard = await asyncio.gather(*tasks)
    return summary(heard, time.perf_counter() - began) | {"most_at_once": most}


def summary(heard: Sequence[Heard], wall: float) -> dict[str, Any]:
    def ms(values: list[float], share: float) -> float | None:
        ordered = sorted(values)
        return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    first = [one.first for one in heard if one.first is not None]
    audible = [one.audible for one in heard if one.audible is not None]
    within = {
        f"c{limit}": sum(not one.refused and one.worst_underrun <= limit / 1e3 for one in heard)
        / max(1, len(heard))
        for limit in (50, 100, 200)
    }
    return {
        "turns": len(heard),
        "refused": sum(one.refused for one in heard),
        "first_ms_p50": ms(first, 0.5),
        "first_ms_p95": ms(first, 0.95),
        "audible_ms_p50": ms(audible, 0.5),
        "audible_ms_p95": ms(audible, 0.95),
        **within,
        "speech_s_per_s": sum(one.spoken for one in heard) / wall,
    }


HEADING = """| rate, turns/s | turns, refused, at once | first playable p50, p95 ms | audible p50, p95 ms | C50, C100, C200 | s of speech a second |
|---|---|---|---|---|---|"""


def show(rate: float, row: dict[str, Any]) -> None:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.0f}"

    print(
        f"| {rate:g} | {row['turns']}, {row['refused']}, {row['most_at_once']}"
        f" | {number(row['first_ms_p50'])}, {number(row['first_ms_p95'])}"
        f" | {number(row['audible_ms_p50'])}, {number(row['audible_ms_p95'])}"
        f" | {row['c50']:.1%}, {row['c100']:.1%}, {row['c200']:.1%} | {row['speech_s_per_s']:.1f} |",
        flush=True,
    )


async def rising(
    engine: SpeechEngine, rates: Sequence[float], seconds: float, rounds: int
) -> dict[str, Any]:
    """Each rate in turn, until hardly anybody is served well."""
    print(HEADING)
    found: dict[str, list[dict[str, Any]]] = {}
    for rate in rates:
        found[f"{rate:g}"] = []
        for number in range(rounds):
            row = await offer(engine, rate, seconds, seed=number)
            found[f"{rate:g}"].append(row)
            show(rate, row)
        if max(row["c100"] for row in found[f"{rate:g}"]) < 0.5:
            break
    good = [rate for rate, rows in found.items() if min(row["c100"] for row in rows) >= 0.99]
    return {"rates": found, "capacity_turns_per_s": max(map(float, good), default=0.0)}


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--url", help="a server, in place of an engine of this process")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, help="options of a server to start")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--codec", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--max-turns", type=int)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.25, 0.5, 1, 2, 4, 8, 16, 32])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", default="open_loop")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = args.url
        if args.serve is not None:
            url = stack.enter_context(server_process(*args.serve)).url
        engine: SpeechEngine
        if url:
            engine = RemoteEngine(url)
        else:
            config = EngineConfig(
                model=args.model, codec=args.codec, device=args.device, max_turns=args.max_turns
            )
            engine = LocalEngine(config)
        await engine.start()
        try:
            found = await rising(engine, args.rates, args.seconds, args.rounds)
            print(f"capacity: {found['capacity_turns_per_s']:g} turns a second")
            figures = {"engine": engine.health().model, "seconds": args.seconds, **found}
            save(args.out, figures)
        finally:
            await engine.aclose()


if __name__ == "__main__":
    asyncio.run(main())
