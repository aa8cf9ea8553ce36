"""How many listeners one machine serves, and their time to first audio:
`python benchmarks/capacity.py`.

N turns begin together on one LocalEngine. Each listener plays from the first sample on. For each N:
milliseconds to the first samples, the share of listeners with underruns and the longest silence,
and seconds of speech per second. The capacity is the largest N at which at most one listener in
twenty has an underrun.

    python benchmarks/capacity.py --model DIR --codec DIR     default: what the engine chooses
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.report import add_save_option, save  # noqa: E402
from orpheus_plugin.engine.config import EngineConfig  # noqa: E402
from orpheus_plugin.engine.local import LocalEngine  # noqa: E402
from orpheus_plugin.events import AudioChunk  # noqa: E402
from orpheus_plugin.options import SpeechOptions  # noqa: E402

TEXT = (
    "Your order is on its way, and it should be with you by tomorrow evening."
    " Is there anything else?"
)


@dataclass(frozen=True)
class Listener:
    """What one listener heard, in seconds."""

    first: float
    silence: float
    spoken: float


async def listen(engine: LocalEngine) -> Listener:
    began = time.perf_counter()
    first = played_until = silence = spoken = 0.0
    async with engine.open_turn(SpeechOptions()) as turn:
        turn.push_text(TEXT)
        turn.end()
        async for event in turn:
            if not isinstance(event, AudioChunk):
                continue
            now = time.perf_counter()
            length = event.samples / 24_000
            if not spoken:
                first = now - began
            elif now > played_until:
                silence += now - played_until
            played_until = max(now, played_until if spoken else now) + length
            spoken += length
    return Listener(first, silence, spoken)


async def together(engine: LocalEngine, streams: int) -> dict[str, Any]:
    began = time.perf_counter()
    listeners = await asyncio.gather(*(listen(engine) for _ in range(streams)))
    wall = time.perf_counter() - began
    first = sorted(1e3 * listener.first for listener in listeners)
    silences = [listener.silence for listener in listeners]
    return {
        "first_ms_p50": statistics.median(first),
        "first_ms_p95": first[min(streams - 1, int(0.95 * streams))],
        "with_underruns": sum(silence > 0.005 for silence in silences) / streams,
        "longest_silence_ms": 1e3 * max(silences),
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
            row = figures["streams"][streams] = await together(engine, streams)
            show(streams, row)
            if row["with_underruns"] <= 0.05:
                capacity = streams
            elif row["with_underruns"] > 0.5:
                break
    finally:
        await engine.aclose()
    figures["capacity"] = capacity
    print(f"capacity: {capacity} of the numbers tried")
    save(args.out, figures)


if __name__ == "__main__":
    asyncio.run(main())
